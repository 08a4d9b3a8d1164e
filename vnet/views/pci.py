"""Views of PCI Express functions, from the root complex and from the endpoint, and of NTBs."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from vnet.views.plain import INLINE, KEY

__all__ = [
    "BarView",
    "BusView",
    "CapabilityView",
    "ConfigImage",
    "ConfigImages",
    "ConfigView",
    "ControllerView",
    "EndpointFunctionView",
    "ErrorView",
    "FunctionView",
    "LinkErrorView",
    "MsixView",
    "NtbSideView",
    "NtbStatistics",
    "NtbView",
    "NtbWindowView",
    "OutboundView",
    "RootErrorView",
    "RootStatistics",
]


@attrs.frozen
class BarView:
    """A memory BAR."""

    bar: int
    """Number of its first register."""
    address: int
    """Address on the link; 0 if software assigned none."""
    size: int
    """Size in bytes."""


@attrs.frozen
class CapabilityView:
    """A capability in the configuration space."""

    offset: int
    id: int
    name: str


@attrs.frozen
class ErrorView:
    """The error registers of a function: those of Advanced Error Reporting, and the device status."""

    device: tuple[str, ...]
    """Kinds of errors since software last cleared them, from the device status register."""
    uncorrectable: tuple[str, ...]
    """Errors of the uncorrectable error status register."""
    correctable: tuple[str, ...]
    """Errors of the correctable error status register."""
    masked: tuple[str, ...]
    """Errors that are logged but not reported."""
    first: str
    """The uncorrectable error that the header is about; empty without one."""
    header: str
    """Header of its TLP, as four hexadecimal words; empty without one."""


@attrs.frozen
class RootErrorView:
    """Errors that a root port received, and how the host of the root complex handled them."""

    port: str
    """Name of the root port as lspci shows it."""
    errors: ErrorView = attrs.field(metadata=INLINE)
    received: tuple[str, ...]
    """Kinds of error messages of the root error status register that are not handled yet."""
    handled: Mapping[str, int]
    """Errors that were read from the registers of functions and of the port, and cleared, by name."""
    link_resets: int
    """Resets of the link because of fatal errors."""


@attrs.frozen
class LinkErrorView:
    """Advanced Error Reporting at both ends of a link."""

    root: RootErrorView
    functions: Mapping[str, ErrorView]
    """Registers of the endpoint's functions, by the name that lspci shows."""


@attrs.frozen
class FunctionView:
    """A function as the root complex enumerated it."""

    name: str
    """Name as lspci shows it."""
    vendor: int
    device: int
    online: bool
    """Whether the link is up and the function configured."""
    bars: tuple[BarView, ...]
    capabilities: tuple[CapabilityView, ...]
    vectors: tuple[int, ...]
    """MSI-X vectors with a handler."""
    intx: bool
    """Whether INTx is asserted."""


@attrs.frozen
class BusView:
    """A bus of a root complex, behind one link."""

    bus: int
    link: str
    up: bool
    epoch: int
    functions: tuple[FunctionView, ...]


@attrs.frozen
class RootStatistics:
    """Interrupts received; spurious ones have no handler."""

    msi: int
    msi_spurious: int
    intx: int
    intx_spurious: int


@attrs.frozen
class ConfigView:
    """A configuration space."""

    vendor: int
    device: int
    class_code: int = attrs.field(metadata={KEY: "class"})
    command: tuple[str, ...]
    """Names of the bits that are set in the command register."""
    bars: tuple[BarView, ...]
    capabilities: tuple[CapabilityView, ...]


@attrs.frozen
class ConfigImage:
    """The bytes of a function's configuration space."""

    host: str
    """Host whose root complex enumerates the function."""
    name: str
    """Name as lspci shows it."""
    link: str
    up: bool
    """Whether the link is up."""
    owner: str
    """Device or NTB of the topology, or "root port"; empty if there is none."""
    bars: tuple[BarView, ...]
    image: bytes
    """4096 bytes, as the endpoint has them."""


@attrs.frozen
class ConfigImages:
    """The functions of a system, by host, then by name."""

    functions: tuple[ConfigImage, ...]


@attrs.frozen
class MsixView:
    """An MSI-X table."""

    vectors: int
    """Number of vectors."""
    enabled: bool
    masked: tuple[int, ...]
    """Masked vectors."""
    pending: tuple[int, ...]
    """Vectors whose interrupt waits until it is unmasked."""


@attrs.frozen
class EndpointFunctionView:
    """A function as its endpoint controller has it."""

    function: int
    config: ConfigView = attrs.field(metadata=INLINE)
    msix: MsixView | None
    intx: bool
    """Whether the function asserts INTx."""


@attrs.frozen
class OutboundView:
    """An outbound window into the other host's memory."""

    addr: int
    """Address on the link."""
    size: int
    """Size in bytes."""
    function: int
    pinned: int
    """Number of pinned views."""


@attrs.frozen
class ControllerView:
    """An endpoint controller."""

    name: str
    link: str
    functions: tuple[EndpointFunctionView, ...]
    windows: tuple[OutboundView, ...]


@attrs.frozen
class NtbStatistics:
    """Doorbells and commands of one host."""

    doorbells: int
    """Doorbells that interrupted the other host."""
    dead_doorbells: int
    """Doorbells with wrong data, or not configured by the other host."""
    commands: int
    refused: int


@attrs.frozen
class NtbWindowView:
    """A memory window of an NTB."""

    name: str
    offset: int
    """Offset in the BAR of the windows."""
    size: int
    """Size in bytes."""
    shares: int
    """Address of this host's memory that the other host accesses through the window; 0 if none."""
    mapped: bool


@attrs.frozen
class NtbSideView:
    """One host's interface of an NTB."""

    controller: str
    link_requested: bool
    bars: Mapping[str, int]
    """Number of the first register, by name of the BAR."""
    config: Mapping[str, int]
    """Configuration words by name."""
    configured_doorbells: int
    """Number of doorbells that this host configured."""
    spads: Mapping[str, int]
    """Scratchpads by name."""
    rung: Mapping[str, int]
    """Number of times that this host rang a doorbell, by name."""
    windows: tuple[NtbWindowView, ...]
    figures: NtbStatistics = attrs.field(metadata=INLINE)


@attrs.frozen
class NtbView:
    """An NTB between two hosts."""

    host: str
    """Host that has the function."""
    link_up: bool
    """Whether the link between the two hosts is up."""
    link_epoch: int
    windows: tuple[int, ...]
    """Size of each memory window in bytes."""
    primary: NtbSideView
    secondary: NtbSideView
