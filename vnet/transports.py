"""The registry of transports: built-in ones, those of a file of the user, and those of installed packages."""

from __future__ import annotations

from drivers.built_in_transports import BUILT_IN_TRANSPORTS
from drivers.carriers.options import TransportOptions
from drivers.carriers.transport import Transport
from vnet.registry import Registry

__all__ = ["CARRIERS", "TRANSPORTS"]

CARRIERS = ("link", "host", "ntb")
"""Keys of a device that name its carrier; each transport uses one of them."""


def _check(name: str, transport: Transport) -> None:
    if transport.on not in CARRIERS:
        raise ValueError(f"carrier of transport {name} = {transport.on!r}: must be one of {', '.join(CARRIERS)}")
    options: object = transport.options
    if not (isinstance(options, type) and issubclass(options, TransportOptions)):
        raise ValueError(f"options of transport {name} = {options!r}: must be a class derived from TransportOptions")


TRANSPORTS: Registry[Transport] = Registry("vnet.transports", Transport, BUILT_IN_TRANSPORTS, _check)
"""Transports by name."""
