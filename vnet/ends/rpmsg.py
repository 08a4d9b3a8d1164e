"""The ends of an rpmsg device: channels, and the surface by which programs use each of them."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import attrs

from drivers.devices.rpmsg import (
    Endpoint,
    MediatedRpmsgPlug,
    RpmsgBus,
    RpmsgConfig,
    RpmsgFeature,
    RpmsgMediator,
    RpmsgPlug,
    RpmsgSettings,
)
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.driver.driver import host_memory
from drivers.devices.rpmsg.layout import AS_ADDR, MAX_BUFFER, MIN_BUFFER, NS_ADDR, check_name, is_endpoint_addr
from drivers.errors import RpmsgError
from vnet.ends.base import Figures, OpenContext, Side
from vnet.errors import ConfigError
from vnet.linux.background import open_background
from vnet.ports.rpmsg.pty import PtySurface
from vnet.ports.rpmsg.socket import SocketSurface
from vnet.ports.rpmsg.surface import EchoSurface, Surface
from vnet.spec import PATH_RULE, PeerSpec, Problem, file_key, fits_socket, must

__all__ = ["SURFACES", "Channel", "ChannelSpec", "RpmsgEnd", "RpmsgEndSpec", "RpmsgSpec", "mediate_rpmsg", "open_rpmsg"]

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


@attrs.frozen
class RpmsgEndSpec:
    """One end of an rpmsg device."""

    channels: tuple[ChannelSpec, ...] = ()
    """Channels that this end creates."""


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

    def ends(self) -> Iterator[tuple[Side, int, ChannelSpec]]:
        """Yield (side, index, channel) for every channel."""
        for index, channel in enumerate(self.driver.channels):
            yield "driver", index, channel
        for index, channel in enumerate(self.device.channels):
            yield "device", index, channel

    def features_off_mask(self, off: tuple[str, ...] | None = None) -> int:
        return super().features_off_mask(off) | (not self.address_service) << RpmsgFeature.AS

    @property
    def local(self) -> RpmsgConfig:
        """Buffer sizes of the local driver, with the defaults filled in (mediated mode)."""
        return RpmsgConfig(self.local_to_driver or self.to_device, self.local_to_device or self.to_driver)

    def memory(self) -> int:
        return host_memory(self.queue_size, RpmsgConfig(self.to_driver, self.to_device))

    def local_memory(self) -> int:
        return host_memory(self.queue_size, self.local)

    def clash(self) -> Problem | None:
        for field in ("local_to_driver", "local_to_device"):
            if self.mode == "direct" and getattr(self, field) is not None:
                return field, getattr(self, field), "requires mode = 'mediated': only there is a local driver"
        for side, end in (("driver", self.driver), ("device", self.device)):
            if len(end.channels) > MAX_ENDPOINTS:
                return f"{side}.channels", len(end.channels), f"must be at most {MAX_ENDPOINTS} channels"
        taken: set[tuple[str, int]] = set()
        for side, index, channel in self.ends():
            field = f"{side}.channels[{index}]"
            if bool(SURFACES[channel.surface][1]) != (channel.path is not None):
                presence = "absent" if channel.path is not None else "given"
                return f"{field}.path", channel.path, f"must be {presence} for surface {channel.surface}"
            if channel.addr == AS_ADDR and self.address_service:
                return f"{field}.addr", channel.addr, "already used by the address service (address_service = true)"
            if channel.addr is not None:
                if (side, channel.addr) in taken:
                    return f"{field}.addr", channel.addr, "already used by another channel of this end"
                taken.add((side, channel.addr))
        return super().clash()

    def paths(self) -> Iterator[Path]:
        return (Path(channel.path) for _, _, channel in self.ends() if channel.path is not None)

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for side, index, channel in self.ends():
            if channel.path is not None:
                yield f"{side}.channels[{index}].path", ("file", file_key(channel.path))
        yield from super().claims(hosts)

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        at = dict(zip(("driver", "device"), hosts, strict=True))
        for side, _, channel in self.ends():
            for hint in SURFACES[channel.surface][1]:
                path = shlex.quote(str(Path(channel.path or "").absolute()))
                yield f"{hint.format(path)}    # {name}, {channel.name} on {at[side]}"


@attrs.frozen(eq=False)
class Channel:
    """An open channel of a topology: its endpoint and its surface."""

    spec: ChannelSpec
    endpoint: Endpoint
    surface: Surface


@attrs.frozen(eq=False)
class RpmsgEnd:
    """One end: its rpmsg bus and its channels."""

    side: Side
    """Whether the end has a driver or a device; with a mediator, both ends have drivers."""
    settings: RpmsgSettings | RpmsgPlug
    channels: tuple[Channel, ...]

    @property
    def bus(self) -> RpmsgBus:
        return self.settings.bus

    @property
    def live(self) -> bool:
        return self.bus.online

    def figures(self, queue: int) -> Figures:
        """Return the figures of a queue: 0 is the driver's receiveq, 1 its transmitq."""
        traffic = self.bus.sent if (self.side == "driver") == bool(queue) else self.bus.received
        return Figures(traffic.packets, traffic.bytes, dict(traffic.drops))

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        yield "sent", self.bus.sent.drops
        yield "received", self.bus.received.drops
        for channel in self.channels:
            yield f"{channel.spec.name} {channel.surface.kind}", channel.surface.drops

    def describe(self) -> dict[str, object]:
        statistics = self.bus.statistics()
        surfaces = {channel.endpoint.addr: channel for channel in self.channels}
        return {
            "kind": "rpmsg",
            "live": self.live,
            "max_payload": statistics.max_payload,
            "services": [{"name": name, "addr": addr} for addr, name in statistics.services.items()],
            "endpoints": [
                {**attrs.asdict(endpoint), **_describe_surface(surfaces.get(endpoint.addr))}
                for endpoint in statistics.endpoints
            ],
            "unsent": statistics.unsent,
            "resets": statistics.resets,
        }


