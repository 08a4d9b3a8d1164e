"""Options of ``vnet serve rpmsg``."""

from __future__ import annotations

from collections.abc import Sequence

from vnet.ends.rpmsg.spec import ChannelSpec, RpmsgSpec
from vnet.ends.serve import VALUE, Serve, ServeOption, table

__all__ = ["SERVE"]


def _channels(given: Sequence[str]) -> list[dict[str, object]]:
    return [table(ChannelSpec, text) for text in given]


SERVE = Serve[RpmsgSpec](
    (
        ServeOption(
            "--channel",
            {"device.channels": VALUE},
            "Channel that the device announces, such as name=rpmsg-client-sample,surface=echo; more keys are path (for "
            "surface pty or socket), addr, inbox. Repeatable.",
            metavar="KEY=VALUE,...",
            repeatable=True,
            make=_channels,
        ),
    ),
)
