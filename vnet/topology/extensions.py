"""Device types and transports that are not in the package: a file of your own adds them, with one call."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from drivers.registry import DEVICES, TRANSPORTS, DeviceType, Transport
from vnet.ends import ENDS
from vnet.ends.base import EndsType
from vnet.errors import ConfigError
from vnet.spec import CARRIERS, NAME

__all__ = ["add_device_type", "add_transport", "load_extension", "temporarily"]


def add_device_type(name: str, kind: DeviceType, ends: EndsType) -> None:
    """From now on topologies may have devices of type ``name``. Raises ValueError where that is no name, or taken."""
    _check(name, DEVICES)
    DEVICES[name], ENDS[name] = kind, ends


def add_transport(name: str, transport: Transport) -> None:
    """Let any device go over transport ``name``. Raises ValueError if that is no name or taken, or has no carrier."""
    _check(name, TRANSPORTS)
    if transport.on not in CARRIERS:
        raise ValueError(f"a transport is carried by one of {', '.join(CARRIERS)}, not by {transport.on!r}")
    TRANSPORTS[name] = transport


def _check(name: str, taken: dict[str, DeviceType] | dict[str, Transport]) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: lower-case letters, digits, - and _, after a letter")
    if name in taken:
        raise ValueError(f"there is a {name} already")


def load_extension(path: Path) -> ModuleType:
    """Run a Python file that adds something; it is trusted like any other program. Raises ConfigError."""
    name = f"_extension_{path.stem}"  # never that of a module which somebody else imports
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(str(path), "file", path.name, "it must be a Python file, NAME.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where attrs looks a class's module up
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[name]
        frames = traceback.extract_tb(exc.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        line = exc.lineno if isinstance(exc, SyntaxError) else line
        raise ConfigError(str(path), f"line {line or 1}", type(exc).__name__, str(exc) or "it can't be run") from exc
    return module


@contextmanager
def temporarily() -> Iterator[None]:
    """What is added inside is gone afterwards."""
    before = [(table, dict(table)) for table in (DEVICES, ENDS, TRANSPORTS)]
    try:
        yield
    finally:
        for table, entries in before:
            table.clear()
            table.update(entries)  # type: ignore[arg-type]
