"""Records of a topology that every device type shares, and the validators of their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import attrs

from drivers.bus.back import Identity
from drivers.carriers.ntb_registers import MAX_MWS, MAX_SPADS, SPADS
from drivers.carriers.options import ANY_UID, TransportOptions
from drivers.contracts.events import SILENT, Reporter
from drivers.contracts.hw import MAX_FUNCTIONS
from drivers.fields import PATH_RULE, Must, fits_socket, is_path, must
from drivers.virtio_type import VirtioType
from rings.features import OF_RINGS, bits, mask
from rings.formats import ON_REQUEST
from vnet.errors import FieldError, Keys
from vnet.link.faults import CHANCE, MILLISECONDS, flap_length
from vnet.link.tlp import GENERATIONS, LANES, SIZES, TIMING_KEYS
from vnet.process_ends import IN_FILES, SOCKETS_RULE, ProcessEnd, StreamSpec, fit_sockets
from vnet.transports import TRANSPORTS

__all__ = [
    "ANY_UID",
    "FILE_RULE",
    "MEMORY",
    "MEMORY_MAX",
    "MIB",
    "Must",
    "DeviceSpec",
    "FaultSpec",
    "HostSpec",
    "LinkSpec",
    "Netns",
    "NtbSpec",
    "PATH_RULE",
    "PeerSpec",
    "WINDOW",
    "WINDOW_MAX",
    "file_key",
    "fits_socket",
    "is_path",
    "must",
]

MIB = 1 << 20
MEMORY_MAX = 61440
"""Largest memory of a host in MiB: from 4 GiB up to the MMIO window of the root ports at 64 GiB."""
MEMORY = 128
"""Smallest default memory of a host in MiB."""
WINDOW_MAX = 2048
"""Largest memory window in MiB."""
WINDOW = 64
"""Smallest default memory window in MiB."""
FILE_RULE = "a file path, which is not empty"
"""Reason given for a bad file path, after "must be"."""


def file_key(path: str) -> str:
    """Return the absolute path without symbolic links: the same text for the same file or socket."""
    return str(Path(path).resolve())


def _one_of(values: Iterable[object]) -> str:
    return f"one of {', '.join(map(str, values))}"


@attrs.frozen
class HostSpec:
    """A host: one simulated machine with its own memory."""

    memory: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= MEMORY_MAX, f"between 1 and {MEMORY_MAX} (MiB)")
    )
    """Memory of the host in MiB. Default: 128, or more if the drivers of its devices need more. Memory of more
    than 3 GiB starts at 4 GiB, above the MSI window. Untouched pages use no real memory."""


def _chance() -> Any:
    return attrs.field(default=0.0, validator=CHANCE, metadata={"chance": True})


def _milliseconds(default: float | None) -> Any:
    return attrs.field(default=default, validator=MILLISECONDS)


@attrs.frozen
class FaultSpec:
    """Random faults of a link. The same ``seed`` and the same accesses give the same faults."""

    seed: int = 0
    """Seed of the random numbers that decide which accesses fail."""
    lost_doorbells: float = _chance()
    """Probability that a doorbell write (a kick of the driver) is lost."""
    lost_interrupts: float = _chance()
    """Probability that an interrupt message is lost."""
    delayed_interrupts: float = _chance()
    """Probability that an interrupt message arrives ``delay_ms`` late."""
    delay_ms: float = _milliseconds(5.0)
    """Delay of a delayed interrupt in milliseconds."""
    timeouts: float = _chance()
    """Probability that a read of registers or memory gets no completion."""
    unsupported: float = _chance()
    """Probability that a read of registers or memory completes with Unsupported Request."""
    aborted: float = _chance()
    """Probability that a read of registers or memory completes with Completer Abort."""
    poisoned: float = _chance()
    """Probability that the data of a read of registers or memory arrive poisoned."""
    flap_every_ms: float | None = _milliseconds(None)
    """Time from the start of a flap (the link goes down and up) to the next in milliseconds. Default: no flaps."""
    flap_ms: float | None = _milliseconds(None)
    """Length of a flap in milliseconds. Default: 50, or half of ``flap_every_ms`` if that is less."""

    @property
    def flap_length_ms(self) -> float:
        """Length of a flap in milliseconds, with the default filled in."""
        return flap_length(self.flap_every_ms) if self.flap_ms is None else self.flap_ms

    def problems(self) -> Iterator[FieldError]:
        """Yield the conflicts between fields."""
        if self.flap_every_ms is not None and self.flap_every_ms <= self.flap_length_ms:
            why = f"must be above {self.flap_length_ms:g} (flap_ms), or the link is never up"
            yield FieldError(("flap_every_ms",), self.flap_every_ms, why)


@attrs.frozen
class WireSpec:
    """A wire that carries a link's requests as packets. Each probability is that of one packet; none is the default."""

    seed: int = 0
    """Seed of the random numbers that decide which packets are affected. The same accesses get the same faults."""
    aer: bool = True
    """Whether the functions and the root port have Advanced Error Reporting."""
    ecrc: bool = False
    """Whether TLPs have a digest (ECRC), which both ends check."""
    bit_errors: float = _chance()
    """Probability that one bit of a TLP is inverted."""
    lost_tlps: float = _chance()
    """Probability that a TLP vanishes."""
    lost_acks: float = _chance()
    """Probability that an Ack or Nak vanishes."""
    duplicated: float = _chance()
    """Probability that a TLP arrives twice."""
    reordered: float = _chance()
    """Probability that a TLP arrives after the next one."""
    lost_credits: float = _chance()
    """Probability that an update of credits vanishes."""
    retrains: float = _chance()
    """Probability that the link is retrained during a TLP, which is lost."""
    surprise_downs: float = _chance()
    """Probability that the link goes down during a TLP. It is trained again after 10 ms."""
    hot_resets: float = _chance()
    """Probability that the root port resets the link during a TLP. It is trained again after 10 ms."""
    unanswered: float = _chance()
    """Probability that a request gets no completion."""
    aborted: float = _chance()
    """Probability that a request completes with Completer Abort."""
    poisoned: float = _chance()
    """Probability that the data of a completion is marked as damaged."""
    corrupted: float = _chance()
    """Probability that one bit of a TLP is inverted before it gets its sequence number: only a digest shows it."""

    def problems(self) -> Iterator[FieldError]:
        """Yield the conflicts between fields."""
        if self.ecrc and not self.aer:
            yield FieldError(("ecrc",), self.ecrc, "must be false without aer, which turns digests on")


