"""Settings of a network device that can change while it runs, by name, with values as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import attrs

from drivers.contracts.ports import Offloads
from drivers.devices.net.coalescing import NO_COALESCING, Coalescing, Direction
from drivers.devices.net.control import VID_MAX
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.devices.net.driver.station import NetRequest
from drivers.devices.net.hashing import KEY_SIZE, HashType
from drivers.devices.net.steering import KEY, TABLE_LENGTH
from rings.features import mask
from vnet.ends.net.spec import MTU, NetSpec, mac_of
from vnet.ends.settings import Setting
from vnet.linux.netns import IPV6_MIN_MTU
from vnet.linux.privileges.confinement import RESTART, is_confined

__all__ = ["SETTINGS"]

RING = range(2, 32769)
"""Sizes of a data queue in descriptors."""
PAIRS = range(1, 0x8001)
"""Numbers of queue pairs."""
COUNTS = range(1, 1 << 32)
"""Packets, or microseconds, of notification coalescing."""
ON_OFF = {"on": True, "off": False}
"""Values of a switch."""


def _switch(value: str) -> bool:
    if value not in ON_OFF:
        raise ValueError("must be on or off")
    return ON_OFF[value]


def _number(value: str, numbers: range) -> int:
    if not value.isascii() or not value.isdigit() or int(value) not in numbers:
        raise ValueError(f"must be between {numbers.start} and {numbers.stop - 1}")
    return int(value)


def _words(value: str) -> list[str]:
    return [] if value in ("", "none") else value.split(",")


def _mac(text: str, *, group: bool = False) -> bytes:
    mac = mac_of(text, group=group)
    if mac is None:
        raise ValueError(f"must be a {'multicast' if group else 'unicast'} MAC address")
    return mac


def _macs(value: str, *, group: bool) -> frozenset[bytes]:
    return frozenset(_mac(word, group=group) for word in _words(value))


def _offloads(value: str) -> Offloads | None:
    if value == "all":
        return None
    names = [field.name for field in attrs.fields(Offloads)]
    on = _words(value)
    if not set(on) <= set(names):
        raise ValueError(f"must be all, none, or some of {','.join(names)}")
    return Offloads(**dict.fromkeys(on, True))


def _table(value: str) -> tuple[int, ...]:
    table = () if value == "off" else tuple(_number(word, PAIRS) - 1 for word in value.split(","))
    if len(table) > TABLE_LENGTH:
        raise ValueError(f"must be at most {TABLE_LENGTH} queue pairs")
    return table


def _hash_types(value: str) -> int | None:
    if value == "all":
        return None
    names = {kind.name.lower(): kind for kind in HashType}
    if not {*_words(value)} <= {*names}:
        raise ValueError(f"must be all, none, or some of {','.join(names)}")
    return mask(names[word] for word in _words(value))


def _hash_key(value: str) -> bytes:
    if value == "default":
        return KEY
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * KEY_SIZE}}}", value):
        raise ValueError(f"must be default, or {2 * KEY_SIZE} hexadecimal digits")
    return bytes.fromhex(value)


def _reception(name: str, parse: Callable[[str], object]) -> Callable[[NetRequest, str], NetRequest]:
    return lambda request, value: attrs.evolve(request, reception=request.reception.evolve(**{name: parse(value)}))


def _coalescing(direction: Direction) -> Callable[[NetRequest, str], NetRequest]:
    def change(request: NetRequest, value: str) -> NetRequest:
        head, colon, parameters = value.rpartition(":")
        pair = _number(head, PAIRS) - 1 if colon else None
        if parameters == "off":
            wanted = NO_COALESCING
        else:
            packets, _, usecs = parameters.partition(",")
            wanted = Coalescing(_number(packets, COUNTS), _number(usecs, COUNTS))
        # A value for all queues replaces those of single ones.
        others = {
            key: kept for key, kept in request.coalescing.items() if key[0] != direction or pair not in (None, key[1])
        }
        return attrs.evolve(request, coalescing=others | {(direction, pair): wanted})

    return change


def _of_driver(values: str, about: str, request: Callable[[NetRequest, str], NetRequest]) -> Setting[NetSpec]:
    """Return a setting that the driver asks its device for; ``request`` returns the request with the value."""

    async def change(settings: NetSettings, value: str, spec: NetSpec) -> None:
        await settings.change(request(settings.request, value))

    return Setting("driver", values, about, change)


def _of_device(values: str, about: str, put: Callable[[NetPlug, str, NetSpec], None]) -> Setting[NetSpec]:
    async def change(plug: NetPlug, value: str, spec: NetSpec) -> None:
        put(plug, value, spec)

    return Setting("device", values, about, change)


async def _ring(settings: NetSettings, value: str, spec: NetSpec) -> None:
    num = None if value == "max" else _number(value, RING)
    await settings.resize(num)


async def _statistics(settings: NetSettings, value: str, spec: NetSpec) -> None:
    if value not in ("", "now"):
        raise ValueError("must be now, or absent")
    await settings.ask_statistics()


def _carrier(plug: NetPlug, value: str, spec: NetSpec) -> None:
    plug.link_up = _switch(value)
    plug.changed()


def _mtu(plug: NetPlug, value: str, spec: NetSpec) -> None:
    mtu = _number(value, MTU)
    addresses = (*spec.driver.addresses, *spec.device.addresses)
    if mtu < IPV6_MIN_MTU and any(":" in text for text in addresses):
        raise ValueError(f"must be between {IPV6_MIN_MTU} and {MTU.stop - 1}: an interface has an IPv6 address")
    if is_confined() and any(port.kind != "memory" for port in (spec.driver, spec.device)):
        raise LookupError(f"the sandbox of this process forbids it to change the MTU of an interface; {RESTART}")
    plug.mtu = mtu
    plug.changed()


def _announce(plug: NetPlug, value: str, spec: NetSpec) -> None:
    if value not in ("", "now"):
        raise ValueError("must be now, or absent")
    if not plug.announce():
        raise LookupError("the driver cannot announce itself: GUEST_ANNOUNCE was not negotiated")


SWITCHES: Mapping[str, str] = {
    "promisc": "receive frames for any address",
    "allmulti": "receive frames for any multicast address",
    "alluni": "receive frames for any unicast address",
    "nomulti": "receive no frames for multicast addresses",
    "nouni": "receive no frames for unicast addresses",
    "nobcast": "receive no broadcast frames",
}
"""Settings of the driver's receive filter that are on or off, and what they do."""
SETTINGS: Mapping[str, Setting[NetSpec]] = {
    "mac": _of_driver("ADDRESS", "MAC address", lambda request, value: attrs.evolve(request, mac=_mac(value))),
    **{name: _of_driver("on|off", about, _reception(name, _switch)) for name, about in SWITCHES.items()},
    "unicast": _of_driver(
        "ADDRESS,...|none",
        "more unicast addresses to receive",
        _reception("unicast", lambda value: _macs(value, group=False)),
    ),
    "multicast": _of_driver(
        "ADDRESS,...|none",
        "multicast addresses to receive",
        _reception("multicast", lambda value: _macs(value, group=True)),
    ),
    "vlans": _of_driver(
        "NUMBER,...|none",
        "VLANs to receive, besides those of the interface",
        _reception("vlans", lambda value: frozenset(_number(word, range(VID_MAX + 1)) for word in _words(value))),
    ),
    "pairs": _of_driver(
        "NUMBER|all",
        "queue pairs to use",
        lambda request, value: attrs.evolve(request, pairs=None if value == "all" else _number(value, PAIRS)),
    ),
    "offloads": _of_driver(
        "NAME,...|all|none",
        f"receive offloads, of {','.join(field.name for field in attrs.fields(Offloads))}",
        lambda request, value: attrs.evolve(request, offloads=_offloads(value)),
    ),
    "rss": _of_driver(
        "PAIR,...|off",
        "queue pairs that receive frames by their hash (feature RSS); off: by flow",
        lambda request, value: attrs.evolve(request, table=_table(value)),
    ),
    "unclassified": _of_driver(
        "PAIR",
        "with rss, queue pair of frames without a hash",
        lambda request, value: attrs.evolve(request, unclassified=_number(value, PAIRS) - 1),
    ),
    "hash_types": _of_driver(
        "NAME,...|all|none",
        f"packets to hash, of {','.join(kind.name.lower() for kind in HashType)}",
        lambda request, value: attrs.evolve(request, hash_types=_hash_types(value)),
    ),
    "hash_key": _of_driver(
        "HEX|default",
        f"key of the hashes, {KEY_SIZE} bytes",
        lambda request, value: attrs.evolve(request, hash_key=_hash_key(value)),
    ),
    "rx_coalesce": _of_driver(
        "[PAIR:]PACKETS,USECS|off",
        "calls of receive queues after so many packets or microseconds",
        _coalescing(Direction.RX),
    ),
    "tx_coalesce": _of_driver("[PAIR:]PACKETS,USECS|off", "the same for transmit queues", _coalescing(Direction.TX)),
    "ring": Setting("driver", "NUMBER|max", "largest size of a data queue; the device is not reset", _ring),
    "statistics": Setting("driver", "", "have the driver ask the device for its counters, for vnet show", _statistics),
    "carrier": _of_device("on|off", "whether the link is up", _carrier),
    "mtu": _of_device("BYTES", "MTU; the device is reset", _mtu),
    "announce": _of_device("", "have the driver announce its addresses", _announce),
}
"""Settings by name."""
