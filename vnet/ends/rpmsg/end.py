"""The ends of an rpmsg device: channels, and the surface by which programs use each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from drivers.devices.rpmsg import (
    Endpoint,
    EndpointStatistics,
    MediatedRpmsgPlug,
    RpmsgBus,
    RpmsgConfig,
    RpmsgMediator,
    RpmsgPlug,
    RpmsgSettings,
)
from vnet.ends.base import Figures, OpenContext, SideName, traffic_figures
from vnet.ends.rpmsg.spec import SURFACES, ChannelSpec, RpmsgEndSpec, RpmsgSpec
from vnet.errors import ConfigError
from vnet.linux.background import open_background
from vnet.ports.rpmsg.surface import Surface
from vnet.views.ends import EndView
from vnet.views.rpmsg import EndpointView, RpmsgView, ServiceView

__all__ = ["Channel", "RpmsgEnd", "mediate_rpmsg", "open_rpmsg"]


@attrs.frozen(eq=False)
class Channel:
    """An open channel: its endpoint and its surface."""

    spec: ChannelSpec
    endpoint: Endpoint
    surface: Surface
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Ends the surface."""


@attrs.frozen(eq=False)
class Channels:
    """The open channels of one end."""

    bus: RpmsgBus
    nursery: trio.Nursery
    """Runs the surfaces."""
    open: list[Channel] = attrs.field(factory=list)

    async def add(self, spec: ChannelSpec) -> Channel:
        """Open a channel. Raises RpmsgError if its address is in use, OSError if its path is."""
        surface = SURFACES[spec.surface][0](Path(spec.path or ""))
        channel = Channel(spec, self.bus.create(spec.name, addr=spec.addr, inbox=spec.inbox), surface)
        try:
            await self.nursery.start(_serve, channel)
        except OSError:
            channel.endpoint.close()
            raise
        self.open.append(channel)
        return channel

    def remove(self, addr: int) -> None:
        """Close the channel with this address; do nothing if there is none."""
        for channel in [channel for channel in self.open if channel.endpoint.addr == addr]:
            self.open.remove(channel)
            channel.scope.cancel()
            channel.endpoint.close()


async def _serve(channel: Channel, task_status: trio.TaskStatus[None]) -> None:
    with channel.scope:
        await channel.surface.serve(channel.endpoint, task_status)


@attrs.frozen(eq=False)
class RpmsgEnd:
    """One end: its rpmsg bus and its channels."""

    fixed = ""
    requests = None
    units = None
    side: SideName
    """Whether the end has a driver or a device; with a mediator, both ends have drivers."""
    settings: RpmsgSettings | RpmsgPlug
    _channels: Channels

    @property
    def channels(self) -> Sequence[Channel]:
        """The open channels."""
        return self._channels.open

    async def open_channel(self, spec: ChannelSpec) -> int:
        """Open a channel, and return its address. Raises RpmsgError, OSError if its path is in use."""
        return (await self._channels.add(spec)).endpoint.addr

    def close_channel(self, addr: int) -> None:
        """Close the channel with this address; do nothing if there is none."""
        self._channels.remove(addr)

    @property
    def bus(self) -> RpmsgBus:
        return self.settings.bus

    @property
    def live(self) -> bool:
        return self.bus.liveness.live

    def watch(self, changed: Callable[[], object]) -> None:
        self.bus.liveness.watch(changed)

    def figures(self, queue: int) -> Figures:
        """Return the figures of a queue: 0 is the driver's receiveq, 1 its transmitq."""
        traffic = self.bus.sent if (self.side == "driver") == bool(queue) else self.bus.received
        return traffic_figures(traffic)

    def drops(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        yield "sent", self.bus.sent.drops
        yield "received", self.bus.received.drops
        for channel in self.channels:
            yield f"{channel.spec.name} {channel.surface.kind}", channel.surface.drops

    def snapshot(self) -> EndView:
        statistics = self.bus.statistics()
        surfaces = {channel.endpoint.addr: channel for channel in self.channels}
        return RpmsgView(
            "rpmsg",
            self.live,
            max_payload=statistics.max_payload,
            services=tuple(ServiceView(name, addr) for addr, name in statistics.services.items()),
            endpoints=tuple(_endpoint(own, surfaces.get(own.addr)) for own in statistics.endpoints),
            unsent=statistics.unsent,
            resets=statistics.resets,
        )


def _endpoint(figures: EndpointStatistics, channel: Channel | None) -> EndpointView:
    if channel is None:
        return EndpointView(figures, None, None, {})
    return EndpointView(figures, channel.surface.kind, channel.spec.path, dict(channel.surface.drops))


def _addresses(end: RpmsgEndSpec) -> frozenset[int]:
    """Return the addresses that the topology gives to channels."""
    return frozenset(channel.addr for channel in end.channels if channel.addr is not None)


@asynccontextmanager
async def open_rpmsg(context: OpenContext[RpmsgSpec]) -> AsyncIterator[tuple[RpmsgEnd, RpmsgEnd]]:
    """Open both ends and serve their channels, which are announced once the device runs. Raises ConfigError."""
    spec = context.spec
    buses: dict[SideName, RpmsgBus] = {
        "driver": RpmsgBus(_addresses(spec.driver), address_service=spec.address_service),
        "device": RpmsgBus(_addresses(spec.device), address_service=spec.address_service),
    }
    async with open_background() as nursery:
        channels = {side: Channels(bus, nursery) for side, bus in buses.items()}
        for side, index, channel in spec.ends():
            try:
                await channels[side].add(channel)
            except OSError as exc:
                where = f"devices.{context.name}.{side}.channels[{index}].path"
                raise ConfigError("topology", where, channel.path, exc.strerror or str(exc)) from None
        settings = RpmsgSettings(buses["driver"], context.features)
        bus, served = buses["device"], channels["device"]
        if spec.mode == "mediated":
            second = RpmsgEnd("driver", RpmsgSettings(bus, spec.local_features), served)
        else:
            config = RpmsgConfig(spec.to_driver, spec.to_device)
            second = RpmsgEnd("device", RpmsgPlug(bus, context.features, spec.queue_size, config), served)
        yield RpmsgEnd("driver", settings, channels["driver"]), second


def mediate_rpmsg(context: OpenContext[RpmsgSpec], names: tuple[str, str]) -> RpmsgMediator:
    """Return the mediator between the two devices with these ``names``."""
    spec = context.spec
    offered = (
        (context.features, RpmsgConfig(spec.to_driver, spec.to_device)),
        (spec.local_features, spec.local),
    )
    return RpmsgMediator(
        {
            name: MediatedRpmsgPlug(features, spec.queue_size, config)
            for name, (features, config) in zip(names, offered, strict=True)
        }
    )
