"""The records of a topology that every device type shares, and what checks their fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs

from drivers.registry import DEVICES, TRANSPORTS
from rings.features import bits, mask
from vnet.errors import FieldError
from vnet.link.tlp import GENERATIONS, LANES, SIZES

__all__ = [
    "FILE_NAME",
    "ANY_UID",
    "MIB",
    "NAME",
    "DeviceSpec",
    "FaultSpec",
    "HostSpec",
    "LinkSpec",
    "Netns",
    "NtbSpec",
    "PATH_RULE",
    "fits_socket",
    "PeerSpec",
    "must",
]

MIB = 1 << 20
ANY_UID = (1 << 32) - 1
"""No user has it."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""Names of systems, hosts, links and devices."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
"""Names of namespaces and interfaces, which the kernel shows as files."""


PATH_MAX = 107
"""Bytes of the longest path that a unix socket can have."""
PATH_RULE = f"the path of a socket, at most {PATH_MAX} bytes"


def fits_socket(path: str) -> bool:
    return 0 < len(path.encode()) <= PATH_MAX


def must(good: Callable[[Any], object], why: str | Callable[[], str]) -> Any:
    """An attrs validator with a sentence of its own; None always passes."""

    def validate(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not good(value):
            raise FieldError(field.name, value, why if isinstance(why, str) else why())

    return validate


def _of(values: Iterable[object]) -> str:
    return f"one of {', '.join(map(str, values))}"


@attrs.frozen
class HostSpec:
    """One machine."""

    memory: int = attrs.field(default=128, validator=must(lambda v: 1 <= v <= 4078, "MiB of memory, 1 to 4078"))
    """MiB, up to where interrupt messages go; pages that nobody uses take none."""


def _chance() -> Any:
    return attrs.field(
        default=0.0, validator=must(lambda v: 0 <= v <= 1, "a probability, 0 to 1"), metadata={"chance": True}
    )


def _milliseconds(default: float | None) -> Any:
    return attrs.field(default=default, validator=must(lambda v: 0 < v <= 3_600_000, "milliseconds, up to an hour"))


@attrs.frozen
class FaultSpec:
    """What goes wrong on a link, by chance: the same ``seed`` and the same requests give the same faults."""

    seed: int = 0
    lost_doorbells: float = _chance()
    lost_interrupts: float = _chance()
    delayed_interrupts: float = _chance()
    delay_ms: float = _milliseconds(5.0)
    timeouts: float = _chance()
    """Of reads, whether of registers or of memory, like the three that follow."""
    unsupported: float = _chance()
    aborted: float = _chance()
    poisoned: float = _chance()
    flap_every_ms: float | None = _milliseconds(None)
    flap_ms: float = _milliseconds(50.0)
    """How long a flap lasts."""


@attrs.frozen
class LinkSpec:
    """A PCI Express link from one host's root complex to another's endpoint controller.

    Whoever says nothing of generation, lanes, sizes (bytes) or latency gets a link that takes no time.
    """

    root: str
    endpoint: str
    generation: int | None = attrs.field(default=None, validator=must(GENERATIONS.__contains__, _of(GENERATIONS)))
    lanes: int | None = attrs.field(default=None, validator=must(LANES.__contains__, _of(LANES)))
    max_payload: int | None = attrs.field(default=None, validator=must(SIZES.__contains__, _of(SIZES)))
    max_read_request: int | None = attrs.field(default=None, validator=must(SIZES.__contains__, _of(SIZES)))
    completion_boundary: int | None = attrs.field(default=None, validator=must((64, 128).__contains__, "64 or 128"))
    """Where the root complex cuts every completion; by default only at the maximum payload."""
    read_latency_ns: int | None = attrs.field(
        default=None, validator=must(lambda v: 0 <= v <= 1_000_000_000, "nanoseconds, up to a second")
    )
    faults: FaultSpec | None = None
    trace: str | None = None
    """A file that is written anew with a line for everything that crosses."""

    @property
    def timed(self) -> bool:
        """Whether anything is said of how long accesses take."""
        given = self.generation, self.lanes, self.max_payload, self.max_read_request
        return any(v is not None for v in (*given, self.completion_boundary, self.read_latency_ns))


@attrs.frozen
class NtbSpec:
    """An NTB endpoint function on ``host`` that joins two links, both of which end there.

    The root complex of ``primary`` is where devices are, that of ``secondary`` where their drivers are.
    """

    host: str
    primary: str
    secondary: str
    mw: int = attrs.field(default=64, validator=must(lambda v: 1 <= v <= 2048, "MiB of a memory window, 1 to 2048"))
    """MiB of the memory window; the driver's host has that much memory and more."""


@attrs.frozen
class Netns:
    """A namespace that a device's port needs on one host."""

    host: str
    name: str
    own: bool
    """Whether it is made and removed with the system."""


@attrs.frozen
class DeviceSpec:
    """One virtio device: its type and what carries it. Each type adds what is at the two ends."""

    type: str = attrs.field(default="net", validator=must(DEVICES.__contains__, lambda: _of(DEVICES)))
    transport: str = attrs.field(default="pci", validator=must(TRANSPORTS.__contains__, lambda: _of(TRANSPORTS)))
    link: str | None = None
    """What carries it, for transports on a link."""
    host: str | None = None
    """What carries it, for transports within one host."""
    ntb: str | None = None
    """What carries it, for transports between two hosts that reach each other through a third."""
    function: int = attrs.field(default=0, validator=must(lambda v: 0 <= v <= 7, "a PCI function, 0 to 7"))
    queue_size: int = attrs.field(
        default=256, validator=must(lambda v: 2 <= v <= 32768 and not v & (v - 1), "a power of two from 2 to 32768")
    )
    features_off: tuple[str, ...] = ()
    ring: Literal["split", "packed"] = "split"
    """The format of its queues, in shared memory."""
    mode: Literal["direct", "mediated"] = "direct"
    """Whether the device is the port itself, or has another driver behind it, on the endpoint."""
    socket: str | None = attrs.field(default=None, validator=must(fits_socket, PATH_RULE))
    """Where another program's back end listens (vhost_user); without it the device is of this system, too."""
    peer_uid: int | None = attrs.field(
        default=None, validator=must(lambda v: 0 <= v < ANY_UID, f"a user id, 0 to {ANY_UID - 1}")
    )
    """The user, besides ours and root, whose process may listen at the socket: all of the host's memory is shared
    with it."""
    poll: bool = False
    """Have the endpoint look for commands every millisecond rather than when a doorbell rings (epf_mailbox)."""

    def features_off_mask(self, off: tuple[str, ...] | None = None) -> int:
        """The bits to switch off, by default those of ``features_off``. Raises KeyError with the names that can be."""
        device = DEVICES[self.type]
        names = {device.table.name(bit): bit for bit in bits(device.switchable)}
        off = self.features_off if off is None else off
        for name in off:
            if name.upper() not in names:
                raise KeyError(f"no feature {name} to switch off; there are {', '.join(names)}")
        return mask(names[name.upper()] for name in off)

    @property
    def foreign(self) -> bool:
        """Whether the device is another program's: there is a driver's end only."""
        return self.socket is not None

    def namespaces(self, system: str, hosts: tuple[str, str]) -> Iterator[Netns]:
        """What its ports need, in the system of that name, with its driver and its device on ``hosts``."""
        return iter(())

    @property
    def queue_count(self) -> tuple[str, int]:
        """Queues that its transport has to carry, and the field that says so."""
        return "type", 1

    def clash(self) -> tuple[str, object, str] | None:
        """Field, value and reason where two fields do not go together."""
        return None

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        """What a user can type to try it out."""
        return iter(())

    def paths(self) -> Iterator[Path]:
        """The sockets and terminals that its ends make in the file system."""
        return iter(())

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(field, thing) for what no two devices can both have, such as an interface."""
        return iter(())


@attrs.frozen
class PeerSpec(DeviceSpec):
    """A device at whose other end there can be a driver, too: one that may be mediated."""

    local_features_off: tuple[str, ...] = ()
    """In mediated mode: what the endpoint's own driver is not offered."""
    local_ring: Literal["split", "packed"] | None = None
    """In mediated mode: the format of the queues that it is offered; by default that of the other driver's."""

    def local_features(self, supported: int) -> int:
        """In mediated mode: the bits of all that are ``supported`` for the endpoint's own driver."""
        return supported & ~self.features_off_mask(self.local_features_off)

    def clash(self) -> tuple[str, object, str] | None:
        for field in ("local_features_off", "local_ring"):
            given = getattr(self, field)
            if self.mode == "direct" and given:
                shown = given if isinstance(given, str) else list(given)
                return field, shown, "only mode mediated has a local driver"
        try:
            self.features_off_mask(self.local_features_off)
        except KeyError as exc:
            return "local_features_off", list(self.local_features_off), str(exc.args[0])
        return None
