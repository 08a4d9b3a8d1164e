"""How virtio-net has its device used: what is wished, what the interface wants, and the commands for both."""

from __future__ import annotations

from typing import Protocol

import attrs
import trio

from drivers.contracts.ports import Offloads, PacketPort
from drivers.devices.net.control import TABLE_MAX, Command, Control, changes
from drivers.devices.net.driver.control import ControlQueue
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import NetFeature, device_offloads, offload_features
from drivers.errors import CommandRefused

__all__ = ["Pairs", "Station", "Wishes", "Wishing"]

F = NetFeature
UNTAGGED = 0
"""The id in the tag of a frame that has a priority only."""


@attrs.frozen
class Wishes:
    """How a device shall be used. The defaults let in what no interface is asked about, and use all there is."""

    mac: bytes | None = None
    """6 bytes; None is the device's own."""
    reception: Reception = attrs.field(factory=lambda: Reception(allmulti=True))
    """What to let in besides what the interface itself asks for. Who listens to which group nobody says."""
    pairs: int | None = None
    """Pairs of queues; None is as many as device and interface have."""
    offloads: Offloads | None = None
    """What frames from the device may leave undone; None is all that was agreed on."""


class Pairs(Protocol):
    """Whoever has the pairs of queues."""

    @property
    def limit(self) -> int:
        """Most that can be used."""

    def prepare(self, count: int) -> None:
        """Have buffers for so many. Raises MemoryError."""

    def use(self, count: int) -> None:
        """Send on the first ``count`` only. Raises PortGone."""


class Wishing(Protocol):
    """Whoever keeps the wishes over resets."""

    wishes: Wishes


