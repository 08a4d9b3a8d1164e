"""Settings of a network device that can change while it runs, by name, with values as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from drivers.contracts.ports import Offloads
from drivers.devices.net.control import VID_MAX
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.devices.net.driver.station import NetRequest
from vnet.ends.base import End
from vnet.ends.foreign import ForeignEnd
from vnet.ends.net.end import NetEnd
from vnet.linux.netns import IPV6_MIN_MTU

__all__ = ["SETTINGS", "change_net"]

ON_OFF = {"on": True, "off": False}
"""Values of a switch."""
MTU = range(68, 65522)
"""MTUs in bytes."""


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
    try:
        mac = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6 or text.count(":") != 5 or bool(mac[0] & 1) is not group or not any(mac):
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


def _reception(name: str, parse: Callable[[str], object]) -> Callable[[NetRequest, str], NetRequest]:
    return lambda request, value: attrs.evolve(request, reception=request.reception.evolve(**{name: parse(value)}))


# By what the driver's side is asked for.
REQUESTS: Mapping[str, Callable[[NetRequest, str], NetRequest]] = {
    "mac": lambda request, value: attrs.evolve(request, mac=_mac(value)),
    **{name: _reception(name, _switch) for name in ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")},
    "unicast": _reception("unicast", lambda value: _macs(value, group=False)),
    "multicast": _reception("multicast", lambda value: _macs(value, group=True)),
    "vlans": _reception("vlans", lambda value: frozenset(_number(word, range(VID_MAX + 1)) for word in _words(value))),
    "pairs": lambda request, value: attrs.evolve(
        request, pairs=None if value == "all" else _number(value, range(1, 0x8001))
    ),
    "offloads": lambda request, value: attrs.evolve(request, offloads=_offloads(value)),
}


def _carrier(plug: NetPlug, value: str) -> None:
    plug.link_up = _switch(value)
    plug.changed()


def _mtu(plug: NetPlug, value: str) -> None:
    plug.mtu = _number(value, MTU)
    plug.changed()


def _check_mtu(value: str, ends: Iterable[End]) -> None:
    """Raise ValueError if an interface would lose its IPv6 addresses with this MTU."""
    addresses = [text for end in ends if isinstance(end, NetEnd) for text in end.spec.addresses]
    if any(":" in text for text in addresses) and _number(value, MTU) < IPV6_MIN_MTU:
        raise ValueError(f"must be between {IPV6_MIN_MTU} and {MTU.stop - 1}: an interface has an IPv6 address")


def _announce(plug: NetPlug, value: str) -> None:
    if value not in ("", "now"):
        raise ValueError("must be now, or absent")
    if not plug.announce():
        raise LookupError("the driver cannot announce itself: GUEST_ANNOUNCE was not negotiated")


DEVICE_SETTINGS: Mapping[str, Callable[[NetPlug, str], None]] = {
    "carrier": _carrier,
    "mtu": _mtu,
    "announce": _announce,
}
"""Setters of the device's side, by setting."""
SETTINGS = (*REQUESTS, *DEVICE_SETTINGS)
"""Names of all settings."""


async def change_net(driver: End, device: End, setting: str, value: str) -> None:
    """Change a setting of a running device.

    Raises LookupError for an unknown setting, ValueError "must be …" for an invalid value, and the errors of
    `NetSettings.change`.
    """
    settings, plug = driver.settings, device.settings
    assert isinstance(settings, NetSettings)
    if setting in REQUESTS:
        await settings.change(REQUESTS[setting](settings.request, value))
    elif setting not in DEVICE_SETTINGS:
        raise LookupError(f"unknown setting {setting}; known are {', '.join(SETTINGS)}")
    elif isinstance(plug, NetPlug):
        if setting == "mtu":
            _check_mtu(value, (driver, device))
        DEVICE_SETTINGS[setting](plug, value)
    elif isinstance(device, ForeignEnd):
        raise LookupError(f"{setting} belongs to the back end, which is another process")
    else:
        raise LookupError(f"{setting} of a mediated device follows the driver at the other end")
