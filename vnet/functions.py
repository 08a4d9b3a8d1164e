"""The registry of endpoint functions that are no virtio devices: built-in ones, and those of files and packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from vnet.pcie.ntb import NtbFunction
from vnet.registry import Registry

__all__ = ["FUNCTIONS", "FunctionKind", "ServedFunction"]


class ServedFunction(Protocol):
    """A function on the endpoint controllers of its links, such as a `drivers.carriers.epf.EndpointFunction`."""

    def bind(self) -> None:
        """Set up the function, before its links come up."""

    def unbind(self) -> None:
        """Remove the function."""

    async def run(self) -> None:
        """Work until cancelled."""


@attrs.frozen(eq=False)
class FunctionKind:
    """An endpoint function as ``vnet serve NAME --vfio-user SOCK`` serves it."""

    make: Callable[..., ServedFunction]
    """Makes the function 0 of the endpoint controllers of its links, which are the arguments."""
    links: int = 1
    """Number of links: each has a socket of its own."""
    help: str = "Serve a function."
    """One line about it."""


def _check(name: str, kind: FunctionKind) -> None:
    make: object = kind.make
    if not callable(make) or kind.links < 1:
        raise ValueError(f"function {name}: make must be callable, and links at least 1")


FUNCTIONS: Registry[FunctionKind] = Registry(
    "vnet.functions",
    FunctionKind,
    {"ntb": FunctionKind(NtbFunction, 2, "Serve an NTB between two hosts.")},
    _check,
)
"""Functions by name."""
