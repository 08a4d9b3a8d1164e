"""A network device as plain data, as ``ethtool`` shows an interface, from either side."""

from __future__ import annotations

import attrs

from drivers.contracts.ports import Offloads
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.devices.net.filter import Reception
from drivers.devices.net.flow import NetFigures
from drivers.devices.net.layout import Duplex

__all__ = ["describe_plug", "describe_settings"]


def describe_settings(settings: NetSettings) -> dict[str, object]:
    """Return the driver's settings; while the device is down, only those that do not depend on it."""
    bound = settings.bound
    station = bound.station if bound is not None else None
    if bound is None or station is None:
        return {"pairs": 0, **_common(settings.speed, settings.duplex, settings.figures)}
    return {
        "mac": station.own.hex(":"),
        "pairs": station.pairs_used,
        "max_pairs": bound.max_pairs,
        "offloads": _names(station.offloads),
        "receives": _reception(station.reception),
        **_common(settings.speed, settings.duplex, settings.figures),
    }


def describe_plug(plug: NetPlug) -> dict[str, object]:
    """Return the device's settings, as the driver has set them."""
    bound = plug.bound
    if bound is None:
        return {"pairs": 0, **_common(plug.speed, plug.duplex, plug.figures)}
    return {
        "mac": bound.mac.hex(":"),
        "carrier": plug.link_up,
        "mtu": plug.mtu,
        "pairs": bound.pairs,
        "max_pairs": bound.max_pairs,
        "offloads": _names(bound.offloads),
        "receives": _reception(bound.reception),
        **_common(plug.speed, plug.duplex, plug.figures),
    }


def _common(speed: int | None, duplex: Duplex, figures: NetFigures) -> dict[str, object]:
    return {
        "speed": speed,
        "duplex": duplex.name.lower(),
        "by_pair": [
            {
                side: {"packets": traffic.packets, "bytes": traffic.bytes, "drops": dict(traffic.drops)}
                for side, traffic in (("received", pair.received), ("sent", pair.sent))
            }
            for pair in figures.pairs
        ],
        "commands": attrs.asdict(figures.control),
    }


def _names(offloads: Offloads) -> list[str]:
    return [name for name, on in attrs.asdict(offloads).items() if on]


def _reception(reception: Reception) -> dict[str, object]:
    switches = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
    return {
        "modes": [name for name in switches if getattr(reception, name)],
        "unicast": sorted(mac.hex(":") for mac in reception.unicast),
        "multicast": sorted(mac.hex(":") for mac in reception.multicast),
        "vlans": None if reception.vlans is None else sorted(reception.vlans),
    }
