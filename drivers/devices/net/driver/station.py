"""Requested settings, the settings of the interface, and the commands that bring the device to both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs
import trio

from drivers.bus.virtio import VirtioDevice
from drivers.contracts.ports import Offloads, PacketPort
from drivers.devices.net.coalescing import NO_COALESCING, Coalescing, Direction, QueueCoalescing
from drivers.devices.net.control import TABLE_MAX, NetCommand, NetControl, changes
from drivers.devices.net.driver.control import VirtioNetControlQueue
from drivers.devices.net.filter import Reception
from drivers.devices.net.hashing import HashType
from drivers.devices.net.layout import HASHED, NetFeature, device_offloads, offload_features
from drivers.devices.net.statistics import (
    PART,
    PART_SIZE,
    TYPES_SIZE,
    QueueTypes,
    parse_replies,
    parse_types,
    types_of,
)
from drivers.devices.net.steering import KEY, HashConfig, RssConfig, fill_table
from drivers.errors import CommandRefused
from rings.features import bits

__all__ = ["HashLimits", "NetRequest", "NetRequestHolder", "QueuePairs", "Station"]

F = NetFeature
UNTAGGED = 0
"""VLAN id in the tag of a frame that has only a priority."""


@attrs.frozen
class NetRequest:
    """Requested settings of a device. The defaults receive all multicast, and use all pairs and offloads."""

    mac: bytes | None = None
    """6 bytes; None for the device's own."""
    reception: Reception = attrs.field(factory=lambda: Reception(allmulti=True))
    """Frames to receive besides those that the interface requests. All multicast by default: the interface does not
    report its groups."""
    pairs: int | None = None
    """Number of queue pairs; None for as many as device and interface have."""
    offloads: Offloads | None = None
    """Offloads of frames from the device; None for all negotiated ones."""
    table: tuple[int, ...] = ()
    """Queue pairs in turn, from 0 on, for receive-side scaling; empty for automatic steering."""
    unclassified: int = 0
    """Queue pair of frames that receive-side scaling does not hash."""
    hash_types: int | None = None
    """Bitmap of `HashType`; None for all that the device has."""
    hash_key: bytes = KEY
    """Key of the hashes, at most 40 bytes."""
    coalescing: Mapping[tuple[Direction, int | None], Coalescing] = attrs.field(factory=dict)
    """Notification coalescing by direction, of all queues (None) or of a pair's alone; the others are not coalesced."""


@attrs.frozen
class HashLimits:
    """Limits of a device that hashes frames, from its configuration."""

    table: int = 0
    """Entries of the longest indirection table."""
    types: int = 0
    """Bitmap of the types of packets that it hashes; a type that we do not know is left out."""


class QueuePairs(Protocol):
    """The owner of the queue pairs."""

    @property
    def max_pairs(self) -> int:
        """Maximum number of usable queue pairs."""

    def prepare(self, count: int) -> None:
        """Allocate buffers for ``count`` pairs. Raises MemoryError."""

    def use(self, count: int) -> None:
        """Send only on the first ``count`` pairs. Raises PortGone."""


class NetRequestHolder(Protocol):
    """Holds the requested settings across resets, and the port."""

    request: NetRequest
    port: PacketPort


