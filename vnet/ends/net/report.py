"""Views of a network device, as ``ethtool`` shows an interface, from either side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from drivers.contracts.ports import Offloads
from drivers.devices.net.coalescing import Coalescing
from drivers.devices.net.device.device import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from drivers.devices.net.filter import Reception
from drivers.devices.net.hashing import HashType
from drivers.devices.net.layout import data_queue_name
from drivers.devices.net.steering import RssConfig
from rings.features import bits
from vnet.ends.base import traffic_figures
from vnet.views.ends import CoalescingView, NetworkView, PairView, ReceptionView, SteeringView

__all__ = ["plug_view", "settings_view"]


def settings_view(settings: NetSettings) -> NetworkView:
    """Return the driver's settings; while the device is down, only those that do not depend on it."""
    view, bound = _view(settings), settings.bound
    station = bound.station if bound is not None else None
    if bound is None or station is None:
        return view
    return attrs.evolve(
        view,
        mac=station.own.hex(":"),
        pairs=station.pairs_used,
        max_pairs=bound.max_pairs,
        offloads=_names(station.offloads),
        coalescing=_coalescing(station.coalescing),
        steering=_steering(station.rss),
        hashes=_types(station.report_types),
        receives=_reception(station.reception),
    )


def plug_view(plug: NetPlug) -> NetworkView:
    """Return the device's settings, as the driver has set them."""
    view, bound = _view(plug), plug.bound
    if bound is None:
        return view
    return attrs.evolve(
        view,
        mac=bound.mac.hex(":"),
        carrier=plug.link_up,
        mtu=plug.mtu,
        pairs=bound.pairs,
        max_pairs=bound.max_pairs,
        offloads=_names(bound.offloads),
        coalescing=_coalescing(bound.coalescers.by_queue),
        steering=_steering(bound.rss),
        hashes=_types(bound.report_types),
        receives=_reception(bound.reception),
    )


def _view(own: NetSettings | NetPlug) -> NetworkView:
    """Return what does not depend on whether the device is up."""
    pairs = own.figures.pairs
    return NetworkView(
        speed=own.speed,
        duplex=own.duplex.name.lower(),
        device_counts=_device_counts(own) if isinstance(own, NetSettings) else {},
        by_pair=tuple(PairView(traffic_figures(pair.received), traffic_figures(pair.sent)) for pair in pairs),
        reports=dict(sum((pair.reports for pair in pairs), Counter[str]())),
        commands=attrs.asdict(own.figures.control),
    )


def _names(offloads: Offloads) -> tuple[str, ...]:
    return tuple(name for name, on in attrs.asdict(offloads).items() if on)


def _coalescing(by_index: Mapping[int, Coalescing]) -> dict[str, CoalescingView]:
    return {
        data_queue_name(index): CoalescingView(each.max_packets, each.max_usecs)
        for index, each in sorted(by_index.items())
    }


def _types(types: int) -> tuple[str, ...]:
    return tuple(HashType(bit).name.lower() for bit in bits(types))


def _steering(rss: RssConfig | None) -> SteeringView | None:
    if rss is None:
        return None
    entries = Counter(data_queue_name(2 * pair) for pair in rss.table)
    return SteeringView(_types(rss.hash.types), dict(sorted(entries.items())), data_queue_name(2 * rss.unclassified))


def _device_counts(settings: NetSettings) -> dict[str, dict[str, int]]:
    control = settings.figures.control_index
    return {
        "controlq" if index == control else data_queue_name(index): dict(counts)
        for index, counts in sorted(settings.device_counts.items())
    }


def _reception(reception: Reception) -> ReceptionView:
    switches = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
    return ReceptionView(
        modes=tuple(name for name in switches if getattr(reception, name)),
        unicast=tuple(sorted(mac.hex(":") for mac in reception.unicast)),
        multicast=tuple(sorted(mac.hex(":") for mac in reception.multicast)),
        vlans=None if reception.vlans is None else tuple(sorted(reception.vlans)),
    )
