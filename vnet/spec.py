"""The records of a topology that every device type shares, and what checks their fields."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs

from drivers.registry import DEVICES, TRANSPORTS
from rings.features import bits, mask
from vnet.errors import FieldError
from vnet.link.tlp import GENERATIONS, LANES, SIZES

__all__ = [
    "FILE_NAME",
    "ANY_UID",
    "CARRIERS",
    "FILE_RULE",
    "MEMORY",
    "MEMORY_MAX",
    "MIB",
    "NAME",
    "DeviceSpec",
    "FaultSpec",
    "HostSpec",
    "LinkSpec",
    "Netns",
    "NtbSpec",
    "OF_TRANSPORT",
    "PATH_RULE",
    "PeerSpec",
    "Problem",
    "WINDOW",
    "WINDOW_MAX",
    "file_key",
    "fits_socket",
    "is_path",
    "must",
]

MIB = 1 << 20
ANY_UID = (1 << 32) - 1
"""No user has it."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""Names of systems, hosts, links and devices."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
"""Names of namespaces and interfaces, which the kernel shows as files."""


CARRIERS = ("link", "host", "ntb")
"""Keys of a device for what carries it; a transport names one of them."""
MEMORY_MAX = 4078
"""MiB of memory that a host can have."""
MEMORY = 128
"""MiB of memory that a host has at least, if nothing is given."""
WINDOW_MAX = 2048
"""MiB of the largest memory window."""
WINDOW = 64
"""MiB of a memory window at least, if nothing is given."""
FLAP = 50.0
"""Milliseconds that a link is down in a flap, if nothing is given, unless flaps follow faster."""
PATH_MAX = 107
"""Bytes of the longest path that a unix socket can have."""
PATH_RULE = f"the path of a socket, at most {PATH_MAX} bytes"
FILE_RULE = "the path of a file"


def fits_socket(path: str) -> bool:
    return is_path(path) and len(os.fsencode(path)) <= PATH_MAX


def is_path(path: str) -> bool:
    """Whether a file can have this path."""
    return bool(path) and "\0" not in path


def file_key(path: str) -> str:
    """The same text for the same file or socket, however its path is written."""
    return str(Path(path).resolve())


def must(good: Callable[[Any], object], why: str | Callable[[], str]) -> Any:
    """An attrs validator with a sentence of its own; None always passes."""

    def validate(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not good(value):
            raise FieldError(field.name, value, why if isinstance(why, str) else why())

    return validate


Problem = tuple[str, object, str]
"""A field, its value, and why it can't have that."""
OF_TRANSPORT = {"transport": True}
"""Metadata of a field that only some transports have."""


def _of(values: Iterable[object]) -> str:
    return f"one of {', '.join(map(str, values))}"


@attrs.frozen
class HostSpec:
    """One machine."""

    memory: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= MEMORY_MAX, f"MiB of memory, 1 to {MEMORY_MAX}")
    )
    """MiB; by default 128, or as much as its devices need. Untouched pages use no real memory."""


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
    """From the start of a flap to the start of the next."""
    flap_ms: float | None = _milliseconds(None)
    """How long a flap lasts; by default 50 ms, or half of the time from one to the next if that is less."""

    @property
    def flap_length_ms(self) -> float:
        """Milliseconds that the link is down in a flap."""
        if self.flap_ms is not None:
            return self.flap_ms
        return FLAP if self.flap_every_ms is None else min(FLAP, self.flap_every_ms / 2)

    def clash(self) -> Problem | None:
        """As `DeviceSpec.clash`."""
        if self.flap_every_ms is not None and self.flap_every_ms <= self.flap_length_ms:
            why = f"a flap lasts {self.flap_length_ms:g} ms (flap_ms), so that the link would never be up"
            return "flap_every_ms", self.flap_every_ms, why
        return None


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
    trace: str | None = attrs.field(default=None, validator=must(is_path, FILE_RULE))
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
    mw: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= WINDOW_MAX, f"MiB of a memory window, 1 to {WINDOW_MAX}")
    )
    """MiB of the memory window, a part of the driver's host's memory; by default 64, or as much as its device needs."""


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
    function: int = attrs.field(
        default=0, validator=must(lambda v: 0 <= v <= 7, "a PCI function, 0 to 7"), metadata=OF_TRANSPORT
    )
    queue_size: int = attrs.field(
        default=256, validator=must(lambda v: 2 <= v <= 32768 and not v & (v - 1), "a power of two from 2 to 32768")
    )
    features_off: tuple[str, ...] = ()
    ring: Literal["split", "packed"] = "split"
    """The format of its queues, in shared memory."""
    mode: Literal["direct", "mediated"] = "direct"
    """Whether the device is the port itself, or has another driver behind it, on the endpoint."""
    socket: str | None = attrs.field(default=None, validator=must(fits_socket, PATH_RULE), metadata=OF_TRANSPORT)
    """Where another program's back end listens (vhost_user); without it the device is of this system, too."""
    peer_uid: int | None = attrs.field(
        default=None,
        validator=must(lambda v: 0 <= v < ANY_UID, f"a user id, 0 to {ANY_UID - 1}"),
        metadata=OF_TRANSPORT,
    )
    """The user, besides ours and root, whose process may listen at the socket: all of the host's memory is shared
    with it."""
    poll: bool = attrs.field(default=False, metadata=OF_TRANSPORT)
    """Have the endpoint look for commands every millisecond rather than when a doorbell rings (epf_mailbox)."""
    extra: tuple[tuple[str, object], ...] = attrs.field(default=(), metadata={"key": False})
    """Options of a transport that is not in the package, with their values; a file has them as keys of the device."""

    queue_size_min: ClassVar[int] = 2
    """Descriptors of the smallest ring that its driver can use."""

    def option(self, key: str) -> object:
        """The value of a transport's option; None if it is not given and has no default."""
        return dict(self.extra).get(key, getattr(self, key, None))

    @property
    def features(self) -> int:
        """The feature bits that may be used."""
        return DEVICES[self.type].supported & ~self.features_off_mask()

    def memory(self) -> int:
        """Bytes of its host's memory that the driver needs at most; 0 if it is not known."""
        return 0

    def problem(self) -> Problem | None:
        """The first thing that no device of its type can be: field, value and reason; None if all is well."""
        try:
            self.features_off_mask()
        except KeyError as exc:
            return "features_off", list(self.features_off), str(exc.args[0])
        return self.clash()

    def shortage(self) -> Problem | None:
        """As `problem`, of a size with which the device does not come up."""
        if self.queue_size < self.queue_size_min:
            why = f"a {self.type} driver needs queues of {self.queue_size_min} descriptors at least"
            return "queue_size", self.queue_size, why
        return None

    def features_off_mask(self, off: tuple[str, ...] | None = None) -> int:
        """The bits to switch off, by default those of ``features_off``. Raises KeyError with the names there are."""
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

    def clash(self) -> Problem | None:
        """Field, value and reason if two fields do not go together."""
        return None

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        """What a user can type to try it out."""
        return iter(())

    def paths(self) -> Iterator[Path]:
        """The sockets and terminals that its ends make in the file system."""
        return iter(())

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(field, thing) for what no two devices can both have, such as an interface; a thing begins with its kind."""
        if self.socket is not None:
            yield "socket", ("file", file_key(self.socket))


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

    def local_memory(self) -> int:
        """In mediated mode: bytes of the endpoint's memory that its own driver needs at most; 0 if it is not known."""
        return 0

    def clash(self) -> Problem | None:
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
