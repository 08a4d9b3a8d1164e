"""The device's end where the device is another program's: nothing is known of it but where it is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from vnet.ends.base import Figures

__all__ = ["ForeignEnd"]


@attrs.frozen(eq=False)
class ForeignEnd:
    """Behind a socket."""

    socket: str

    @property
    def settings(self) -> object:
        """No driver of ours asks."""
        return None

    @property
    def live(self) -> bool:
        """As far as anybody can tell from here: the driver's side says whether it is reached."""
        return True

    def figures(self, queue: int) -> Figures:
        return Figures(0, 0, {})

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        return iter(())

    def describe(self) -> dict[str, object]:
        return {"kind": "vhost-user", "socket": self.socket, "live": self.live}
