"""The control queue of vhost-net: each command is executed, then answered, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from drivers.bus.vhost import DeviceQueue
from drivers.devices.net.control import ACK_ERR, ACK_OK, COMMAND_MAX, MacTable, NetCommand, NetControl, Value, parse
from drivers.devices.net.filter import Reception
from drivers.devices.net.flow import ControlFigures
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
        """Use only the first ``count`` queue pairs."""

    def set_offloads(self, features: int) -> bool:
        """Restrict the offloads of frames to the driver to these feature bits."""

    def acknowledge_announcement(self) -> bool:
        """Note that the driver has announced its station."""


def _switch(name: str) -> Callable[[NetCommandTarget, Value], bool]:
    return lambda device, value: device.set_reception(device.reception.evolve(**{name: value}))


def _table(device: NetCommandTarget, value: Value) -> bool:
    assert isinstance(value, MacTable)
    return device.set_reception(device.reception.evolve(unicast=value.unicast, multicast=value.multicast))


def _vlan(add: bool) -> Callable[[NetCommandTarget, Value], bool]:
    def run(device: NetCommandTarget, value: Value) -> bool:
        vlans = device.reception.vlans or frozenset()
        return device.set_reception(device.reception.evolve(vlans=vlans | {value} if add else vlans - {value}))

    return run


def _mac(device: NetCommandTarget, value: Value) -> bool:
    assert isinstance(value, bytes)
    return device.set_mac(value)


def _pairs(device: NetCommandTarget, value: Value) -> bool:
    assert isinstance(value, int)
    return device.set_pairs(value)


def _offloads(device: NetCommandTarget, value: Value) -> bool:
    assert isinstance(value, int)
    return device.set_offloads(value)


ACTIONS: Mapping[NetCommand, Callable[[NetCommandTarget, Value], bool]] = {
    NetCommand.PROMISC: _switch("promisc"),
    NetCommand.ALLMULTI: _switch("allmulti"),
    NetCommand.ALLUNI: _switch("alluni"),
    NetCommand.NOMULTI: _switch("nomulti"),
    NetCommand.NOUNI: _switch("nouni"),
    NetCommand.NOBCAST: _switch("nobcast"),
    NetCommand.MAC_TABLE_SET: _table,
    NetCommand.MAC_ADDR_SET: _mac,
    NetCommand.VLAN_ADD: _vlan(add=True),
    NetCommand.VLAN_DEL: _vlan(add=False),
    NetCommand.ANNOUNCE_ACK: lambda device, _: device.acknowledge_announcement(),
    NetCommand.VQ_PAIRS_SET: _pairs,
    NetCommand.GUEST_OFFLOADS_SET: _offloads,
}


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
        executed = size <= COMMAND_MAX and self._execute(parse(copy_out(readable, COMMAND_MAX), self._features))
        self._counts.count(size, executed=executed)
        return copy_in(writable, bytes((ACK_OK if executed else ACK_ERR,)))

    def _execute(self, control: NetControl | None) -> bool:
        return control is not None and ACTIONS[control.command](self._device, control.value)
