"""Commands of virtio-net's control queue, with their data and features (VIRTIO 1.4 section 5.1.9.5). Pure.

The device reads class, number and data of a command, and writes one byte of answer, then the result of some commands.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

import attrs

from drivers.contracts.ports import ALL_OFFLOADS
from drivers.devices.net.coalescing import QUEUE, Coalescing, QueueCoalescing
from drivers.devices.net.filter import Reception
from drivers.devices.net.layout import MAX_PAIRS, NetFeature, offload_features
from drivers.devices.net.statistics import PART_SIZE, QueueTypes, parse_requests
from drivers.devices.net.steering import HashConfig, RssConfig

__all__ = [
    "ACK_ERR",
    "ACK_OK",
    "COMMAND_MAX",
    "GUEST_OFFLOADS",
    "RESULT_MAX",
    "TABLE_MAX",
    "VID_MAX",
    "NetCommand",
    "NetControl",
    "MacTable",
    "changes",
    "emit",
    "parse",
]

ACK_OK, ACK_ERR = 0, 1
TABLE_MAX = 512
"""Maximum number of addresses in each half of a MAC table."""
RESULT_MAX = PART_SIZE
"""Bytes of the longest result that our driver asks for."""
COMMAND_MAX = 2 + 2 * (4 + 6 * TABLE_MAX)
"""Bytes of the longest command."""
VID_MAX = 4095
"""Largest VLAN id."""
GUEST_OFFLOADS = offload_features(ALL_OFFLOADS, from_driver=False)
"""Valid bits of GUEST_OFFLOADS_SET, which are feature bits."""
F = NetFeature


class NetCommand(Enum):
    """Class, number, and required feature."""

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
    RSS_CONFIG = 4, 1, F.RSS
    HASH_CONFIG = 4, 2, F.HASH_REPORT
    GUEST_OFFLOADS_SET = 5, 0, F.CTRL_GUEST_OFFLOADS
    COAL_TX_SET = 6, 0, F.NOTF_COAL
    COAL_RX_SET = 6, 1, F.NOTF_COAL
    COAL_VQ_SET = 6, 2, F.VQ_NOTF_COAL
    COAL_VQ_GET = 6, 3, F.VQ_NOTF_COAL
    STATS_QUERY = 8, 0, F.DEVICE_STATS
    STATS_GET = 8, 1, F.DEVICE_STATS

    @property
    def head(self) -> bytes:
        """Class and number, as in a chain."""
        return bytes(self.value[:2])

    @property
    def feature(self) -> NetFeature:
        """Feature that has to be negotiated for the command."""
        return self.value[2]


@attrs.frozen
class MacTable:
    """Addresses to receive besides the station's own, 6 bytes each."""

    unicast: frozenset[bytes] = frozenset()
    multicast: frozenset[bytes] = frozenset()


Record = MacTable | Coalescing | QueueCoalescing | RssConfig | HashConfig
Value = bool | int | bytes | Record | tuple[QueueTypes, ...] | None
"""Argument of a command: a switch, a number, an address, a table, parameters, requests, or none."""


@attrs.frozen
class NetControl:
    """One command with its argument."""

    command: NetCommand
    value: Value = None


# Parsers of arguments. They return None for invalid data.


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


def _queue(data: bytes) -> int | None:
    """Return the index of a queue, in front of a reserved field, which is ignored."""
    return int(QUEUE.unpack(data)[0]) if len(data) == QUEUE.size else None


def _table(data: bytes) -> MacTable | None:
    """Parse both halves: unicast addresses, then multicast addresses."""
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


PARSERS: Mapping[NetCommand, Callable[[bytes], Value]] = {
    **dict.fromkeys((c for c in NetCommand if c.value[0] == 0), _switch),
    NetCommand.MAC_TABLE_SET: _table,
    NetCommand.MAC_ADDR_SET: _mac,
    NetCommand.VLAN_ADD: _vid,
    NetCommand.VLAN_DEL: _vid,
    NetCommand.VQ_PAIRS_SET: _pairs,
    NetCommand.RSS_CONFIG: RssConfig.parse,
    NetCommand.HASH_CONFIG: HashConfig.parse,
    NetCommand.GUEST_OFFLOADS_SET: _offloads,
    NetCommand.COAL_TX_SET: Coalescing.parse,
    NetCommand.COAL_RX_SET: Coalescing.parse,
    NetCommand.COAL_VQ_SET: QueueCoalescing.parse,
    NetCommand.COAL_VQ_GET: _queue,
    NetCommand.STATS_GET: parse_requests,
}
"""Parser of the argument, per command."""
HEADS = {command.head: command for command in NetCommand}


def parse(data: bytes, features: int) -> NetControl | None:
    """Parse a command. Returns None if it is invalid, or its feature was not negotiated."""
    command = HEADS.get(data[:2])
    if command is None or not features >> command.feature & 1:
        return None
    parser = PARSERS.get(command)
    if parser is None:
        return NetControl(command) if len(data) == 2 else None
    value = parser(data[2:])
    return None if value is None else NetControl(command, value)


# Encoding


def emit(control: NetControl) -> bytes:
    """Return class, number and data of the command."""
    value = control.value
    if isinstance(value, MacTable):
        halves = (value.unicast, value.multicast)
        body = b"".join(struct.pack("<I", len(half)) + b"".join(sorted(half)) for half in halves)
    elif isinstance(value, bytes):
        body = value
    elif isinstance(value, Coalescing | QueueCoalescing | RssConfig | HashConfig):
        body = value.emit()
    elif isinstance(value, tuple):
        body = b"".join(request.emit() for request in value)
    elif value is None:
        body = b""
    else:
        size = {
            NetCommand.GUEST_OFFLOADS_SET: 8,
            NetCommand.VLAN_ADD: 2,
            NetCommand.VLAN_DEL: 2,
            NetCommand.VQ_PAIRS_SET: 2,
            NetCommand.COAL_VQ_GET: QUEUE.size,
        }
        body = int(value).to_bytes(size.get(control.command, 1), "little")
    return control.command.head + body


SWITCHES = {
    "promisc": NetCommand.PROMISC,
    "allmulti": NetCommand.ALLMULTI,
    "alluni": NetCommand.ALLUNI,
    "nomulti": NetCommand.NOMULTI,
    "nouni": NetCommand.NOUNI,
    "nobcast": NetCommand.NOBCAST,
}


def changes(old: Reception, new: Reception) -> Iterator[tuple[NetControl, Reception]]:
    """Yield the commands that change one reception into another, each with the reception after it."""
    for name, command in SWITCHES.items():
        value = getattr(new, name)
        if value is not getattr(old, name):
            old = old.evolve(**{name: value})
            yield NetControl(command, value), old
    if (old.unicast, old.multicast) != (new.unicast, new.multicast):
        old = old.evolve(unicast=new.unicast, multicast=new.multicast)
        yield NetControl(NetCommand.MAC_TABLE_SET, MacTable(new.unicast, new.multicast)), old
    before, after = old.vlans or frozenset(), new.vlans or frozenset()
    for command, vids in ((NetCommand.VLAN_ADD, after - before), (NetCommand.VLAN_DEL, before - after)):
        for vid in sorted(vids):
            before = before ^ {vid}
            old = old.evolve(vlans=before)
            yield NetControl(command, vid), old
