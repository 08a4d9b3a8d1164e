"""The control queue's words: commands, what each carries, and which feature it belongs to (VIRTIO 1.4 section 5.1.9.5).

Pure. What the device may read of a command is class, number and data; what it may write, one byte of answer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

import attrs

from drivers.contracts.ports import ALL_OFFLOADS
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import MAX_PAIRS, NetFeature, offload_features

__all__ = [
    "ACK_ERR",
    "ACK_OK",
    "COMMAND_MAX",
    "GUEST_OFFLOADS",
    "TABLE_MAX",
    "VID_MAX",
    "Command",
    "Control",
    "MacTable",
    "changes",
    "emit",
    "parse",
]

ACK_OK, ACK_ERR = 0, 1
TABLE_MAX = 512
"""Addresses that each half of a table may have."""
COMMAND_MAX = 2 + 2 * (4 + 6 * TABLE_MAX)
"""Bytes of the longest command."""
VID_MAX = 4095
GUEST_OFFLOADS = offload_features(ALL_OFFLOADS, from_driver=False)
"""The bits that GUEST_OFFLOADS_SET may have; they are those of the features."""
F = NetFeature


class Command(Enum):
    """Class, number, and the feature without which there is no such command."""

    PROMISC = 0, 0, F.CTRL_RX
    ALLMULTI = 0, 1, F.CTRL_RX
    ALLUNI = 0, 2, F.CTRL_RX_EXTRA
    NOMULTI = 0, 3, F.CTRL_RX_EXTRA
    NOUNI = 0, 4, F.CTRL_RX_EXTRA
    NOBCAST = 0, 5, F.CTRL_RX_EXTRA
    MAC_TABLE_SET = 1, 0, F.CTRL_RX
    MAC_ADDR_SET = 1, 1, F.CTRL_MAC_ADDR
    VLAN_ADD = 2, 0, F.CTRL_VLAN
    VLAN_DEL = 2, 1, F.CTRL_VLAN
    ANNOUNCE_ACK = 3, 0, F.GUEST_ANNOUNCE
    VQ_PAIRS_SET = 4, 0, F.MQ
    GUEST_OFFLOADS_SET = 5, 0, F.CTRL_GUEST_OFFLOADS

    @property
    def head(self) -> bytes:
        return bytes(self.value[:2])

    @property
    def feature(self) -> NetFeature:
        return self.value[2]


@attrs.frozen
class MacTable:
    """Addresses that are let in besides the station's own, 6 bytes each."""

    unicast: frozenset[bytes] = frozenset()
    multicast: frozenset[bytes] = frozenset()


Value = bool | int | bytes | MacTable | None
"""What a command carries: a switch, a number, an address, a table, or nothing."""


@attrs.frozen
class Control:
    """One command."""

    command: Command
    value: Value = None


# From bytes


def _switch(data: bytes) -> bool | None:
    return bool(data[0]) if len(data) == 1 and data[0] < 2 else None


def _vid(data: bytes) -> int | None:
    value = int.from_bytes(data, "little")
    return value if len(data) == 2 and value <= VID_MAX else None


def _pairs(data: bytes) -> int | None:
    value = int.from_bytes(data, "little")
    return value if len(data) == 2 and 1 <= value <= MAX_PAIRS else None


def _offloads(data: bytes) -> int | None:
    value = int.from_bytes(data, "little")
    return value if len(data) == 8 and not value & ~GUEST_OFFLOADS else None


def _mac(data: bytes) -> bytes | None:
    return data if len(data) == 6 and not data[0] & 1 and any(data) else None


def _table(data: bytes) -> MacTable | None:
    """Both halves, of which the first may hold no multicast address and the second no other."""
    halves = []
    for multicast in (False, True):
        if len(data) < 4:
            return None
        count, data = int.from_bytes(data[:4], "little"), data[4:]
        if count > min(TABLE_MAX, len(data) // 6):
            return None
        macs = frozenset(data[at : at + 6] for at in range(0, 6 * count, 6))
        if any(bool(mac[0] & 1) is not multicast for mac in macs):
            return None
        halves.append(macs)
        data = data[6 * count :]
    return None if data else MacTable(*halves)


PARSERS: Mapping[Command, Callable[[bytes], Value]] = {
    **dict.fromkeys((c for c in Command if c.value[0] == 0), _switch),
    Command.MAC_TABLE_SET: _table,
    Command.MAC_ADDR_SET: _mac,
    Command.VLAN_ADD: _vid,
    Command.VLAN_DEL: _vid,
    Command.VQ_PAIRS_SET: _pairs,
    Command.GUEST_OFFLOADS_SET: _offloads,
}
"""What gives the value of a command's data, None where they are no such value."""
HEADS = {command.head: command for command in Command}


def parse(data: bytes, features: int) -> Control | None:
    """The command in ``data``; None where that is none, or belongs to a feature that was not agreed on."""
    command = HEADS.get(data[:2])
    if command is None or not features >> command.feature & 1:
        return None
    parser = PARSERS.get(command)
    if parser is None:
        return Control(command) if len(data) == 2 else None
    value = parser(data[2:])
    return None if value is None else Control(command, value)


# To bytes


def emit(control: Control) -> bytes:
    """What the device may read of it."""
    value = control.value
    if isinstance(value, MacTable):
        halves = (value.unicast, value.multicast)
        body = b"".join(struct.pack("<I", len(half)) + b"".join(sorted(half)) for half in halves)
    elif isinstance(value, bytes):
        body = value
    elif value is None:
        body = b""
    else:
        size = {Command.GUEST_OFFLOADS_SET: 8, Command.VLAN_ADD: 2, Command.VLAN_DEL: 2, Command.VQ_PAIRS_SET: 2}
        body = int(value).to_bytes(size.get(control.command, 1), "little")
    return control.command.head + body


SWITCHES = {
    "promisc": Command.PROMISC,
    "allmulti": Command.ALLMULTI,
    "alluni": Command.ALLUNI,
    "nomulti": Command.NOMULTI,
    "nouni": Command.NOUNI,
    "nobcast": Command.NOBCAST,
}


def changes(old: Reception, new: Reception) -> Iterator[tuple[Control, Reception]]:
    """The commands that turn one reception into another, and what it is after each."""
    for name, command in SWITCHES.items():
        value = getattr(new, name)
        if value is not getattr(old, name):
            old = old.evolve(**{name: value})
            yield Control(command, value), old
    if (old.unicast, old.multicast) != (new.unicast, new.multicast):
        old = old.evolve(unicast=new.unicast, multicast=new.multicast)
        yield Control(Command.MAC_TABLE_SET, MacTable(new.unicast, new.multicast)), old
    before, after = old.vlans or frozenset(), new.vlans or frozenset()
    for command, vids in ((Command.VLAN_ADD, after - before), (Command.VLAN_DEL, before - after)):
        for vid in sorted(vids):
            before = before ^ {vid}
            old = old.evolve(vlans=before)
            yield Control(command, vid), old