def _describe_surface(channel: Channel | None) -> dict[str, object]:
    if channel is None:
        return {"surface": None, "path": None, "untaken": {}}
    return {"surface": channel.surface.kind, "path": channel.spec.path, "untaken": dict(channel.surface.drops)}


def _addresses(end: RpmsgEndSpec) -> frozenset[int]:
    """Return the addresses that the topology gives to channels."""
    return frozenset(channel.addr for channel in end.channels if channel.addr is not None)


@asynccontextmanager
async def open_rpmsg(context: OpenContext) -> AsyncIterator[tuple[RpmsgEnd, RpmsgEnd]]:
    """Open both ends and serve their channels, which are announced once the device runs. Raises ConfigError."""
    spec = context.spec
    assert isinstance(spec, RpmsgSpec)
    buses: dict[Side, RpmsgBus] = {
        "driver": RpmsgBus(_addresses(spec.driver), address_service=spec.address_service),
        "device": RpmsgBus(_addresses(spec.device), address_service=spec.address_service),
    }
    channels: dict[Side, list[Channel]] = {"driver": [], "device": []}
    async with open_background() as nursery:
        for side, index, channel in spec.ends():
            surface = SURFACES[channel.surface][0](Path(channel.path or ""))
            endpoint = buses[side].create(channel.name, addr=channel.addr, inbox=channel.inbox)
            try:
                await nursery.start(surface.serve, endpoint)
            except OSError as exc:
                where = f"devices.{context.name}.{side}.channels[{index}].path"
                raise ConfigError("topology", where, channel.path, exc.strerror or str(exc)) from None
            channels[side].append(Channel(channel, endpoint, surface))
        settings = RpmsgSettings(buses["driver"], context.features)
        bus, served = buses["device"], tuple(channels["device"])
        if spec.mode == "mediated":
            second = RpmsgEnd("driver", RpmsgSettings(bus, spec.local_features(context.supported)), served)
        else:
            config = RpmsgConfig(spec.to_driver, spec.to_device)
            second = RpmsgEnd("device", RpmsgPlug(bus, context.features, spec.queue_size, config), served)
        yield RpmsgEnd("driver", settings, tuple(channels["driver"])), second


def mediate_rpmsg(context: OpenContext, names: tuple[str, str]) -> RpmsgMediator:
    """Return the mediator between the two devices with these ``names``."""
    spec = context.spec
    assert isinstance(spec, RpmsgSpec)
    offered = (
        (context.features, RpmsgConfig(spec.to_driver, spec.to_device)),
        (spec.local_features(context.supported), spec.local),
    )
    return RpmsgMediator(
        {
            name: MediatedRpmsgPlug(features, spec.queue_size, config)
            for name, (features, config) in zip(names, offered, strict=True)
        }
    )