@attrs.frozen
class LinkSpec:
    """A PCI Express link from the root complex of one host to an endpoint controller of another host.

    One of its ends may be another process. Accesses take no time unless at least one of ``generation``, ``lanes``,
    ``max_payload``, ``max_read_request``, ``completion_boundary`` and ``read_latency_ns`` is given.
    """

    root: str | ProcessEnd = attrs.field(metadata=IN_FILES)
    """Name of the host with the root complex, or the socket of a client in another process."""
    endpoint: str | ProcessEnd = attrs.field(metadata=IN_FILES)
    """Name of the host with the endpoint controller, or the socket of a server in another process."""
    generation: int | None = attrs.field(default=None, validator=must(GENERATIONS.__contains__, _one_of(GENERATIONS)))
    """PCI Express generation, which sets the rate of a lane. Default on a timed link: 3."""
    lanes: int | None = attrs.field(default=None, validator=must(LANES.__contains__, _one_of(LANES)))
    """Number of lanes. Default on a timed link: 8."""
    max_payload: int | None = attrs.field(default=None, validator=must(SIZES.__contains__, _one_of(SIZES)))
    """Largest payload of a packet in bytes. Default on a timed link: 256."""
    max_read_request: int | None = attrs.field(default=None, validator=must(SIZES.__contains__, _one_of(SIZES)))
    """Largest read request in bytes. Default on a timed link: 512."""
    completion_boundary: int | None = attrs.field(default=None, validator=must((64, 128).__contains__, "64 or 128"))
    """Address boundary in bytes at which the root complex cuts completions. Default: cut at ``max_payload`` only."""
    read_latency_ns: int | None = attrs.field(
        default=None, validator=must(lambda v: 0 <= v <= 1_000_000_000, "between 0 and 1000000000 (ns)")
    )
    """Time in nanoseconds from a read to its completion, besides the transfer. Default on a timed link: 500."""
    faults: FaultSpec | None = None
    """Random faults. Default: none."""
    trace: str | None = attrs.field(default=None, validator=must(is_path, FILE_RULE))
    """File for a text trace, a line for each packet; an older file is overwritten. Default: no trace."""

    vfio_user: str | None = attrs.field(default=None, validator=must(fit_sockets, SOCKETS_RULE))
    """Unix socket that joins the two hosts if each runs in its own process (`vnet up --only HOST`); that of function N
    is called PATH.N. Default: both hosts run in one process."""
    stream: StreamSpec | None = None
    """Stream that joins the two hosts if each runs in its own process, on one machine or on two
    (`vnet up --only HOST --connect` or `--listen`). Default: none."""
    wire: WireSpec | None = None
    """Requests and DMA travel as packets of bytes, and lost packets are repeated. Default: no wire."""
    lossy: bool = attrs.field(default=False, metadata={"key": False})
    """Whether the other process's part of the link can lose doorbells or interrupts."""

    @property
    def ends(self) -> tuple[str, str]:
        """Names of the root complex's and of the endpoint's host; of an end in another process, with its socket."""
        return str(self.root), str(self.endpoint)

    @property
    def remote(self) -> bool:
        """Whether one of its ends is another process."""
        return isinstance(self.root, ProcessEnd) or isinstance(self.endpoint, ProcessEnd)

    @property
    def timed(self) -> bool:
        """Whether a field that makes accesses take time is given."""
        return any(getattr(self, key) is not None for key in TIMING_KEYS)


