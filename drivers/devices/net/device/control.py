"""vhost-net's end of the control queue: each command is carried out, then answered, in the order they came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from drivers.bus.vhost import DeviceQueue
from drivers.devices.net.control import ACK_ERR, ACK_OK, COMMAND_MAX, Command, Control, MacTable, Value, parse
from drivers.devices.net.filter import Reception
from drivers.devices.net.flow import ControlFigures
from drivers.errors import PortGone
from drivers.flow.pump import Need
from rings.chain import copy_in, copy_out, total
from rings.errors import BadChain

__all__ = ["Commanded", "ControlFlow"]

BUDGET = 16
"""Commands per batch."""


class Commanded(Protocol):
    """What commands change of a device. What can't be is refused by False, and nothing was changed then."""

    @property
    def reception(self) -> Reception: ...

    def receive(self, reception: Reception) -> bool:
        """Let in what this says, and nothing else, from the next frame on."""

    def take_mac(self, mac: bytes) -> bool:
        """The driver's station has another address."""

    def use_pairs(self, count: int) -> bool:
        """Use the first ``count`` pairs of queues only."""

    def use_offloads(self, features: int) -> bool:
        """Leave undone in frames to the driver only what these feature bits say."""

    def announced(self) -> bool:
        """The driver told its network where it is."""


def _switch(name: str) -> Callable[[Commanded, Value], bool]:
    return lambda device, value: device.receive(device.reception.evolve(**{name: value}))


def _table(device: Commanded, value: Value) -> bool:
    assert isinstance(value, MacTable)
    return device.receive(device.reception.evolve(unicast=value.unicast, multicast=value.multicast))


def _vlan(add: bool) -> Callable[[Commanded, Value], bool]:
    def run(device: Commanded, value: Value) -> bool:
        vlans = device.reception.vlans or frozenset()
        return device.receive(device.reception.evolve(vlans=vlans | {value} if add else vlans - {value}))

    return run


def _mac(device: Commanded, value: Value) -> bool:
    assert isinstance(value, bytes)
    return device.take_mac(value)


def _pairs(device: Commanded, value: Value) -> bool:
    assert isinstance(value, int)
    return device.use_pairs(value)


def _offloads(device: Commanded, value: Value) -> bool:
    assert isinstance(value, int)
    return device.use_offloads(value)


ACTIONS: Mapping[Command, Callable[[Commanded, Value], bool]] = {
    Command.PROMISC: _switch("promisc"),
    Command.ALLMULTI: _switch("allmulti"),
    Command.ALLUNI: _switch("alluni"),
    Command.NOMULTI: _switch("nomulti"),
    Command.NOUNI: _switch("nouni"),
    Command.NOBCAST: _switch("nobcast"),
    Command.MAC_TABLE_SET: _table,
    Command.MAC_ADDR_SET: _mac,
    Command.VLAN_ADD: _vlan(add=True),
    Command.VLAN_DEL: _vlan(add=False),
    Command.ANNOUNCE_ACK: lambda device, _: device.announced(),
    Command.VQ_PAIRS_SET: _pairs,
    Command.GUEST_OFFLOADS_SET: _offloads,
}


class ControlFlow:
    """The flow of the control queue: what comes in is answered in place, and nothing goes any further."""

    def __init__(
        self,
        queue: DeviceQueue,
        device: Commanded,
        features: int,
        figures: ControlFigures,
        gone: Callable[[PortGone], None],
    ) -> None:
        self.queue = queue
        self.on_port_gone = gone
        self._device = device
        self._features = features
        self._figures = figures

    def move(self) -> tuple[int, Need]:
        """Raises BadChain where an answer has no place: such a driver waits for ever."""
        ring = self.queue.ring
        if ring is None:
            return 0, Need.QUEUE
        for moved in range(BUDGET):
            chain = ring.getdesc()
            if chain is None:
                return moved, Need.QUEUE
            head, readable, writable = chain
            if not writable:
                raise BadChain(head, "there is no byte for the answer")
            size = total(readable)
            done = size <= COMMAND_MAX and self._execute(parse(copy_out(readable, COMMAND_MAX), self._features))
            if done:
                self._figures.commands += 1
            else:
                self._figures.refused += 1
            self._figures.bytes += size
            copy_in(writable, bytes((ACK_OK if done else ACK_ERR,)))
            ring.complete(head, 1)
        return BUDGET, Need.TURN

    def _execute(self, control: Control | None) -> bool:
        return control is not None and ACTIONS[control.command](self._device, control.value)

    async def wait(self, need: Need) -> None:
        raise AssertionError(f"a control queue needs no {need}")
