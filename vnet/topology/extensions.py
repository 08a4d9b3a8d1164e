"""Extensions: device types, transports and endpoint functions that a Python file of the user adds."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from drivers.carriers.transport import Transport
from vnet.ends import DEVICE_TYPES, DeviceKind
from vnet.errors import ConfigError
from vnet.functions import FUNCTIONS, FunctionKind
from vnet.transports import TRANSPORTS

__all__ = ["add_device_type", "add_function", "add_transport", "load_extension", "temporarily"]


def add_device_type(name: str, kind: DeviceKind[Any, Any]) -> None:
    """Add the device type ``name``. Raises ValueError if the name is invalid or taken, or a field is wrong."""
    DEVICE_TYPES.add(name, kind)


def add_transport(name: str, transport: Transport) -> None:
    """Add the transport ``name``. Raises ValueError if the name is invalid or taken, or a field is wrong."""
    TRANSPORTS.add(name, transport)


def add_function(name: str, kind: FunctionKind) -> None:
    """Add the endpoint function ``name``. Raises ValueError if the name is invalid or taken, or a field is wrong."""
    if name in DEVICE_TYPES:
        raise ValueError(f"name {name!r}: already used by a device type")
    FUNCTIONS.add(name, kind)


def load_extension(path: Path) -> ModuleType:
    """Run a Python file that adds device types, transports or functions, and return its module. Raises ConfigError.

    The file is trusted like any other program.
    """
    name = f"_extension_{path.stem}"  # never the name of an imported module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(str(path), "file", path.name, "must be a Python file, NAME.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # attrs looks up a class's module there
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[name]
        frames = traceback.extract_tb(exc.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        line = exc.lineno if isinstance(exc, SyntaxError) else line
        raise ConfigError(str(path), f"line {line or 1}", type(exc).__name__, str(exc) or "the file failed") from exc
    return module


@contextmanager
def temporarily() -> Iterator[None]:
    """Remove device types, transports and functions added in the context when it ends."""
    with DEVICE_TYPES.temporarily(), TRANSPORTS.temporarily(), FUNCTIONS.temporarily():
        yield
