"""Handling of reported errors at the root complex, as in Linux's AER driver: read, clear, report, reset the link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import attrs
import trio

from drivers.contracts.events import NO_EVENTS, Events, PciErrorHandled, Source
from drivers.contracts.hw import PciError
from vnet.link.base import all_ones
from vnet.link.wire.errors import ErrorWire, Severity
from vnet.pcie.aer import (
    ADVISORY,
    CONTROL,
    CONTROL_CHECK,
    CONTROL_FIRST,
    CONTROL_GENERATE,
    COR_MASK,
    COR_STATUS,
    DEVICE_NAMES,
    ERROR_SOURCE,
    HEADER_LOG,
    LOG_SIZE,
    ROOT_COMMAND,
    ROOT_STATUS,
    UNCOR_MASK,
    UNCOR_SEVERITY,
    UNCOR_STATUS,
    correctable_names,
    header_words,
    uncorrectable_names,
)
from vnet.pcie.config_space import (
    CAP_PCI_EXPRESS,
    COMMAND,
    CONTROL_MAX_PAYLOAD,
    DEVICE_CONTROL,
    DEVICE_STATUS,
    EXT_CAP_AER,
    EXTENDED_START,
    PciCommand,
)
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.root_errors import (
    ENABLES,
    RECEIVED,
    RECEIVED_CORRECTABLE,
    RECEIVED_FATAL,
    RECEIVED_UNCORRECTABLE,
    SEVERAL_CORRECTABLE,
    SEVERAL_UNCORRECTABLE,
    RootErrors,
)
from vnet.views.pci import RootErrorView

__all__ = ["ErrorService", "Reporting"]

HOLD = 1e-3
"""Seconds after a look at the registers until the next one, so that reports of errors do not fill the link."""
ALL_ONES = all_ones(4)


@attrs.frozen(eq=False)
class Reporting:
    """The wire of a root port, and what its errors are reported with."""

    wire: ErrorWire
    digests: bool = False
    """Packets are sent with a digest (ECRC), which is checked."""
    events: Events = NO_EVENTS


@attrs.frozen(eq=False)
class _Agent:
    """A function or a root port, as the service accesses its registers."""

    name: str
    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]
    express: int
    aer: int
    """Offsets of the two capabilities."""
    handle: PciFunctionHandle | None = None
    """None for the root port."""

    def get(self, register: int) -> int:
        """Return a register of Advanced Error Reporting; 0 if nothing answers."""
        value = self.read(self.aer + register, 4)
        return 0 if value == ALL_ONES else value

    def set(self, register: int, value: int) -> None:
        self.write(self.aer + register, 4, value)

    def header(self, errors: int) -> str:
        """Return the header log if it is about one of these errors; else empty."""
        if not errors or not errors >> (self.get(CONTROL) & CONTROL_FIRST) & 1:
            return ""
        return header_words(self.read(self.aer + HEADER_LOG + at, 4) for at in range(0, LOG_SIZE, 4))

    def clear_device_status(self) -> None:
        self.write(self.express + DEVICE_STATUS, 2, sum(DEVICE_NAMES))


class ErrorService:
    """The error handling of one root port and the functions behind it."""

    def __init__(
        self,
        reporting: Reporting,
        link: str,
        name: str,
        bus: int,
        aperture: tuple[int, int],
        functions: Callable[[], Iterable[PciFunctionHandle]],
    ) -> None:
        """``name`` is that of the root port, ``functions`` returns those behind it."""
        self._wire = reporting.wire
        self._digests = CONTROL_GENERATE | CONTROL_CHECK if reporting.digests else 0
        self._events = reporting.events
        self._link = link
        self._functions = functions
        self._handled: Counter[str] = Counter()
        self._resets = 0
        self._known: dict[PciFunctionHandle, _Agent] = {}
        """Functions with error reporting, so that a look at their registers does not search for these."""
        self._busy = False
        """A look at the registers is planned, or was less than `HOLD` ago."""
        self.root = root = RootErrors(self._wire, bus, aperture, self._interrupt)
        express = root.config.capability(CAP_PCI_EXPRESS)
        assert express is not None
        self._port = _Agent(name, root.config.read, root.write, express, root.registers.at)
        root.write(COMMAND, 2, PciCommand.MEMORY | PciCommand.BUS_MASTER | PciCommand.SERR)
        self._enable(self._port)
        root.write(root.registers.at + ROOT_COMMAND, 4, sum(ENABLES.values()))

    def enable(self, handle: PciFunctionHandle) -> None:
        """Have a function that was just configured report its errors. Those from before a reset are handled first."""
        self._known.pop(handle, None)
        agent = self._agent(handle)
        if agent is not None:
            self._known[handle] = agent
            self._uncorrectable(agent)
            self._enable(agent)

    def _enable(self, agent: _Agent) -> None:
        payload = (self._wire.parameters.max_payload // 128).bit_length() - 1
        control = agent.read(agent.express + DEVICE_CONTROL, 2) & ~CONTROL_MAX_PAYLOAD
        control |= payload << 5 | sum(DEVICE_NAMES)
        agent.write(agent.express + DEVICE_CONTROL, 2, control)
        if self._digests:
            agent.set(CONTROL, agent.get(CONTROL) | self._digests)

    @staticmethod
    def _agent(handle: PciFunctionHandle) -> _Agent | None:
        """Return a function as it is accessed; None if it has no error reporting, or is gone."""
        express = handle.capability(CAP_PCI_EXPRESS)
        if express is None or handle.config_read(EXTENDED_START, 2) != EXT_CAP_AER:
            return None
        return _Agent(handle.name, handle.config_read, handle.config_write, express, EXTENDED_START, handle)

    # Interrupts

    def _interrupt(self) -> None:
        if not self._busy:
            self._busy = True
            self._wire.plan(0.0, self._look)

    def _look(self) -> None:
        """Handle what the root error status has, as an interrupt handler and its thread do."""
        registers = self.root.registers
        status, sources = registers.get(ROOT_STATUS), registers.get(ERROR_SOURCE)
        self._port.set(ROOT_STATUS, status)
        if status & RECEIVED_FATAL:  # what functions have logged is read after the reset: the link may not work
            self._uncorrectable(self._port)
            self._recover()
        elif status & RECEIVED_UNCORRECTABLE:
            for agent in self._agents(sources >> 16, bool(status & SEVERAL_UNCORRECTABLE)):
                self._uncorrectable(agent)
        if status & RECEIVED_CORRECTABLE:
            for agent in self._agents(sources & 0xFFFF, bool(status & SEVERAL_CORRECTABLE)):
                self._correctable(agent)
        self._wire.plan(HOLD, self._rest)

    def _rest(self) -> None:
        self._busy = False
        if self.root.asserted:
            self._interrupt()

    def _agents(self, source: int, several: bool) -> list[_Agent]:
        """Return those that may have logged the errors: the root port alone, or else also all functions.

        An error that is about no function is logged by all, and reported by one.
        """
        agents = [self._port]
        if several or source != self.root.identity:
            self._known = {handle: agent for handle, agent in self._known.items() if handle in self._functions()}
            agents += [agent for handle, agent in self._known.items() if handle.online]
        return agents

    def _correctable(self, agent: _Agent) -> None:
        """Handle the correctable errors of a function, and the uncorrectable ones that another agent handles."""
        status = agent.get(COR_STATUS)
        if not status:
            return
        reported = status & ~agent.get(COR_MASK)
        agent.set(COR_STATUS, status)
        agent.clear_device_status()
        if reported:
            names, header = correctable_names(reported), ""
            if reported >> ADVISORY & 1:
                logged = agent.get(UNCOR_STATUS) & ~agent.get(UNCOR_SEVERITY)
                header = agent.header(logged)
                agent.set(UNCOR_STATUS, logged)
                names += uncorrectable_names(logged)
            self._report(agent, Severity.CORRECTABLE, names, header, () if agent.handle is None else (agent.handle,))

    def _uncorrectable(self, agent: _Agent) -> None:
        status = agent.get(UNCOR_STATUS)
        if not status:
            return
        reported, fatal = status & ~agent.get(UNCOR_MASK), agent.get(UNCOR_SEVERITY)
        kinds = [(Severity.NON_FATAL, reported & ~fatal), (Severity.FATAL, reported & fatal)]
        headers = [agent.header(bits) for _, bits in kinds]
        agent.set(UNCOR_STATUS, status)
        agent.clear_device_status()
        for (severity, bits), header in zip(kinds, headers, strict=True):
            if bits:
                self._report(agent, severity, uncorrectable_names(bits), header, tuple(self._functions()))

    def _report(
        self,
        agent: _Agent,
        severity: Severity,
        names: tuple[str, ...],
        header: str,
        functions: Iterable[PciFunctionHandle],
    ) -> None:
        """Report errors to listeners, and to the drivers of these functions."""
        self._handled.update(names)
        if (emit := self._events.links) is not None:
            source = Source(link=self._link)
            emit(PciErrorHandled(trio.current_time(), source, agent.name, severity.value, names, header))
        for handle in functions:
            handle.report_error(PciError(agent.name, severity.value, names))

    def _recover(self) -> None:
        """Reset the link, which resets all functions behind it; it is trained again. Harmless if it is down already."""
        self._resets += 1
        self._wire.hot_reset()

    @property
    def root_port(self) -> str:
        """Name of the root port as lspci shows it."""
        return self._port.name

    def snapshot(self) -> RootErrorView:
        """Return the registers of the root port, and what was handled."""
        status = self.root.registers.get(ROOT_STATUS)
        return RootErrorView(
            self._port.name,
            self.root.registers.snapshot(),
            tuple(code.name for code, bit in RECEIVED.items() if status & bit),
            dict(self._handled),
            self._resets,
        )
