"""Records of an rpmsg device and its channels in a topology, and their checks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

import attrs

from drivers.devices.rpmsg import RPMSG, RpmsgConfig, RpmsgFeature
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.driver.driver import host_memory
from drivers.devices.rpmsg.layout import AS_ADDR, MAX_BUFFER, MIN_BUFFER, NS_ADDR, check_name, is_endpoint_addr
from drivers.errors import RpmsgError
from vnet.ends.base import SideName
from vnet.errors import FieldError, Keys
from vnet.ports.rpmsg.pty import PtySurface
from vnet.ports.rpmsg.socket import SocketSurface
from vnet.ports.rpmsg.surface import EchoSurface, Surface
from vnet.spec import PATH_RULE, PeerSpec, file_key, fits_socket, must

__all__ = ["SURFACES", "ChannelSpec", "RpmsgEndSpec", "RpmsgSpec", "surface_problem"]

SURFACES: Mapping[str, tuple[Callable[[Path], Surface], tuple[str, ...]]] = {
    "none": (lambda path: Surface(), ()),
    "echo": (lambda path: EchoSurface(), ()),
    "pty": (PtySurface, ("screen {}", "cat {}", "echo hello > {}")),
    "socket": (SocketSurface, ("socat - UNIX-CONNECT:{},type=5",)),
}
"""Constructor and shell commands to try it, by kind of surface. Only surfaces with commands have a path."""


def _is_name(text: str) -> bool:
    try:
        return bool(check_name(text))
    except RpmsgError:
        return False


@attrs.frozen
class ChannelSpec:
    """A channel at one end."""

    name: str = attrs.field(validator=must(_is_name, "1 to 31 printable ASCII characters"))
    """Name of the channel; channels with the same name at both ends are joined."""
    surface: Literal["none", "echo", "pty", "socket"] = "none"
    """How programs use the channel: pty is a terminal, socket a SOCK_SEQPACKET unix socket, echo sends each message
    back, none leaves the channel to the Python API."""
    path: str | None = attrs.field(default=None, validator=must(fits_socket, PATH_RULE))
    """Path of the terminal or socket, required for these surfaces."""
    addr: int | None = attrs.field(
        default=None,
        validator=must(lambda v: is_endpoint_addr(v, (NS_ADDR,)), "a 32-bit address other than 53 and 4294967295"),
    )
    """Address of the channel's endpoint. Default: a free address from 1024 on."""
    inbox: int = attrs.field(default=256, validator=must(lambda v: 1 <= v <= 65536, "between 1 and 65536"))
    """Largest number of received messages that wait for the program."""


def surface_problem(channel: ChannelSpec) -> str | None:
    """Return why the surface of a channel and its path do not go together; None if they do."""
    if bool(SURFACES[channel.surface][1]) == (channel.path is not None):
        return None
    return f"must be {'absent' if channel.path is not None else 'given'} for surface {channel.surface}"


@attrs.frozen
class RpmsgEndSpec:
    """One end of an rpmsg device."""

    channels: tuple[ChannelSpec, ...] = ()
    """Channels that this end creates."""

    def in_memory(self) -> Self:
        """Return the end whose channels have no terminals and sockets."""
        return attrs.evolve(
            self,
            channels=tuple(
                channel if channel.path is None else attrs.evolve(channel, surface="none", path=None)
                for channel in self.channels
            ),
        )


def _is_buffer(size: int) -> bool:
    return MIN_BUFFER <= size <= MAX_BUFFER


BUFFER_RULE = f"between {MIN_BUFFER} and {MAX_BUFFER} (bytes)"


