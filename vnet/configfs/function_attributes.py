"""The attributes of endpoint functions: numbers of the header, of interrupts, and of NTBs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from drivers.carriers.ntb_registers import MAX_MWS
from vnet.configfs.functions import HEADER, INTERRUPTS, NTB_ATTRIBUTES, Function
from vnet.configfs.nodes import Attribute, Directory, attributes
from vnet.configfs.values import TreeError, parse_unsigned

__all__ = ["header_attributes", "ntb_attributes"]

WINDOWS = {f"mw{window}": window for window in range(1, MAX_MWS + 1)}
"""Number of the window by attribute."""
Values = Callable[[Function], dict[str, int]]
"""Returns the values of a function that an attribute changes."""


def _number(name: str, bits: int, values: Values, show: Callable[[Function, str], str]) -> Attribute:
    """Return an attribute of a function: an unsigned number of at most ``bits`` bits."""

    async def store(directory: Directory, text: str) -> None:
        function: Function = directory.data
        function.check_free()
        value = parse_unsigned(text, bits)
        if name == "num_mws" and value > MAX_MWS:
            raise TreeError(errno.EINVAL, f"must be at most {MAX_MWS}")
        if name in WINDOWS and WINDOWS[name] > values(function)["num_mws"]:
            raise TreeError(errno.EINVAL, f"num_mws must be at least {WINDOWS[name]}")
        values(function)[name] = value

    return Attribute(name, lambda directory: show(directory.data, name), store)


def _header(function: Function) -> dict[str, int]:
    return function.header


def _show_header(function: Function, name: str) -> str:
    return f"{function.shown(name):#06x}"


def _interrupts(function: Function) -> dict[str, int]:
    return function.interrupts


def _show_interrupts(function: Function, name: str) -> str:
    return str(function.interrupts.get(name, 0))


def _ntb_values(function: Function) -> dict[str, int]:
    return function.settings.table


def _show_ntb_value(function: Function, name: str) -> str:
    return str(function.settings.table[name])


def header_attributes() -> Mapping[str, Attribute]:
    """Return the attributes of every function."""
    header = (_number(name, bits, _header, _show_header) for name, bits in HEADER.items())
    interrupts = (_number(name, bits, _interrupts, _show_interrupts) for name, bits in INTERRUPTS.items())
    return attributes(*header, *interrupts)


def ntb_attributes() -> Mapping[str, Attribute]:
    """Return the settings of an NTB."""
    return attributes(*(_number(name, bits, _ntb_values, _show_ntb_value) for name, bits in NTB_ATTRIBUTES.items()))