class Station:
    """One device from DRIVER_OK to reset: knows the device's settings, and sends commands to change them."""

    def __init__(
        self,
        device: VirtioDevice,
        control: VirtioNetControlQueue | None,
        mac: bytes,
        pairs: QueuePairs,
        holder: NetRequestHolder,
        limits: HashLimits,
    ) -> None:
        """``mac``: the device's address at DRIVER_OK."""
        self._limits = limits
        self._holder = holder
        self._control = control
        self._device = device
        self._features = device.features
        self._has = device.has
        self._port = holder.port
        self._pairs = pairs
        self._lock = trio.Lock()
        unfiltered = not self._has(F.CTRL_RX)
        self.mac = mac if self._has(F.MAC) else b""
        """Address that the device lets in; empty if it has none for the driver (section 5.1.4)."""
        self.own = mac
        """Address of the station; a device that cannot change ``mac`` has to let it in as an additional address."""
        self.reception = Reception(
            allmulti=unfiltered, alluni=unfiltered, vlans=frozenset() if self._has(F.CTRL_VLAN) else None
        )
        self.pairs_used = 1
        """Number of queue pairs in use."""
        self.rss: RssConfig | None = None
        """Parameters of receive-side scaling that the device has; None for automatic steering."""
        self.hashing = HashConfig(0, b"")
        """Parameters of hashes that the device has."""
        self.offloads = device_offloads(device.features)
        self._common = dict.fromkeys(Direction, NO_COALESCING)
        self.coalescing: dict[int, Coalescing] = {}
        """Notification coalescing by index of the queue, of the queues that have any."""

    async def follow(self) -> None:
        """Bring the device to the requested settings and those of its interface.

        Settings that the device refuses are left; if it refuses a filter, it receives everything. Raises NeedsReset,
        TransportLost, PortGone.
        """
        async with self._lock:
            state, holder = self._port.state, self._holder
            if state.mac is not None and state.mac != (holder.request.mac or self.own):
                holder.request = attrs.evolve(holder.request, mac=state.mac)
            await self._apply(holder.request, strict=False)

    async def change(self, request: NetRequest) -> None:
        """Bring the device to new settings, and hold them. Raises CommandRefused, and what `follow` raises."""
        async with self._lock:
            await self._apply(request, strict=True)
            self._holder.request = request

    async def _apply(self, request: NetRequest, *, strict: bool) -> None:
        own = await self._apply_mac(request.mac, strict)
        await self._apply_reception(request.reception, own, strict)
        await self._apply_offloads(request.offloads, strict)
        await self._apply_pairs(request, strict)
        await self._apply_hash(request, strict)
        await self._apply_coalescing(request.coalescing, strict)

    async def acknowledge(self) -> None:
        """Acknowledge a request of the device for an announcement."""
        await self._execute(NetControl(NetCommand.ANNOUNCE_ACK), strict=False)

    async def _execute(self, control: NetControl, strict: bool) -> bool:
        """Send a command if its feature was negotiated (section 5.1.9.5). Returns whether the device executed it."""
        why = "the device refused it"
        if self._control is None or not self._has(control.command.feature):
            why = f"{control.command.feature.name} was not negotiated"
        elif await self._control.execute(control):
            return True
        if strict:
            raise CommandRefused(why)
        return False

    async def _apply_mac(self, wanted: bytes | None, strict: bool) -> bytes:
        """Set the station's address. Returns the address in use."""
        if wanted is None or wanted == self.own:
            return self.own
        # A device that keeps its own address can let in an additional one.
        additional = self._has(F.CTRL_RX) and not self._has(F.CTRL_MAC_ADDR)
        if not additional and await self._execute(NetControl(NetCommand.MAC_ADDR_SET, wanted), strict):
            self.mac = wanted
        if self._port.state.mac != wanted:
            self._port.set_mac(wanted)
        self.own = wanted
        await self._port.announce()
        return wanted

    async def _apply_reception(self, requested: Reception, own: bytes, strict: bool) -> None:
        state = self._port.state
        vlans: frozenset[int] | None = None
        if self._has(F.CTRL_VLAN):
            vlans = (requested.vlans or frozenset()) | (state.vlans or frozenset()) | {UNTAGGED}
        elif strict and requested.vlans is not None:
            raise CommandRefused("CTRL_VLAN was not negotiated")
        target = requested.evolve(
            promisc=requested.promisc or state.promisc,
            allmulti=requested.allmulti or state.allmulti,
            unicast=requested.unicast | ({own} - {self.mac}),
            vlans=vlans,
        )
        if len(target.unicast) > TABLE_MAX or len(target.multicast) > TABLE_MAX:
            target = target.evolve(promisc=True, unicast=frozenset(), multicast=frozenset())
        if not self._has(F.CTRL_RX):
            target = target.evolve(
                promisc=False, allmulti=True, alluni=True, unicast=frozenset(), multicast=frozenset()
            )
            if strict and (requested.promisc or requested.unicast or requested.multicast):
                raise CommandRefused("CTRL_RX was not negotiated")
        for control, after in changes(self.reception, target):
            if await self._execute(control, strict):
                self.reception = after
            elif control.command in (NetCommand.MAC_TABLE_SET, NetCommand.VLAN_ADD):
                if await self._execute(NetControl(NetCommand.PROMISC, True), strict=False):
                    self.reception = self.reception.evolve(promisc=True)
                return

    async def _apply_offloads(self, requested: Offloads | None, strict: bool) -> None:
        negotiated = device_offloads(self._features)
        target = negotiated if requested is None else requested & negotiated
        if strict and requested is not None and target != requested:
            more = [name for name, on in attrs.asdict(requested).items() if on and not getattr(negotiated, name)]
            raise CommandRefused(f"not negotiated: {', '.join(more)}")
        if target != self.offloads:
            bits = offload_features(target, from_driver=False) & self._features
            if await self._execute(NetControl(NetCommand.GUEST_OFFLOADS_SET, bits), strict):
                self.offloads = target

    def _wanted_rss(self, request: NetRequest, count: int, strict: bool) -> RssConfig | None:
        """Return parameters of receive-side scaling for so many pairs in use; None for automatic steering.

        A device without MQ has several pairs only by receive-side scaling.
        """
        table = request.table
        if not self._has(F.RSS):
            if strict and table:
                raise CommandRefused("RSS was not negotiated")
            return None
        if not table and (self._has(F.MQ) or count == 1):
            return None
        beyond = [pair for pair in (*table, request.unclassified) if pair >= count]
        if strict and beyond:
            raise CommandRefused(f"queue pair {beyond[0] + 1} is not in use: only {count} are")
        table = tuple(pair for pair in table if pair < count) or tuple(range(count))
        unclassified = request.unclassified if request.unclassified < count else 0
        config = HashConfig(self._hash_types(request, strict), request.hash_key)
        return RssConfig(config, fill_table(table, self._limits.table), unclassified, count)

    def _hash_types(self, request: NetRequest, strict: bool) -> int:
        """Return the types of packets to hash: those of the request that the device has."""
        wanted = self._limits.types if request.hash_types is None else request.hash_types
        if strict and wanted & ~self._limits.types:
            names = ", ".join(HashType(bit).name.lower() for bit in bits(wanted & ~self._limits.types))
            raise CommandRefused(f"the device does not hash {names}")
        return wanted & self._limits.types

    async def _apply_pairs(self, request: NetRequest, strict: bool) -> None:
        pairs, requested = self._pairs, request.pairs
        count = min(requested or pairs.max_pairs, pairs.max_pairs)
        if strict and requested is not None and requested > pairs.max_pairs:
            number = "one queue pair" if pairs.max_pairs == 1 else f"{pairs.max_pairs} queue pairs"
            raise CommandRefused(f"the device has {number}")
        rss = self._wanted_rss(request, count, strict)
        if (count, rss) == (self.pairs_used, self.rss):
            return
        try:
            pairs.prepare(count)
        except MemoryError as exc:
            if strict:
                raise CommandRefused(f"no memory for buffers: {exc}") from None
            return
        # From the command on, nothing may be sent on the pairs that it turns off (section 5.1.9.5.6.1).
        pairs.use(min(count, self.pairs_used))
        # The last of these commands decides how the device steers (section 5.1.9.5.5).
        command = NetCommand.VQ_PAIRS_SET if rss is None else NetCommand.RSS_CONFIG
        if await self._execute(NetControl(command, count if rss is None else rss), strict=False):
            self.pairs_used, self.rss = count, rss
            self.hashing = self.hashing if rss is None else rss.hash
        elif strict:
            pairs.use(self.pairs_used)
            raise CommandRefused("the device refused it")
        pairs.use(self.pairs_used)

    async def ask_statistics(self) -> dict[int, dict[str, int]]:
        """Return the device's counters by index of the queue and by name.

        Asks only for types that the device has (section 5.1.9.5.11.13). Raises CommandRefused, and what `follow` does.
        """
        async with self._lock:
            types = parse_types(await self._query(NetControl(NetCommand.STATS_QUERY), TYPES_SIZE))
            control = self._device.queues[-1].index
            wanted = [QueueTypes(index, types & types_of(index, control)) for index in range(control + 1)]
            wanted = [request for request in wanted if request.types]
            counts: dict[int, dict[str, int]] = {}
            for at in range(0, len(wanted), PART):
                part = tuple(wanted[at : at + PART])
                answer = await self._query(NetControl(NetCommand.STATS_GET, part), PART_SIZE)
                for reply in parse_replies(answer, part):
                    counts.setdefault(reply.index, {}).update(reply.by_name)
            return counts

    async def _query(self, control: NetControl, size: int) -> bytes:
        """Return the result of at most ``size`` bytes of a command. Raises CommandRefused, and what `follow` does."""
        if self._control is None or not self._has(control.command.feature):
            raise CommandRefused(f"{control.command.feature.name} was not negotiated")
        result = await self._control.query(control, size)
        if result is None:
            raise CommandRefused("the device refused it")
        return result

    async def _apply_hash(self, request: NetRequest, strict: bool) -> None:
        """Have the device report the hashes of frames; under receive-side scaling it does already."""
        if strict and not self._features & HASHED and (request.hash_types, request.hash_key) != (None, KEY):
            raise CommandRefused("neither RSS nor HASH_REPORT was negotiated")
        if not self._has(F.HASH_REPORT) or self.rss is not None:
            return
        wanted = HashConfig(self._hash_types(request, strict), request.hash_key)
        if wanted != self.hashing and await self._execute(NetControl(NetCommand.HASH_CONFIG, wanted), strict):
            self.hashing = wanted

    @property
    def report_types(self) -> int:
        """Bitmap of the types of packets whose hash the device reports."""
        return self.hashing.types if self._has(F.HASH_REPORT) else 0

    async def queue_enabled(self, index: int) -> None:
        """Bring a queue that was reset alone to the requested settings; it has those of its direction."""
        async with self._lock:
            self._note(index, self._common[Direction(index % 2)])
            await self._apply_coalescing(self._holder.request.coalescing, strict=False)

    async def _apply_coalescing(
        self, requested: Mapping[tuple[Direction, int | None], Coalescing], strict: bool
    ) -> None:
        count = self._pairs.max_pairs
        if strict and (pair := max((pair or 0 for _, pair in requested), default=0)) >= count:
            raise CommandRefused(f"there is no queue pair {pair + 1}: the device has {count}")
        by_queue = self._has(F.VQ_NOTF_COAL) and not self._has(F.NOTF_COAL)
        for direction, command in ((Direction.RX, NetCommand.COAL_RX_SET), (Direction.TX, NetCommand.COAL_TX_SET)):
            common, indices = requested.get((direction, None), NO_COALESCING), range(direction, 2 * count, 2)
            differs = common != self._common[direction] and not by_queue
            if differs and await self._execute(NetControl(command, common), strict):
                self._common[direction] = common
                for index in indices:
                    self._note(index, common)
            for index in indices:
                own = requested.get((direction, index // 2), common)
                if own != self.coalescing.get(index, NO_COALESCING):
                    await self._coalesce_queue(QueueCoalescing(index, own), strict)

    async def _coalesce_queue(self, queue: QueueCoalescing, strict: bool) -> None:
        """Set the parameters of one queue, and note those that the device then has, which may differ."""
        if await self._execute(NetControl(NetCommand.COAL_VQ_SET, queue), strict):
            assert self._control is not None
            result = await self._control.query(NetControl(NetCommand.COAL_VQ_GET, queue.index), Coalescing.SIZE)
            self._note(queue.index, Coalescing.parse(result or b"") or queue.parameters)

    def _note(self, index: int, parameters: Coalescing) -> None:
        self.coalescing.pop(index, None)
        if parameters.on:
            self.coalescing[index] = parameters
