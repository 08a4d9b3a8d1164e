"""The PCI functions of a system, decoded by lspci of pciutils, with what a dump of the bytes does not have."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence

from vnet.errors import ControlError
from vnet.traffic.tools import need_tools
from vnet.views.pci import BarView, ConfigImage

__all__ = ["annotate", "decode", "describe", "dump"]

ROW = 16
"""Bytes of configuration space per line."""
STRUCTURES = {5: "PciCfg", 8: "SharedMemory", 9: "Vendor"}
"""Names that lspci lacks, by type of the virtio structure (VIRTIO 1.4 section 4.1.4)."""
STRUCTURE_TYPE = 3
"""Offset of the type in the capability of a virtio structure."""
UNKNOWN = "VirtIO: <unknown>"
FUNCTION = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] ")
CAPABILITY = re.compile(r"\tCapabilities: \[([0-9a-f]+)\]")
UPPER_HALF = re.compile(r"Memory at <unassigned> \(32-bit")
"""The upper half of a 64-bit BAR, which lspci shows as a BAR of its own in a dump; our BARs have 64 bits."""
THIS_MACHINE = "\tKernel modules: "
"""Line about the kernel of the machine that runs lspci, which is not that of the function."""


def dump(functions: Iterable[ConfigImage]) -> Iterator[str]:
    """Yield the functions in the format of ``lspci -xxxx``."""
    for function in functions:
        yield f"{function.name} {function.owner or 'function'}"
        for at in range(0, len(function.image), ROW):
            yield f"{at:02x}: {function.image[at : at + ROW].hex(' ')}"
        yield ""


def describe(functions: Sequence[ConfigImage], options: Sequence[str]) -> Iterator[str]:
    """Yield what lspci prints for the functions, annotated. Raises like `decode`."""
    return annotate(decode(functions, ["-D", *options]), functions)


def decode(functions: Iterable[ConfigImage], options: Sequence[str]) -> list[str]:
    """Return what lspci prints for the functions.

    Raises PrivilegeError if lspci is not installed, ControlError if it fails.
    """
    need_tools("lspci")
    done = subprocess.run(
        ["lspci", "-F", "/dev/stdin", *options],
        input="\n".join(dump(functions)) + "\n",
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ControlError(f"lspci failed: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout.rstrip().splitlines()


def annotate(lines: Iterable[str], functions: Iterable[ConfigImage]) -> Iterator[str]:
    """Yield the lines of ``lspci -D`` with what a dump lacks: device and link, sizes of BARs, names of structures."""
    known = {function.name: function for function in functions}
    function: ConfigImage | None = None
    bars: Iterator[BarView] = iter(())
    for line in lines:
        if FUNCTION.match(line):
            function = known[line.split(" ", 1)[0]]
            bars = iter(function.bars)
            state = "" if function.up else " (down)"
            yield f"{line}, {function.owner or 'no device'} on {function.link}{state}"
        elif line.startswith(THIS_MACHINE) or UPPER_HALF.search(line):
            continue
        elif "Memory at " in line and (bar := next(bars, None)) is not None:
            yield f"{line} [size={_size(bar.size)}]"
        elif line.endswith(UNKNOWN) and function is not None and (at := CAPABILITY.match(line)):
            kind = function.image[int(at[1], 16) + STRUCTURE_TYPE]
            yield line.replace(UNKNOWN, f"VirtIO: {STRUCTURES.get(kind, f'type {kind}')}")
        else:
            yield line


def _size(size: int) -> str:
    """Return a size in bytes as lspci prints it: a power of two."""
    unit = (size.bit_length() - 1) // 10
    return f"{size >> 10 * unit}{' KMGTPE'[unit].strip()}"