@attrs.frozen
class RpmsgSpec(PeerSpec):
    """An rpmsg device; ``queue_size`` is the number of its buffers in each direction."""

    to_driver: int = attrs.field(default=512, validator=must(_is_buffer, BUFFER_RULE))
    """Size of a buffer for messages to the driver in bytes, 16 of which are the message's header."""
    to_device: int = attrs.field(default=512, validator=must(_is_buffer, BUFFER_RULE))
    """Size of a buffer for messages to the device in bytes, 16 of which are the message's header."""
    local_to_driver: int | None = attrs.field(default=None, validator=must(_is_buffer, BUFFER_RULE))
    """In mediated mode, size in bytes of a buffer for messages to the local driver. Default: ``to_device``."""
    local_to_device: int | None = attrs.field(default=None, validator=must(_is_buffer, BUFFER_RULE))
    """In mediated mode, size in bytes of a buffer for messages from the local driver. Default: ``to_driver``."""
    address_service: bool = False
    """Whether feature bit 1 is offered and accepted as the address service of the 2020 RFC. Linux uses the bit for
    buffer sizes, NuttX for acknowledged announcements: set it only if both ends belong to this project."""
    driver: RpmsgEndSpec = RpmsgEndSpec()
    """Driver end: its channels."""
    device: RpmsgEndSpec = RpmsgEndSpec()
    """Device end: its channels."""

    virtio = RPMSG

    def ends(self) -> Iterator[tuple[SideName, int, ChannelSpec]]:
        """Yield (side, index, channel) for every channel of this system."""
        for index, channel in enumerate(self.driver.channels if self.driven else ()):
            yield "driver", index, channel
        for index, channel in enumerate(() if self.elsewhere == "device" else self.device.channels):
            yield "device", index, channel

    def features_off_mask(self, off: tuple[str, ...] | None = None) -> int:
        return super().features_off_mask(off) | (not self.address_service) << RpmsgFeature.AS

    @property
    def local(self) -> RpmsgConfig:
        """Buffer sizes of the local driver, with the defaults filled in (mediated mode)."""
        return RpmsgConfig(self.local_to_driver or self.to_device, self.local_to_device or self.to_driver)

    def in_memory(self) -> Self:
        return attrs.evolve(self, driver=self.driver.in_memory(), device=self.device.in_memory())

    def memory(self) -> int:
        return host_memory(self.queue_size, RpmsgConfig(self.to_driver, self.to_device))

    def local_memory(self) -> int:
        return host_memory(self.queue_size, self.local)

    def problems(self) -> Iterator[FieldError]:
        for field in ("local_to_driver", "local_to_device"):
            if self.mode == "direct" and getattr(self, field) is not None:
                why = "requires mode = 'mediated': only there is a local driver"
                yield FieldError((field,), getattr(self, field), why)
        for side, end in (("driver", self.driver), ("device", self.device)):
            if len(end.channels) > MAX_ENDPOINTS:
                why = f"must be at most {MAX_ENDPOINTS} channels"
                yield FieldError((side, "channels"), len(end.channels), why)
        taken: set[tuple[str, int]] = set()
        for side, index, channel in self.ends():
            where = (side, "channels", index)
            problem = surface_problem(channel)
            if problem is not None:
                yield FieldError((*where, "path"), channel.path, problem)
            if channel.addr == AS_ADDR and self.address_service:
                why = "already used by the address service (address_service = true)"
                yield FieldError((*where, "addr"), channel.addr, why)
            if channel.addr is not None:
                if (side, channel.addr) in taken:
                    why = "already used by another channel of this end"
                    yield FieldError((*where, "addr"), channel.addr, why)
                taken.add((side, channel.addr))
        yield from super().problems()

    def paths(self) -> Iterator[Path]:
        return (Path(channel.path) for _, _, channel in self.ends() if channel.path is not None)

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        for side, index, channel in self.ends():
            if channel.path is not None:
                yield (side, "channels", index, "path"), ("file", file_key(channel.path))
        yield from super().claims(hosts)

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        at = dict(zip(("driver", "device"), hosts, strict=True))
        for side, _, channel in self.ends():
            for hint in SURFACES[channel.surface][1]:
                path = shlex.quote(str(Path(channel.path or "").absolute()))
                yield f"{hint.format(path)}    # {name}, {channel.name} on {at[side]}"
