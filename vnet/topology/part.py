"""The part of a topology on one host, whose links lead to the other hosts in other processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

from vnet.errors import ConfigError, FieldError
from vnet.process_ends import ProcessEnd, RemoteEnd, StreamProcess
from vnet.spec import DeviceSpec, FaultSpec, LinkSpec
from vnet.stream.address import Address
from vnet.stream.handshake import StreamIdentity
from vnet.topology.topology import Topology

__all__ = ["Place", "part_of", "places_of"]


@attrs.frozen
class Place:
    """Where a host's stream connects, or listens."""

    address: Address
    listens: bool

    @property
    def option(self) -> str:
        """The option that it was given by."""
        return "--listen" if self.listens else "--connect"


def part_of(topology: Topology, host: str, file: str, places: Mapping[str, Place] | None = None) -> Topology:
    """Return the part of a topology on ``host``: the host, its links, and the devices with a side on it.

    ``places`` has the addresses of streams by link. Raises ConfigError if there is no such host, or if a link of it
    cannot lead to another process.
    """
    places = places or {}
    if host not in topology.hosts:
        raise ConfigError(file, "--only", host, f"must be one of {', '.join(topology.hosts)}")
    mine = {name: link for name, link in topology.links.items() if host in link.ends}
    errors = list(_problems(topology, host, mine, places))
    if errors:
        raise ConfigError.of(file, errors)
    links = {name: _cut(topology, name, link, host, places.get(name)) for name, link in mine.items()}
    devices = {name: device for name, device in topology.devices.items() if device.link in links or device.host == host}
    ntbs = {name: ntb for name, ntb in topology.ntbs.items() if ntb.host == host}
    part = Topology({host: topology.hosts[host]}, links, devices, ntbs)
    return part.sided()


def places_of(
    topology: Topology, host: str | None, given: Iterable[tuple[str, Place]], file: str
) -> Mapping[str, Place]:
    """Return the places by link. ``given`` has each with what the user wrote before =: a link, or "" for the only one.

    Raises ConfigError for a link that is no stream of the host.
    """
    mine = [name for name, link in topology.links.items() if link.stream is not None and host in link.ends]
    places: dict[str, Place] = {}
    for name, place in given:
        text = f"{name}={place.address}" if name else str(place.address)
        if host is None:
            raise ConfigError(file, place.option, text, "needs --only HOST: both hosts of a whole file are here")
        if not mine:
            why = f"{host} has no link with the key stream"
            raise ConfigError(file, place.option, text, why)
        if (name and name not in mine) or (not name and len(mine) > 1):
            raise ConfigError(file, place.option, text, f"must be LINK=ADDRESS, with one of {', '.join(mine)}")
        link = name or mine[0]
        if link in places:
            raise ConfigError(file, place.option, text, f"link {link} has an address already")
        places[link] = place
    return places


def _problems(
    topology: Topology, host: str, mine: Mapping[str, LinkSpec], places: Mapping[str, Place]
) -> Iterator[FieldError]:
    for name, link in mine.items():
        if link.stream is not None and name not in places:
            yield FieldError(("links", name, "stream"), None, "needs its address: --connect or --listen")
        elif link.stream is None and link.vfio_user is None and not link.remote:
            why = "must be given, or stream: each host is a process of its own"
            yield FieldError(("links", name, "vfio_user"), None, why)
    for name, device in topology.devices.items():
        if _crosses_ntb(topology, device, host):
            why = "must be absent: memory windows of an NTB do not lead to another process"
            yield FieldError(("devices", name, "ntb"), device.ntb, why)


def _crosses_ntb(topology: Topology, device: DeviceSpec, host: str) -> bool:
    """Return whether the device is on an NTB that the host has an end or the middle of."""
    if device.ntb is None:
        return False
    return host in (topology.ntbs[device.ntb].host, *topology.ends(device))


def _cut(topology: Topology, name: str, link: LinkSpec, host: str, place: Place | None) -> LinkSpec:
    """Return the host's part of a link: accesses take time, fail and are traced in the endpoint's process."""
    end: ProcessEnd
    if place is not None and link.stream is not None:
        end = StreamProcess(place.address, place.listens, link.stream.key, _identity(topology, name))
    elif link.vfio_user is not None:
        end = RemoteEnd(link.vfio_user)
    else:  # it leads to another process anyway
        return link
    if link.endpoint == host:
        return attrs.evolve(link, root=end, vfio_user=None, stream=None)
    return LinkSpec(host, end, lossy=link.faults is not None and link.faults != FaultSpec(seed=link.faults.seed))


def _identity(topology: Topology, name: str) -> StreamIdentity:
    """Return what both halves of a stream have in common: the devices and NTBs at the end of the link."""
    functions = {
        number: f"{carried[1].type} over {carried[1].transport}"
        for number in topology.functions(name)
        if (carried := topology.carried(name, number)) is not None
    }
    return StreamIdentity(name, functions)
