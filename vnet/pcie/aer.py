"""Advanced Error Reporting of a function: its registers, and what an error does to them (PCI Express 6.2, 7.8.4).

No I/O. A bit exists only if a port of a wire can detect its error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vnet.link.datalink.errors import DataLinkError
from vnet.link.transaction.fields import MessageCode
from vnet.link.wire.errors import SEVERITIES, DetectedError, Severity, TransactionError, WireError
from vnet.pcie.config_space import (
    CAP_PCI_EXPRESS,
    DEVICE_CONTROL,
    DEVICE_STATUS,
    EXT_CAP_AER,
    STATUS,
    Capability,
    ConfigSpace,
    PciCommand,
    capability_of,
)
from vnet.views.pci import ErrorView

__all__ = [
    "ADVISORY",
    "CORRECTABLE",
    "ErrorRegisters",
    "MESSAGES",
    "UNCORRECTABLE",
    "aer_capability",
    "correctable_names",
    "header_words",
    "uncorrectable_names",
]

VERSION = 1
UNCOR_STATUS, UNCOR_MASK, UNCOR_SEVERITY, COR_STATUS, COR_MASK, CONTROL, HEADER_LOG = 4, 8, 0xC, 0x10, 0x14, 0x18, 0x1C
ROOT_COMMAND, ROOT_STATUS, ERROR_SOURCE = 0x2C, 0x30, 0x34
"""Offsets of registers in the capability."""
CONTROL_FIRST, CONTROL_GENERATE, CONTROL_CHECK = 0x1F, 1 << 6, 1 << 8
CONTROL_CAPABLE = 1 << 5 | 1 << 7
"""Digests can be generated and checked."""
D, T = DataLinkError, TransactionError
UNCORRECTABLE: Mapping[WireError, int] = {
    D.PROTOCOL: 4,
    T.SURPRISE_DOWN: 5,
    T.POISONED: 12,
    D.FLOW_CONTROL: 13,
    T.COMPLETION_TIMEOUT: 14,
    T.COMPLETER_ABORT: 15,
    T.UNEXPECTED_COMPLETION: 16,
    D.OVERFLOW: 17,
    T.MALFORMED: 18,
    T.ECRC: 19,
    T.UNSUPPORTED_REQUEST: 20,
}
"""Bits of the uncorrectable status, mask and severity registers."""
CORRECTABLE: Mapping[WireError, int] = {
    D.RECEIVER: 0,
    D.BAD_TLP: 6,
    D.BAD_DLLP: 7,
    D.REPLAY_ROLLOVER: 8,
    D.REPLAY_TIMEOUT: 12,
}
"""Bits of the correctable status and mask registers."""
ADVISORY = 13
"""Bit of an advisory non-fatal error in these two."""
DETECTED = {Severity.CORRECTABLE: 1 << 0, Severity.NON_FATAL: 1 << 1, Severity.FATAL: 1 << 2}
"""Bits of the device status register; those that enable messages in the device control register are the same."""
UNSUPPORTED = 1 << 3
"""Likewise: an unsupported request was detected, and is reported."""
DEVICE_NAMES = {
    DETECTED[Severity.CORRECTABLE]: "correctable",
    DETECTED[Severity.NON_FATAL]: "non-fatal",
    DETECTED[Severity.FATAL]: "fatal",
    UNSUPPORTED: "unsupported request",
}
SIGNALED_TARGET_ABORT, SIGNALED_SYSTEM_ERROR, DETECTED_PARITY_ERROR = 1 << 11, 1 << 14, 1 << 15
"""Bits of the status register."""
LEGACY: Mapping[WireError, int] = {T.COMPLETER_ABORT: SIGNALED_TARGET_ABORT, T.POISONED: DETECTED_PARITY_ERROR}
MESSAGES = {
    Severity.CORRECTABLE: MessageCode.ERR_COR,
    Severity.NON_FATAL: MessageCode.ERR_NONFATAL,
    Severity.FATAL: MessageCode.ERR_FATAL,
}
LOG_SIZE = 16


def _bits(table: Iterable[int]) -> int:
    return sum(1 << bit for bit in table)


def _of(root_port: bool) -> Mapping[WireError, int]:
    """Return the uncorrectable errors of a function: surprise down is only for a port above a link (7.8.4.2)."""
    if root_port:
        return UNCORRECTABLE
    return {error: bit for error, bit in UNCORRECTABLE.items() if error is not T.SURPRISE_DOWN}


def aer_capability(*, root_port: bool) -> Capability:
    """Return the extended capability (7.8.4). All of its registers survive resets."""
    errors = _of(root_port)
    uncorrectable, correctable = _bits(errors.values()), _bits((*CORRECTABLE.values(), ADVISORY))
    fatal = _bits(bit for error, bit in errors.items() if SEVERITIES[error] is Severity.FATAL)
    enables = CONTROL_GENERATE | CONTROL_CHECK
    zero = ("I", 0, 0, 0, 0)
    root = (("I", 0, 7, 0, 0), ("I", 0, 0, 0x7F, 0x7F), zero) if root_port else ()
    return capability_of(
        EXT_CAP_AER,
        (  # form, value, writable, clearing, sticky
            ("I", 0, 0, uncorrectable, uncorrectable),
            ("I", 0, uncorrectable, 0, uncorrectable),
            ("I", fatal, uncorrectable, 0, uncorrectable),
            ("I", 0, 0, correctable, correctable),
            ("I", 1 << ADVISORY, correctable, 0, correctable),
            ("I", CONTROL_CAPABLE, enables, 0, enables),
            *(zero for _ in range(4)),  # header log
            *root,
        ),
    )


def uncorrectable_names(bits: int) -> tuple[str, ...]:
    """Return the errors of an uncorrectable status or mask."""
    return tuple(error.value for error, bit in UNCORRECTABLE.items() if bits >> bit & 1)


def correctable_names(bits: int) -> tuple[str, ...]:
    """Return the errors of a correctable status or mask."""
    advisory = ("advisory non-fatal",) if bits >> ADVISORY & 1 else ()
    return (*(error.value for error, bit in CORRECTABLE.items() if bits >> bit & 1), *advisory)


def header_words(words: Iterable[int]) -> str:
    """Return a header log in hexadecimal, as ``lspci`` prints it; empty if it is empty."""
    log = tuple(words)
    return " ".join(f"{word:08x}" for word in log) if any(log) else ""


class ErrorRegisters:
    """The registers of one function that say what went wrong, and what is reported of it."""

    def __init__(self, config: ConfigSpace, *, root_port: bool = False) -> None:
        """Add the capability to ``config``, which must have that of PCI Express."""
        express = config.capability(CAP_PCI_EXPRESS)
        assert express is not None
        self._config = config
        self._express = express
        self.at = config.add_extended(aer_capability(root_port=root_port), VERSION)
        """Offset of the capability."""

    def log(self, problem: DetectedError) -> MessageCode | None:
        """Note an error in the registers; return the message to send for it, if there is one (figure 6-2)."""
        error, config, express = problem.error, self._config, self._express
        severity = self.severity(error)
        advisory = problem.advisory and severity is Severity.NON_FATAL
        level = Severity.CORRECTABLE if advisory else severity
        unsupported = UNSUPPORTED if error is T.UNSUPPORTED_REQUEST else 0
        self._set_bits(express + DEVICE_STATUS, 2, DETECTED[level] | unsupported)
        self._set_bits(STATUS, 2, LEGACY.get(error, 0))
        if level is Severity.CORRECTABLE:
            bit = ADVISORY if advisory else CORRECTABLE[error]
            self._set_bits(self.at + COR_STATUS, 4, 1 << bit)
            if self.get(COR_MASK) >> bit & 1:
                return None
            if advisory:
                self._log_uncorrectable(problem)
        elif self._log_uncorrectable(problem):
            return None
        control, system = config.peek(express + DEVICE_CONTROL, 2), PciCommand.SERR in config.command
        if level is not Severity.CORRECTABLE and system:
            self._set_bits(STATUS, 2, SIGNALED_SYSTEM_ERROR)
            return MESSAGES[level]
        enabled = control & DETECTED[level] and not unsupported & ~control
        return MESSAGES[level] if enabled else None

    def severity(self, error: WireError) -> Severity:
        """Return the severity of an error, which software may have changed."""
        if error in CORRECTABLE:
            return Severity.CORRECTABLE
        return Severity.FATAL if self.get(UNCOR_SEVERITY) >> UNCORRECTABLE[error] & 1 else Severity.NON_FATAL

    def _log_uncorrectable(self, problem: DetectedError) -> bool:
        """Note an uncorrectable error, and the header if it is the first one; return whether it is masked."""
        bit, status = UNCORRECTABLE[problem.error], self.get(UNCOR_STATUS)
        self._set_bits(self.at + UNCOR_STATUS, 4, 1 << bit)
        if self.get(UNCOR_MASK) >> bit & 1:
            return True
        control = self.get(CONTROL)
        if not status >> (control & CONTROL_FIRST) & 1:  # the first error pointer is not valid
            self._config.poke(self.at + CONTROL, 4, control & ~CONTROL_FIRST | bit)
            header = problem.header.ljust(LOG_SIZE, b"\0")
            for place in range(0, LOG_SIZE, 4):
                word = int.from_bytes(header[place : place + 4], "big")
                self._config.poke(self.at + HEADER_LOG + place, 4, word)
        return False

    def get(self, register: int) -> int:
        """Return a register of the capability, without an access."""
        return self._config.peek(self.at + register, 4)

    def _set_bits(self, offset: int, size: int, bits: int) -> None:
        if bits:
            self._config.poke(offset, size, self._config.peek(offset, size) | bits)

    @property
    def digests(self) -> tuple[bool, bool]:
        """Whether packets get a digest, and whether digests are checked."""
        control = self.get(CONTROL)
        return bool(control & CONTROL_GENERATE), bool(control & CONTROL_CHECK)

    def snapshot(self) -> ErrorView:
        """Return the registers in words."""
        status, first = self.get(UNCOR_STATUS), self.get(CONTROL) & CONTROL_FIRST
        valid = bool(status >> first & 1)
        device = self._config.peek(self._express + DEVICE_STATUS, 2)
        return ErrorView(
            device=tuple(name for bit, name in DEVICE_NAMES.items() if device & bit),
            uncorrectable=uncorrectable_names(status),
            correctable=correctable_names(self.get(COR_STATUS)),
            masked=(*uncorrectable_names(self.get(UNCOR_MASK)), *correctable_names(self.get(COR_MASK))),
            first=next(iter(uncorrectable_names(1 << first)), "") if valid else "",
            header=header_words(self.get(HEADER_LOG + at) for at in range(0, LOG_SIZE, 4)) if valid else "",
        )