@attrs.frozen
class NtbSpec:
    """A non-transparent bridge (NTB): an endpoint function that joins two links, both of which end at its host."""

    host: str
    """Name of the host with the NTB function; the endpoint of both links."""
    primary: str
    """Name of the link whose root complex belongs to the host with the device."""
    secondary: str
    """Name of the link whose root complex belongs to the host with the driver."""
    mw: int | None = attrs.field(
        default=None, validator=must(lambda v: 1 <= v <= WINDOW_MAX, f"between 1 and {WINDOW_MAX} (MiB)")
    )
    """Size of the memory window in MiB: the part of the driver's host's memory that the device can access. Default: 64,
    or more if the driver needs more."""
    more_mw: tuple[int, ...] = attrs.field(
        default=(),
        validator=must(
            lambda v: len(v) < MAX_MWS and all(1 <= size <= WINDOW_MAX for size in v),
            f"at most {MAX_MWS - 1} sizes between 1 and {WINDOW_MAX} (MiB)",
        ),
    )
    """Sizes of further memory windows in MiB, for other users of the NTB: virtio uses the first window alone."""
    spads: int = attrs.field(default=SPADS, validator=must(lambda v: 1 <= v <= MAX_SPADS, f"between 1 and {MAX_SPADS}"))
    """Number of scratchpads of each host."""
    ids: Literal["1957:0809", "104c:b00d"] = "1957:0809"
    """Vendor id and device id of the PCI function: those that have its layout in Linux's driver, or those of the
    kernel's guide to NTB functions, with which Linux's driver expects another layout. Our driver knows both."""


@attrs.frozen
class Netns:
    """A network namespace used by a port of a device."""

    host: str
    """Name of the port's host."""
    name: str
    """Name of the namespace."""
    own: bool
    """Whether the namespace is made and removed with the system."""


RecordType = type[Any]
"""Class of a record; `DeviceSpec` has a key called type."""


