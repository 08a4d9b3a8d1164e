"""Arguments for QEMU to use a served device, for the installed version."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from drivers.registry import DEVICES
from rings.ids import DeviceId
from vnet.ends.net.end import NetSpec
from vnet.spec import DeviceSpec

__all__ = ["PROGRAM", "Version", "arguments", "describe", "qemu_version", "reconnect"]

PROGRAM = "qemu-system-x86_64"
Version = tuple[int, int]
OLDEST: Version = (7, 2)
"""The oldest supported version."""
RECONNECT_MS: Version = (9, 2)
"""First version with ``reconnect-ms``; version 10 removes ``reconnect``, in seconds."""
PATIENCE = 10.0
"""Seconds that QEMU may take to print its version."""
USUAL_MTU = 1500
"""MTU in bytes for which no argument is needed."""
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


@attrs.frozen
class FrontEnd:
    """QEMU's front end of a device type."""

    device: str
    """Argument of -device that every version takes."""
    queues: str | None = None
    """Property for the number of queues, by default one per processor of the guest; None: no such property."""
    size: str | None = None
    """Property for the descriptors of a queue; None: no such property."""
    returns: Version | None = None
    """First version that reconnects to a restarted back end; None: no version does."""


FRONT_ENDS: Mapping[int, FrontEnd] = {
    DeviceId.NET: FrontEnd("virtio-net-pci,netdev=n0,disable-legacy=on", returns=OLDEST),
    DeviceId.BLOCK: FrontEnd(
        "vhost-user-blk-pci,chardev=c0,disable-legacy=on", queues="num-queues", size="queue-size", returns=OLDEST
    ),
    DeviceId.ENTROPY: FrontEnd("vhost-user-rng-pci,chardev=c0"),
    DeviceId.SCSI: FrontEnd(
        "vhost-user-scsi-pci,chardev=c0,disable-legacy=on",
        queues="num_queues",
        size="virtqueue_size",
        returns=RECONNECT_MS,
    ),
}
"""Front ends by virtio device id. The legacy half of transitional devices is off, because firmware would use it."""
SIZES = range(4, 1025)
"""Possible numbers of descriptors in a queue of a disk or a SCSI host in QEMU; the default is 128."""


def _net(spec: NetSpec) -> Iterator[str]:
    if spec.queue_pairs > 1:
        yield "mq=on"
    if spec.mtu != USUAL_MTU:
        yield f"host_mtu={spec.mtu}"


def arguments(spec: DeviceSpec, path: Path, version: Version | None, *, connect: bool = False) -> list[str]:
    """Return shell lines with the arguments, none if QEMU has no such device. With ``connect``, QEMU listens."""
    front = FRONT_ENDS.get(DEVICES[spec.type].device_id)
    if front is None:
        return []
    properties = list(_net(spec)) if isinstance(spec, NetSpec) else []
    if front.queues is not None:
        properties.append(f"{front.queues}={getattr(spec, 'queues', 1)}")
    if front.size is not None and spec.queue_size != attrs.fields(DeviceSpec).queue_size.default:
        properties.append(f"{front.size}={min(max(spec.queue_size, SIZES[0]), SIZES[-1])}")
    if spec.ring == "packed":
        properties.append("packed=on")
    socket = f"socket,id=c0,path={str(path).replace(',', ',,')}"
    if connect:
        socket += ",server=on"
    elif front.returns is not None and (version is None or version >= front.returns):
        socket += f",{reconnect(version)}"
    words = ["-chardev", socket]
    if isinstance(spec, NetSpec):
        pairs = f",queues={spec.queue_pairs}" if spec.queue_pairs > 1 else ""
        words += ["-netdev", f"vhost-user,id=n0,chardev=c0{pairs}"]
    words += ["-device", ",".join([front.device, *properties])]
    return [MEMORY, shlex.join(words)]