class Station:
    """One device from DRIVER_OK to reset: knows what the device was told, and tells it what is different."""

    def __init__(
        self,
        control: ControlQueue | None,
        features: int,
        port: PacketPort,
        mac: bytes,
        pairs: Pairs,
        wishing: Wishing,
    ) -> None:
        """``mac`` is what the device has come up with."""
        self._wishing = wishing
        self._control = control
        self._features = features
        self._port = port
        self._pairs = pairs
        self._lock = trio.Lock()
        everybody = not self._has(F.CTRL_RX)
        self.mac = mac if self._has(F.MAC) else b""
        """As the device knows it; empty if the device has none for the driver (section 5.1.4)."""
        self.own = mac
        """The station's own, which a device that can't be told has to let in as another one."""
        self.reception = Reception(
            allmulti=everybody, alluni=everybody, vlans=frozenset() if self._has(F.CTRL_VLAN) else None
        )
        self.used = 1
        """Pairs in use."""
        self.offloads = device_offloads(features)

    def _has(self, feature: NetFeature) -> bool:
        return bool(self._features >> feature & 1)

    async def follow(self) -> None:
        """Make of the device what is wished, and what its interface wants now.

        What can't be is left, and a filter that the device refuses is opened. Raises NeedsReset, TransportLost,
        PortGone.
        """
        async with self._lock:
            state, wishing = self._port.state, self._wishing
            if state.mac is not None and state.mac != (wishing.wishes.mac or self.own):
                wishing.wishes = attrs.evolve(wishing.wishes, mac=state.mac)
            await self._adopt(wishing.wishes, strict=False)

    async def change(self, wishes: Wishes) -> None:
        """Make of the device what is wished now, and keep it. Raises CommandRefused, and what `follow` raises."""
        async with self._lock:
            await self._adopt(wishes, strict=True)
            self._wishing.wishes = wishes

    async def _adopt(self, wishes: Wishes, *, strict: bool) -> None:
        own = await self._adopt_mac(wishes.mac, strict)
        await self._adopt_reception(wishes.reception, own, strict)
        await self._adopt_offloads(wishes.offloads, strict)
        await self._adopt_pairs(wishes.pairs, strict)

    async def acknowledge(self) -> None:
        """Say that it was announced where we are."""
        await self._ask(Control(Command.ANNOUNCE_ACK), strict=False)

    async def _ask(self, control: Control, strict: bool) -> bool:
        """Whether the device did it. A command whose feature was not agreed on is never sent (section 5.1.9.5)."""
        why = "the device refused it"
        if self._control is None or not self._has(control.command.feature):
            why = f"{control.command.feature.name} was not agreed on"
        elif await self._control.ask(control):
            return True
        if strict:
            raise CommandRefused(why)
        return False

    async def _adopt_mac(self, wanted: bytes | None, strict: bool) -> bytes:
        """The station's own address then."""
        if wanted is None or wanted == self.own:
            return self.own
        # A device that keeps its own address can still let in another one.
        instead = self._has(F.CTRL_RX) and not self._has(F.CTRL_MAC_ADDR)
        if not instead and await self._ask(Control(Command.MAC_ADDR_SET, wanted), strict):
            self.mac = wanted
        if self._port.state.mac != wanted:
            self._port.set_mac(wanted)
        self.own = wanted
        await self._port.announce()
        return wanted

    async def _adopt_reception(self, wished: Reception, own: bytes, strict: bool) -> None:
        state = self._port.state
        vlans: frozenset[int] | None = None
        if self._has(F.CTRL_VLAN):
            vlans = (wished.vlans or frozenset()) | (state.vlans or frozenset()) | {UNTAGGED}
        elif strict and wished.vlans is not None:
            raise CommandRefused("CTRL_VLAN was not agreed on")
        target = wished.evolve(
            promisc=wished.promisc or state.promisc,
            allmulti=wished.allmulti or state.allmulti,
            unicast=wished.unicast | ({own} - {self.mac}),
            vlans=vlans,
        )
        if len(target.unicast) > TABLE_MAX or len(target.multicast) > TABLE_MAX:
            target = target.evolve(promisc=True, unicast=frozenset(), multicast=frozenset())
        if not self._has(F.CTRL_RX):
            target = target.evolve(
                promisc=False, allmulti=True, alluni=True, unicast=frozenset(), multicast=frozenset()
            )
            if strict and (wished.promisc or wished.unicast or wished.multicast):
                raise CommandRefused("CTRL_RX was not agreed on")
        for control, after in changes(self.reception, target):
            if await self._ask(control, strict):
                self.reception = after
            elif control.command in (Command.MAC_TABLE_SET, Command.VLAN_ADD):
                if await self._ask(Control(Command.PROMISC, True), strict=False):
                    self.reception = self.reception.evolve(promisc=True)
                return

    async def _adopt_offloads(self, wished: Offloads | None, strict: bool) -> None:
        agreed = device_offloads(self._features)
        target = agreed if wished is None else wished & agreed
        if strict and wished is not None and target != wished:
            more = [name for name, wanted in attrs.asdict(wished).items() if wanted and not getattr(agreed, name)]
            raise CommandRefused(f"not all of it was agreed on: {', '.join(more)}")
        if target != self.offloads:
            bits = offload_features(target, from_driver=False) & self._features
            if await self._ask(Control(Command.GUEST_OFFLOADS_SET, bits), strict):
                self.offloads = target

    async def _adopt_pairs(self, wished: int | None, strict: bool) -> None:
        pairs = self._pairs
        count = min(wished or pairs.limit, pairs.limit)
        if strict and wished is not None and wished > pairs.limit:
            raise CommandRefused("there is one pair" if pairs.limit == 1 else f"there are {pairs.limit} pairs")
        if count == self.used:
            return
        try:
            pairs.prepare(count)
        except MemoryError as exc:
            if strict:
                raise CommandRefused(f"no memory for buffers: {exc}") from None
            return
        # Nothing may be sent on the others from the moment on that the command is given (section 5.1.9.5.6.1).
        pairs.use(min(count, self.used))
        if await self._ask(Control(Command.VQ_PAIRS_SET, count), strict=False):
            self.used = count
        elif strict:
            pairs.use(self.used)
            raise CommandRefused("the device refused it")
        pairs.use(self.used)
