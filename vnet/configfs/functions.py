"""Endpoint functions of the tree, and their drivers: what each kind of function is in a topology."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from drivers.bus.back import VIRTIO_VENDOR
from drivers.carriers.ntb_registers import DB_COUNT, IDS, MAX_MWS, MAX_SPADS
from drivers.contracts.hw import PciHeader
from drivers.transports.epf_mailbox.registers import PCI_IDS
from drivers.transports.pci.registers import DEVICE_BASE
from vnet.configfs.settings import Settings, device_of, table_of
from vnet.configfs.values import TreeError
from vnet.ends import DEVICE_TYPES
from vnet.pcie.ntb import CLASS_CODE
from vnet.spec import MIB, DeviceSpec, NtbSpec
from vnet.topology import Topology
from vnet.transports import TRANSPORTS

__all__ = ["HEADER", "INTERRUPTS", "NTB_ATTRIBUTES", "Function", "FunctionDriver", "NtbDriver", "VirtioDriver"]
__all__ += ["function_drivers"]

HEADER: Mapping[str, int] = {
    "vendorid": 16,
    "deviceid": 16,
    "revid": 8,
    "progif_code": 8,
    "subclass_code": 8,
    "baseclass_code": 8,
    "cache_line_size": 8,
    "subsys_vendor_id": 16,
    "subsys_id": 16,
    "interrupt_pin": 8,
}
"""Bits of each attribute of the configuration header."""
INTERRUPTS: Mapping[str, int] = {"msi_interrupts": 8, "msix_interrupts": 16}
"""Bits of each attribute with a number of interrupts."""
NTB_ATTRIBUTES: Mapping[str, int] = {
    "db_count": 32,
    "spad_count": 32,
    "num_mws": 32,
    **{f"mw{window}": 64 for window in range(1, MAX_MWS + 1)},
}
"""Bits of each attribute of an NTB function. All are 0 until they are written."""
DOORBELLS = range(3, DB_COUNT + 1)
"""Numbers of doorbells that an NTB function can be asked for."""
BOUND = "the function is linked to a controller; unlink it first"


def _attributes(header: PciHeader) -> dict[str, int]:
    """Return the attributes that show a header."""
    return {
        "vendorid": header.vendor_id,
        "deviceid": header.device_id,
        "revid": header.revision,
        "progif_code": header.class_code & 0xFF,
        "subclass_code": header.class_code >> 8 & 0xFF,
        "baseclass_code": header.class_code >> 16,
        "cache_line_size": 0,
        "subsys_vendor_id": header.subsystem_vendor_id,
        "subsys_id": header.subsystem_id,
        "interrupt_pin": header.interrupt_pin,
    }


@attrs.define(eq=False)
class Function:
    """An endpoint function: one that runs, or one that waits for its controllers."""

    name: str
    """Name of the directory, and of the device or NTB in the system."""
    driver: FunctionDriver
    index: int
    settings: Settings
    header: dict[str, int] = attrs.field(factory=dict)
    """Attributes of the header that users wrote."""
    interrupts: dict[str, int] = attrs.field(factory=dict)
    """Numbers of interrupts that users wrote."""
    controllers: dict[str, str] = attrs.field(factory=dict)
    """Link of the controller by side, primary or secondary."""
    added: bool = False
    """Whether the system has it."""

    @property
    def complete(self) -> bool:
        """Whether it is linked to as many controllers as it needs."""
        return len(self.controllers) == self.driver.sides

    @property
    def full_name(self) -> str:
        """Name of its device in the kernel, which its directory of settings has."""
        return f"{self.driver.name}.{self.index}"

    def check_free(self) -> None:
        """Raise TreeError (EBUSY) while the function is linked to a controller."""
        if self.controllers:
            raise TreeError(errno.EBUSY, BOUND)

    def shown(self, attribute: str) -> int:
        """Return the value of an attribute of the header."""
        headers = self.driver.headers(self)
        header = next(filter(self._agrees, headers), headers[0])
        return self.header.get(attribute, _attributes(header)[attribute])

    def choose_header(self) -> int:
        """Return the index of the header that users wrote. Raises TreeError (EINVAL) if the function can't have it."""
        headers = self.driver.headers(self)
        for index, header in enumerate(headers):
            if self._agrees(header):
                return index
        for name, value in self.header.items():
            known = dict.fromkeys(_attributes(header)[name] for header in headers)
            if value not in known:
                raise TreeError(errno.EINVAL, f"{name} must be {' or '.join(f'{each:#06x}' for each in known)}")
        raise TreeError(errno.EINVAL, "vendorid and deviceid do not go together")

    def _agrees(self, header: PciHeader) -> bool:
        return self.header.items() <= _attributes(header).items()


class FunctionDriver(ABC):
    """A kind of endpoint functions: a directory below functions."""

    name: str
    sides: ClassVar[int] = 1
    """Number of controllers of a function."""
    table: ClassVar[str] = "devices"
    """Table of a topology that its functions belong to."""
    own_directory: ClassVar[bool] = True
    """Whether a function has its directory of settings from the start; else users make it."""

    @property
    def alias(self) -> str:
        """The other spelling of the name: the kernel's documents use both."""
        return self.name.replace("_", "-") if "_" in self.name else self.name.replace("-", "_")

    @abstractmethod
    def headers(self, function: Function) -> tuple[PciHeader, ...]:
        """Return the headers that the function can have, its default first."""

    @abstractmethod
    def new(self, name: str, index: int) -> Function:
        """Return a new function."""

    @abstractmethod
    def running(self, name: str, index: int, topology: Topology) -> Function | None:
        """Return the function of a running system's device or NTB; None if another driver has it."""

    @abstractmethod
    def part(self, function: Function, topology: Topology) -> Topology:
        """Return the part of a topology that the function is in ``topology``. Raises TreeError (EINVAL)."""


