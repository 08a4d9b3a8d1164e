"""A Linux guest in QEMU whose own drivers use our devices."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vnet.bench.guest_kernel import GuestKernel
from vnet.errors import TrafficError

__all__ = ["Guest", "GuestError", "shared"]

BOOT = 300.0
"""Seconds that a guest may take to boot: everything in it is emulated, and the machine may be busy."""
PATIENCE = 180.0
"""Seconds for any other step."""
MEMORY = "256M"
LINE_TRIES = 20
SHOWN = 2000
"""Bytes of the end of a log in an error message."""


def shared(memory: str = MEMORY) -> tuple[str, ...]:
    """QEMU arguments for sealed guest memory that a back end can map; ``memory`` is a size as QEMU reads it."""
    return ("-object", f"memory-backend-memfd,id=m,size={memory},share=on", "-numa", "node,memdev=m")


def _end_of(log: Path) -> str:
    """Return the last `SHOWN` bytes of a log: QEMU may have repeated one line for minutes."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - SHOWN))
        return file.read().decode(errors="replace")


class GuestError(TrafficError):
    """A guest did not start, did not answer, or a command in it failed."""


class Guest:
    """A running guest with a shell on its second serial port, and QEMU's monitor. Close it after use."""

    def __init__(
        self,
        kernel: GuestKernel,
        folder: Path,
        devices: Sequence[str],
        *,
        cpus: int = 1,
        memory: str = MEMORY,
        boot: str = "",
        wait: bool = True,
        qemu: Sequence[str] = ("qemu-system-x86_64",),
        share: bool = True,
    ) -> None:
        """Start ``qemu`` with the arguments ``devices`` and ``boot`` on the kernel's command line.

        With ``share``, its memory is a file that back ends can map. Without ``wait`` the caller calls `wait_up`.
        Raises GuestError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "console.log"
        self._shell_path, self._monitor_path = folder / "shell.sock", folder / "qmp.sock"
        argv = [
            *qemu,
            *("-machine", "q35,accel=tcg", "-m", memory, "-smp", str(cpus)),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(kernel.executable), "-initrd", str(kernel.initrd)),
            *("-append", f"console=ttyS0 panic=-1 quiet mitigations=off no_timer_check {boot}".rstrip()),
            *(shared(memory) if share else ()),
            *("-serial", f"file:{self.log}", "-serial", f"unix:{self._shell_path},server=on,wait=off"),
            *("-qmp", f"unix:{self._monitor_path},server=on,wait=off"),
            *devices,
        ]
        self.errors = folder / "qemu.log"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            self._shell = self._connect(self._shell_path)
            self._monitor_socket = self._connect(self._monitor_path)
            self._monitor = self._monitor_socket.makefile("rw")
            self.monitor("qmp_capabilities")
            self._received = ""
            if wait:
                self.wait_up()
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path) -> socket.socket:
        deadline = time.monotonic() + PATIENCE
        connected = socket.socket(socket.AF_UNIX)
        while True:
            try:
                connected.connect(str(path))
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    connected.close()
                    raise GuestError(f"QEMU did not start: {_end_of(self.errors)}") from None
                time.sleep(0.05)
            else:
                return connected

    def wait_up(self) -> None:
        """Wait until it has booted, also after a reboot. Raises GuestError."""
        self._read_until("guest is up\n", BOOT)

    def run(self, command: str, *, ok: bool = True, timeout: float = PATIENCE) -> str:
        """Run a shell line and return its output. Raises GuestError if its status is not 0 and ``ok`` is true."""
        self.send(command)
        return self.result(command, ok=ok, timeout=timeout)

    def send(self, command: str) -> None:
        """Start a shell line; `result` waits for it. Raises GuestError.

        The length goes first: an emulated serial port drops bytes while the guest is not scheduled, and the guest must
        not run half a line.
        """
        command = command.strip()
        for _ in range(LINE_TRIES):
            self._shell.sendall(f"{len(command)} {command}\n".encode())
            if self._read_until(";\n", PATIENCE) == "taken":
                return
        raise GuestError(f"{command}: the guest never got the whole of it\n{self.complaints()}")

    def result(self, command: str = "", *, ok: bool = True, timeout: float = PATIENCE) -> str:
        text = self._read_until(";\n", timeout)
        text, _, status = text.rpartition("status=")
        if ok and status != "0":
            raise GuestError(f"{command}: status {status}\n{text}\n{self.complaints()}")
        return text

    def _read_until(self, end: str, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while end not in self._received:
            left = deadline - time.monotonic()
            try:
                self._shell.settimeout(max(left, 0.001))
                data = self._shell.recv(65536)
            except TimeoutError:
                raise GuestError(
                    f"the guest wrote only {self._received!r} in {timeout:g} s\n{self.complaints()}"
                ) from None
            if not data:
                raise GuestError(f"the guest is gone\n{self.complaints()}")
            self._received += data.decode(errors="replace")
        text, _, self._received = self._received.partition(end)
        return text

    def complaints(self) -> str:
        """Return the last output of its kernel and of QEMU, for error messages."""
        console = _end_of(self.log) if self.log.exists() else ""
        return f"console: {console}\nQEMU: {_end_of(self.errors)}"

    def monitor(self, command: str, **arguments: object) -> object:
        """Run a QMP command and return its result. Raises GuestError."""
        try:
            if command == "qmp_capabilities":
                self._monitor.readline()
            self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._monitor.flush()
            while "event" in (answer := json.loads(self._monitor.readline() or "{}")):
                pass
        except OSError as exc:
            answer = exc.strerror
        if not answer:
            raise GuestError(f"{command}: QEMU is gone\n{self.complaints()}")
        if "return" not in answer:
            raise GuestError(f"{command}: {answer}\n{self.complaints()}")
        return answer["return"]

    def close(self) -> None:
        """End QEMU, and with it any thread that waits for the guest."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10)
        for held in ("_shell", "_monitor", "_monitor_socket"):
            if hasattr(self, held):
                with suppress(BrokenPipeError):  # a command that it did not read
                    getattr(self, held).close()
