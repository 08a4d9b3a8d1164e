"""Arguments for QEMU to use a served device, for the installed version."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import attrs

from vnet.ends import DEVICE_TYPES
from vnet.ends.serve import OLDEST, Version
from vnet.spec import DeviceSpec

__all__ = [
    "PROGRAM",
    "Version",
    "VFIO_USER",
    "arguments",
    "describe",
    "function_arguments",
    "qemu_version",
    "reconnect",
]

PROGRAM = "qemu-system-x86_64"
RECONNECT_MS: Version = (9, 2)
"""First version with ``reconnect-ms``; version 10 removes ``reconnect``, in seconds."""
PATIENCE = 10.0
"""Seconds that QEMU may take to print its version."""
VFIO_USER: Version = (10, 1)
"""First version with vfio-user devices."""
MEMORY = "-object memory-backend-memfd,id=m,size=256M,share=on -numa node,memdev=m -m 256M"
"""Guest memory that a back end can map and the guest's process cannot shrink."""


def qemu_version() -> Version | None:
    """Return the version of the QEMU on PATH; None if it is not installed or prints none."""
    try:
        done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return None if match is None else (int(match[1]), int(match[2]))


def reconnect(version: Version | None) -> str:
    """Return the socket option to reconnect after a second; the newer one if the version is unknown."""
    return "reconnect-ms=1000" if version is None or version >= RECONNECT_MS else "reconnect=1"


def describe(version: Version | None) -> str:
    """Return the line above the arguments: the versions that take them."""
    if version is None:
        return f"For QEMU: (from {'.'.join(map(str, RECONNECT_MS))} on; before that, {reconnect(OLDEST)} at the socket)"
    return "For QEMU:"


def function_arguments(path: Path) -> list[str]:
    """Return shell lines with the arguments for a PCI function that is served over vfio-user."""
    device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(path.absolute())}}
    return [MEMORY, shlex.join(["-device", json.dumps(device)])]


SIZES = range(4, 1025)
"""Possible numbers of descriptors in a queue of a disk or a SCSI host in QEMU; the default is 128."""


def arguments(spec: DeviceSpec, path: Path, version: Version | None, *, connect: bool = False) -> list[str]:
    """Return shell lines with the arguments, none if QEMU has no such device. With ``connect``, QEMU listens."""
    qemu = DEVICE_TYPES[spec.type].serve.qemu
    if qemu is None:
        return []
    properties = list(qemu.properties(spec))
    if qemu.queues is not None:
        properties.append(f"{qemu.queues}={getattr(spec, 'queues', 1)}")
    if qemu.size is not None and spec.queue_size != attrs.fields(DeviceSpec).queue_size.default:
        properties.append(f"{qemu.size}={min(max(spec.queue_size, SIZES[0]), SIZES[-1])}")
    if spec.ring == "packed":
        properties.append("packed=on")
    socket = f"socket,id=c0,path={str(path).replace(',', ',,')}"
    if connect:
        socket += ",server=on"
    elif qemu.returns is not None and (version is None or version >= qemu.returns):
        socket += f",{reconnect(version)}"
    device = ",".join([qemu.device, *properties])
    return [MEMORY, shlex.join(["-chardev", socket, *qemu.words(spec), "-device", device])]