@attrs.frozen(eq=False)
class VirtioDriver(FunctionDriver):
    """Functions that are virtio devices over one transport."""

    name: str
    transport: str

    def headers(self, function: Function) -> tuple[PciHeader, ...]:
        virtio: Any = DEVICE_TYPES[function.settings.table["type"]].spec.virtio
        number, code = virtio.device_id, virtio.class_code
        if self.transport == "epf_mailbox":
            return tuple(PciHeader(*ids, 1, code, VIRTIO_VENDOR, number) for ids in PCI_IDS.values())
        return (PciHeader(VIRTIO_VENDOR, DEVICE_BASE + number, 1, code, VIRTIO_VENDOR, 0x40 + number),)

    def new(self, name: str, index: int) -> Function:
        return Function(name, self, index, Settings(DeviceSpec, {"type": "net", "transport": self.transport}))

    def running(self, name: str, index: int, topology: Topology) -> Function | None:
        spec = topology.devices[name]
        if spec.transport != self.transport or spec.link is None:
            return None
        table = {"type": spec.type, "transport": spec.transport, **table_of(spec)}
        for key in ("link", "function"):
            table.pop(key, None)
        function = Function(name, self, index, Settings(DeviceSpec, table), added=True)
        function.controllers["primary"] = spec.link
        return function

    def part(self, function: Function, topology: Topology) -> Topology:
        header, link = function.choose_header(), function.controllers["primary"]
        taken = {device.function for device in topology.devices.values() if device.link == link}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        table = {**function.settings.table, "link": link, "function": number}
        if self.transport == "epf_mailbox" and header:
            table["ids"] = list(PCI_IDS)[header]
        return Topology({}, {}, {function.name: device_of(Settings(DeviceSpec, table))})


@attrs.frozen(eq=False)
class NtbDriver(FunctionDriver):
    """Functions that join two hosts (Linux: pci-epf-ntb)."""

    name: str = "pci_epf_ntb"
    sides = 2
    table = "ntbs"
    own_directory = False

    def headers(self, function: Function) -> tuple[PciHeader, ...]:
        return tuple(PciHeader(*ids, 0, CLASS_CODE, *ids) for ids in IDS.values())

    def new(self, name: str, index: int) -> Function:
        return Function(name, self, index, Settings(NtbSpec, dict.fromkeys(NTB_ATTRIBUTES, 0)))

    def running(self, name: str, index: int, topology: Topology) -> Function | None:
        spec = topology.ntbs[name]
        sizes = [(size or 0) * MIB for size in (spec.mw, *spec.more_mw)]
        values = {"db_count": DB_COUNT, "spad_count": spec.spads, "num_mws": len(sizes)}
        values |= {f"mw{at}": size for at, size in enumerate(sizes, 1)}
        function = Function(name, self, index, Settings(NtbSpec, dict.fromkeys(NTB_ATTRIBUTES, 0) | values), added=True)
        function.header |= dict(zip(("vendorid", "deviceid"), IDS[spec.ids], strict=True))
        function.controllers |= {"primary": spec.primary, "secondary": spec.secondary}
        return function

    def part(self, function: Function, topology: Topology) -> Topology:
        header, values = function.choose_header(), function.settings.table
        count = values["num_mws"]
        if not 1 <= count <= MAX_MWS:
            raise TreeError(errno.EINVAL, f"num_mws must be between 1 and {MAX_MWS}")
        sizes = [values[f"mw{at}"] for at in range(1, count + 1)]
        for at, size in enumerate(sizes, 1):
            if not size or size % MIB:
                raise TreeError(errno.EINVAL, f"mw{at} must be a multiple of {MIB:#x}, and not 0")
        if values["db_count"] not in DOORBELLS:
            raise TreeError(errno.EINVAL, f"db_count must be between {DOORBELLS.start} and {DOORBELLS.stop - 1}")
        if not 1 <= values["spad_count"] <= MAX_SPADS:
            raise TreeError(errno.EINVAL, f"spad_count must be between 1 and {MAX_SPADS}")
        primary, secondary = (function.controllers[side] for side in ("primary", "secondary"))
        first, *more = (size // MIB for size in sizes)
        host = str(topology.links[primary].endpoint)
        spec = NtbSpec(host, primary, secondary, first, tuple(more), values["spad_count"])
        ids: Any = list(IDS)[header]
        return Topology({}, {}, {}, {function.name: attrs.evolve(spec, ids=ids)})


NAMES: Mapping[str, str] = {"pci": "pci_epf_virtio", "epf_mailbox": "pci-epf-vhost"}
"""Name of the function driver by transport; that of another transport is made from its name."""


def function_drivers() -> dict[str, FunctionDriver]:
    """Return the drivers of endpoint functions by name: a driver for each transport on a link, and that of NTBs."""
    made: list[FunctionDriver] = [
        VirtioDriver(NAMES.get(name, f"pci_epf_{name}"), name)
        for name, transport in TRANSPORTS.items()
        if transport.on == "link"
    ]
    return {driver.name: driver for driver in [*made, NtbDriver()]}
