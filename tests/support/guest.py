"""A Linux guest in QEMU whose own drivers use the devices under test: Debian's kernel, busybox, nothing installed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.machine import RequireTool, in_machine_network, unavailable
from support.paths import EXAMPLES, MY_DEVICE, VNET
from vnet.bench.guest import Guest, shared
from vnet.bench.guest_kernel import PROGRAMS, TOOLS, GuestKernel, kernel_package
from vnet.errors import PrivilegeError

__all__ = ["Guest", "GuestKernel", "Serve", "guest_kernel", "guest_kernel_package", "shared"]

LOADED = {"entropy": MY_DEVICE, "pci_test": EXAMPLES / "pci_test.py"}
"""Files of the types that are not built in."""
MORE_PROGRAMS = ("/usr/bin/lspci", "/usr/sbin/e2fsck", "/usr/sbin/ethtool")
FILES = ("/usr/share/misc/pci.ids",)
EVENTFDS_OF_RING = 3
"""Eventfds of a back end with one ring that runs: call, error and, the last one in the handshake, kick."""
PATIENCE = 180.0
"""Seconds that a guest may take to set up its rings, and a back end to end, on a machine that is busy."""


@pytest.fixture(scope="session")
def guest_kernel_package(require_tool: RequireTool) -> None:
    """The package of the kernel that every guest boots is on this machine; it is not installed."""
    require_tool(*TOOLS)
    try:
        in_machine_network(kernel_package)
    except PrivilegeError as exc:
        unavailable(str(exc))


@pytest.fixture(scope="session")
def guest_kernel(
    guest_kernel_package: None, tmp_path_factory: pytest.TempPathFactory, require_tool: RequireTool
) -> GuestKernel:
    """The kernel that every guest boots, with programs for it."""
    require_tool("lspci", "e2fsck", "ethtool")
    return GuestKernel(tmp_path_factory.mktemp("guest"), (*PROGRAMS, *MORE_PROGRAMS), FILES)


class Serve:
    """A running ``vnet serve``."""

    def __init__(self, folder: Path, name: str, *argv: str, by: str = "--vhost-user") -> None:
        self.name, self.socket = name, folder / f"{name}.sock"
        kind, *options = argv
        load = ("--load", str(LOADED[kind])) if kind in LOADED else ()
        self._argv = [VNET, *load, "serve", kind]
        self._argv += [by, str(self.socket), *options]
        self._errors = folder / f"{name}.log"
        self.start()

    def start(self) -> None:
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout is not None
        try:
            output = self.process.stdout.readline()
            assert "Ctrl-C ends it" in output, output + self.output
        except BaseException:
            self._kill()
            raise

    @property
    def output(self) -> str:
        return self._errors.read_text()

    def wait_for_rings(self) -> None:
        """Wait until a guest has set up its rings: its memory is mapped, and it can be called and kicked.

        QEMU 7.2 never connects again if its back end ends during their handshake.
        """
        process = Path("/proc") / str(self.process.pid)
        deadline = time.monotonic() + PATIENCE
        while "memory-backend" not in (process / "maps").read_text() or self._eventfds(process) < EVENTFDS_OF_RING:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)

    @staticmethod
    def _eventfds(process: Path) -> int:
        count = 0
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                count += "eventfd" in str(fd.readlink())
        return count

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.wait(0 if number != signal.SIGKILL else -number)
        assert number == signal.SIGKILL or not self.socket.exists()

    def wait(self, status: int = 0) -> None:
        """Wait for its end with this status."""
        try:
            assert self.process.wait(PATIENCE) == status, self.output
        finally:
            self._kill()
        assert "Traceback" not in self.output, self.output

    def close(self) -> None:
        """End it, unless a test has done so."""
        if self.process.poll() is None:
            self.end()

    def _kill(self) -> None:
        """Leave no process, also if it did not start or end as it should."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