@attrs.frozen
class DeviceSpec:
    """A virtio device: its type, transport and carrier. Each device type adds its own keys and both ends."""

    type: str = "net"
    """Device type."""
    transport: str = attrs.field(default="pci", validator=must(TRANSPORTS.__contains__, lambda: _one_of(TRANSPORTS)))
    """Virtio transport between driver and device."""
    link: str | None = None
    """Name of the link that carries the device, for transports between two hosts on a link."""
    host: str | None = None
    """Name of the host that has both driver and device, for transports within one host."""
    ntb: str | None = None
    """Name of the NTB that carries the device, for transports over an NTB."""
    function: int = attrs.field(
        default=0, validator=must(lambda v: 0 <= v < MAX_FUNCTIONS, f"between 0 and {MAX_FUNCTIONS - 1}")
    )
    """Number of the PCI endpoint function, for transports on a link. Each device on a link needs its own."""
    queue_size: int = attrs.field(
        default=256, validator=must(lambda v: 2 <= v <= 32768 and not v & (v - 1), "a power of two between 2 and 32768")
    )
    """Largest number of descriptors in each virtqueue."""
    features_off: tuple[str, ...] = ()
    """Names of feature bits that the device does not offer, such as EVENT_IDX."""
    features_on: tuple[str, ...] = ()
    """Names of feature bits that the device offers only if they are named here, such as IN_ORDER."""
    ring: Literal["split", "packed"] = "split"
    """Virtqueue format: packed is offered only if it is given here."""
    mode: Literal["direct", "mediated"] = "direct"
    """In direct mode, the device reads and writes its port itself. In mediated mode, a second device and an unmodified
    driver on the device's host do so, and a mediator copies between the two devices."""
    options: TransportOptions = attrs.field(default=TransportOptions(), metadata={"key": False})
    """Options of the transport; in a file they are keys of the device."""
    elsewhere: Literal["driver", "device"] | None = attrs.field(default=None, metadata={"key": False})
    """The side behind a link's end in another process; None: no link leads to another process."""

    virtio: ClassVar[VirtioType[Any, Any]]
    """The virtio device type; each subclass names its own."""
    unit: ClassVar[RecordType | None] = None
    """Record of a unit that comes and goes while the device runs, such as a LUN; None: this type has no such units."""
    units_key: ClassVar[tuple[str, ...]] = ()
    """Keys of the list of units in the device."""
    queue_size_min: ClassVar[int] = 2
    """Smallest ``queue_size`` that the driver of this device type can use."""

    def identity(self, name: str, reporter: Reporter = SILENT) -> Identity:
        """Return what the transport shows of the device with this name, whose events ``reporter`` emits."""
        return Identity(
            self.virtio.device_id,
            name,
            packed=self.ring == "packed",
            class_code=self.virtio.class_code,
            reporter=reporter,
            features_on=self.features_on_mask(),
        )

    @property
    def features(self) -> int:
        """Feature bits that may be offered and accepted."""
        unwanted = self.virtio.on_request & ~self.features_on_mask()
        return self.virtio.supported & ~self.features_off_mask() & ~unwanted

    def in_memory(self) -> Self:
        """Return the device with ports and stores in memory, without interfaces, files and threads, for simulations."""
        return self

    def memory(self) -> int:
        """Return the most memory of its host that the driver needs, in bytes; 0 if unknown."""
        return 0

    def problems(self) -> Iterator[FieldError]:
        """Yield the invalid fields and the conflicts between fields."""
        yield from self._unknown_features("features_off", self.features_off_mask)
        yield from self._unknown_features("features_on", self.features_on_mask)
        yield from self._not_carried()
        if both := sorted({*map(str.upper, self.features_off)} & {*map(str.upper, self.features_on)}):
            why = f"features_off removes {', '.join(both)}"
            yield FieldError(("features_on",), list(self.features_on), why)

    def shortages(self) -> Iterator[FieldError]:
        """Yield the fields whose size keeps the device from coming up; only for a device without `problems`."""
        if self.queue_size < self.queue_size_min:
            why = f"must be at least {self.queue_size_min} for a {self.type} device"
            yield FieldError(("queue_size",), self.queue_size, why)

    def _unknown_features(self, field: str, to_mask: Callable[[tuple[str, ...]], int]) -> Iterator[FieldError]:
        names = getattr(self, field)
        try:
            to_mask(names)
        except KeyError as exc:
            yield FieldError((field,), list(names), str(exc.args[0]))

    def features_off_mask(self, off: tuple[str, ...] | None = None) -> int:
        """Return the feature bits named in ``off``, by default in ``features_off``.

        Raises KeyError, with a message that lists the valid names.
        """
        return self._named(self.features_off if off is None else off, self.virtio.switchable)

    def features_on_mask(self, on: tuple[str, ...] | None = None) -> int:
        """Return the feature bits named in ``on``, by default in ``features_on``. Raises KeyError likewise."""
        return self._named(self.features_on if on is None else on, self._on_request)

    @property
    def _on_request(self) -> int:
        """Feature bits that the device offers only if it is asked to."""
        return self.virtio.supported & ON_REQUEST | self.virtio.on_request

    def _not_carried(self) -> Iterator[FieldError]:
        names = {self.virtio.table.name(bit): bit for bit in bits(self._on_request)}
        able = OF_RINGS | self.virtio.on_request | TRANSPORTS[self.transport].extra_features
        lacking = [name for name in map(str.upper, self.features_on) if name in names and not able >> names[name] & 1]
        if lacking:
            why = f"devices over {self.transport} can't offer {', '.join(lacking)}"
            yield FieldError(("features_on",), list(self.features_on), why)

    def _named(self, wanted: tuple[str, ...], known: int) -> int:
        names = {self.virtio.table.name(bit): bit for bit in bits(known)}
        for name in wanted:
            if name.upper() not in names:
                raise KeyError(f"unknown feature {name}; known are {', '.join(names)}")
        return mask(names[name.upper()] for name in wanted)

    @property
    def socket(self) -> str | None:
        """Unix socket of the process that has the device; None: this system has it."""
        return None if self.options.peer is None else self.options.peer.path

    @property
    def foreign(self) -> bool:
        """Whether the device belongs to another process, so that this system has only the driver's end."""
        return self.options.peer is not None or self.elsewhere == "device"

    @property
    def units(self) -> Mapping[str, Any]:
        """Records of the units by address, such as 0:1."""
        return {}

    def with_units(self, units: Iterable[Any]) -> Self:
        """Return the device with these records of units instead of its own."""
        return self

    @property
    def driven(self) -> bool:
        """Whether this system has the driver's end."""
        return self.elsewhere != "driver"

    def namespaces(self, system: str, hosts: tuple[str, str]) -> Iterator[Netns]:
        """Yield the namespaces of its ports in ``system``; ``hosts`` are the driver's and the device's."""
        return iter(())

    @property
    def queue_count(self) -> tuple[str, int]:
        """The field that sets the number of virtqueues, and that number."""
        return "type", 1

    def hints(self, system: str, name: str, hosts: tuple[str, str]) -> Iterator[str]:
        """Yield shell commands with which a user can try the device."""
        return iter(())

    def paths(self) -> Iterator[Path]:
        """Yield the paths of sockets and terminals that its ends make."""
        return iter(())

    def claims(self, hosts: tuple[str, str]) -> Iterator[tuple[Keys, tuple[str, ...]]]:
        """Yield (keys, resource) for each resource that only one device can use, such as an interface.

        The first item of a resource is its kind.
        """
        if self.socket is not None:
            yield ("socket",), ("file", file_key(self.socket))


@attrs.frozen
class PeerSpec(DeviceSpec):
    """A device type whose device end can also be a driver (net, rpmsg), so that it can be mediated."""

    local_features_off: tuple[str, ...] = ()
    """In mediated mode, names of feature bits that are not offered to the driver on the device's host."""
    local_ring: Literal["split", "packed"] | None = None
    """In mediated mode, the virtqueue format for the driver on the device's host. Default: the value of ``ring``."""

    @property
    def local_features(self) -> int:
        """Feature bits that the local driver is offered (mediated mode)."""
        usual = self.virtio.supported & ~self.virtio.on_request
        return usual & ~self.features_off_mask(self.local_features_off)

    def local_memory(self) -> int:
        """Return the most memory that the local driver needs, in bytes; 0 if unknown (mediated mode)."""
        return 0

    def problems(self) -> Iterator[FieldError]:
        for field in ("local_features_off", "local_ring"):
            given = getattr(self, field)
            if self.mode == "direct" and given:
                shown = given if isinstance(given, str) else list(given)
                yield FieldError((field,), shown, "requires mode = 'mediated': only there is a local driver")
        yield from self._unknown_features("local_features_off", self.features_off_mask)
        yield from super().problems()
