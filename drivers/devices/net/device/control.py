"""The control queue of vhost-net: each command is executed, then answered, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from drivers.bus.vhost import DeviceQueue
from drivers.devices.net.coalescing import Coalescing, Direction, QueueCoalescing
from drivers.devices.net.control import ACK_ERR, ACK_OK, COMMAND_MAX, MacTable, NetCommand, Value, parse
from drivers.devices.net.device.coalescing import CallCoalescers
from drivers.devices.net.filter import Reception
from drivers.devices.net.flow import ControlFigures
from drivers.devices.net.statistics import COUNTED, QueueCounts, QueueTypes, emit_types
from drivers.devices.net.steering import HashConfig, RssConfig
from drivers.questions.answer import AnswerFlow
from rings.chain import Chain, copy_in, copy_out, total
from rings.errors import BadChain

__all__ = ["NetCommandTarget", "VhostNetControlFlow"]


class NetCommandTarget(Protocol):
    """A device that executes commands. Methods return False, and change nothing, if the device refuses the command."""

    @property
    def reception(self) -> Reception: ...

    def set_reception(self, reception: Reception) -> bool:
        """Filter received frames by ``reception``, from the next frame on."""

    def set_mac(self, mac: bytes) -> bool:
        """Set the MAC address of the driver's station."""

    def set_pairs(self, count: int) -> bool:
        """Use only the first ``count`` queue pairs, with automatic steering."""

    def set_rss(self, config: RssConfig) -> bool:
        """Steer received frames to the queue pairs by their hash."""

    def set_hash(self, config: HashConfig) -> bool:
        """Report the hashes of received frames, with automatic steering."""

    def set_offloads(self, features: int) -> bool:
        """Restrict the offloads of frames to the driver to these feature bits."""

    def acknowledge_announcement(self) -> bool:
        """Note that the driver has announced its station."""

    @property
    def coalescers(self) -> CallCoalescers:
        """Parameters of the data queues."""

    def statistics(self, index: int) -> QueueCounts | None:
        """Return the counters of the queue with this index; None if there is no such queue."""


Answer = bool | bytes
"""Whether a command was executed, or its result."""
Action = Callable[[NetCommandTarget, Value], Answer]
"""Executes a command with this value; returns False if the device refuses it."""
V = TypeVar("V")


def _with(kind: type[V], act: Callable[[NetCommandTarget, V], Answer]) -> Action:
    """Return an action for values of this type, which refuses others."""
    return lambda device, value: isinstance(value, kind) and act(device, value)


def _switch(name: str) -> Action:
    return lambda device, value: device.set_reception(device.reception.evolve(**{name: value}))


def _set_table(device: NetCommandTarget, table: MacTable) -> bool:
    return device.set_reception(device.reception.evolve(unicast=table.unicast, multicast=table.multicast))


def _add_vlan(device: NetCommandTarget, vlan: int) -> bool:
    return device.set_reception(device.reception.evolve(vlans=(device.reception.vlans or frozenset()) | {vlan}))


def _remove_vlan(device: NetCommandTarget, vlan: int) -> bool:
    return device.set_reception(device.reception.evolve(vlans=(device.reception.vlans or frozenset()) - {vlan}))


def _coalesce(direction: Direction) -> Action:
    return _with(Coalescing, lambda device, parameters: device.coalescers.set_all(direction, parameters))


def _coalesce_queue(device: NetCommandTarget, queue: QueueCoalescing) -> bool:
    return device.coalescers.set_one(queue.index, queue.parameters)


def _queue_coalescing(device: NetCommandTarget, index: int) -> Answer:
    parameters = device.coalescers.get(index)
    return parameters is not None and parameters.emit()


def _statistics(device: NetCommandTarget, requests: tuple[QueueTypes, ...]) -> Answer:
    """Return the counters of all queues; one bad request fails the command (section 5.1.9.5.11.12)."""
    replies = []
    for request in requests:
        counts = device.statistics(request.index)
        if counts is None or request.types & ~(1 << counts.type):
            return False
        replies += [counts.emit()] if request.types else []
    return b"".join(replies)


ACTIONS: Mapping[NetCommand, Action] = {
    NetCommand.PROMISC: _switch("promisc"),
    NetCommand.ALLMULTI: _switch("allmulti"),
    NetCommand.ALLUNI: _switch("alluni"),
    NetCommand.NOMULTI: _switch("nomulti"),
    NetCommand.NOUNI: _switch("nouni"),
    NetCommand.NOBCAST: _switch("nobcast"),
    NetCommand.MAC_TABLE_SET: _with(MacTable, _set_table),
    NetCommand.MAC_ADDR_SET: _with(bytes, lambda device, mac: device.set_mac(mac)),
    NetCommand.VLAN_ADD: _with(int, _add_vlan),
    NetCommand.VLAN_DEL: _with(int, _remove_vlan),
    NetCommand.ANNOUNCE_ACK: lambda device, _: device.acknowledge_announcement(),
    NetCommand.VQ_PAIRS_SET: _with(int, lambda device, count: device.set_pairs(count)),
    NetCommand.RSS_CONFIG: _with(RssConfig, lambda device, config: device.set_rss(config)),
    NetCommand.HASH_CONFIG: _with(HashConfig, lambda device, config: device.set_hash(config)),
    NetCommand.GUEST_OFFLOADS_SET: _with(int, lambda device, features: device.set_offloads(features)),
    NetCommand.COAL_TX_SET: _coalesce(Direction.TX),
    NetCommand.COAL_RX_SET: _coalesce(Direction.RX),
    NetCommand.COAL_VQ_SET: _with(QueueCoalescing, _coalesce_queue),
    NetCommand.COAL_VQ_GET: _with(int, _queue_coalescing),
    NetCommand.STATS_QUERY: lambda device, _: emit_types(COUNTED),
    NetCommand.STATS_GET: _with(tuple, _statistics),
}
PARTIAL = frozenset({NetCommand.STATS_GET})
"""Commands whose result is cut to the room for it."""


class VhostNetControlFlow(AnswerFlow):
    """The flow of the control queue: executes and answers each command."""

    def __init__(self, queue: DeviceQueue, device: NetCommandTarget, features: int, counts: ControlFigures) -> None:
        super().__init__(queue, self._answer_command)
        self._device = device
        self._features = features
        self._counts = counts

    def _answer_command(self, chain: Chain) -> int:
        """Execute a command. Raises BadChain if there is no byte for the answer: its driver would wait for ever."""
        head, readable, writable = chain
        if not writable:
            raise BadChain(head, "the chain has no byte for the answer")
        size = total(readable)
        control = parse(copy_out(readable, COMMAND_MAX), self._features) if size <= COMMAND_MAX else None
        answer = control is not None and ACTIONS[control.command](self._device, control.value)
        result = answer if isinstance(answer, bytes) else b""
        fits = total(writable) > len(result) or (control is not None and control.command in PARTIAL)
        executed = answer is not False and fits
        self._counts.count(size, executed=executed)
        return copy_in(writable, bytes((ACK_OK,)) + result if executed else bytes((ACK_ERR,)))
