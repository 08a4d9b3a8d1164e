"""Errors of an endpoint's port: each is logged by the functions that it is about, and reported to the root port."""

from __future__ import annotations

from vnet.link.base import Direction
from vnet.link.transaction.fields import MessageCode
from vnet.link.wire.errors import DetectedError, ErrorWire
from vnet.pcie.aer import ErrorRegisters
from vnet.pcie.config_space import ConfigSpace
from vnet.views.pci import ErrorView

__all__ = ["EndpointErrors"]


class EndpointErrors:
    """The error registers of all functions behind one port."""

    def __init__(self, wire: ErrorWire) -> None:
        self._wire = wire
        self._functions: dict[int, ErrorRegisters] = {}
        wire.watch_errors(Direction.UPSTREAM, self._detected)

    def add(self, function: int, config: ConfigSpace) -> None:
        """Give a function its registers."""
        self._functions[function] = ErrorRegisters(config)

    def remove(self, function: int) -> None:
        del self._functions[function]

    def written(self) -> None:
        """Follow the registers after software has written some: digests are the port's, so one function is enough."""
        digests = [registers.digests for registers in self._functions.values()]
        generate, check = (any(each[place] for each in digests) for place in range(2))
        self._wire.set_digests(Direction.UPSTREAM, generate=generate, check=check)

    def views(self) -> dict[int, ErrorView]:
        """Return the registers of each function, by its number."""
        return {number: registers.snapshot() for number, registers in sorted(self._functions.items())}

    def _detected(self, problem: DetectedError) -> None:
        """Log an error; one that is about no function is logged by all, and each message is sent once (6.2.4)."""
        sent: dict[MessageCode, int] = {}
        for number, registers in sorted(self._functions.items()):
            if problem.function in (None, number) and (code := registers.log(problem)) is not None:
                sent.setdefault(code, number)
        for code, number in sent.items():
            self._wire.send_error(code, number)
