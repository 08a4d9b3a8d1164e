"""A Linux guest in QEMU whose own drivers use our devices: Debian's kernel, busybox, nothing installed."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from vnet.errors import PrivilegeError, TrafficError

__all__ = ["PROGRAMS", "TOOLS", "Guest", "GuestError", "GuestKernel", "archive", "kernel_package", "shared"]

KERNEL = "linux-image-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vnet-virtio"
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "virtio-rng", "ext4", "crc32c_generic")
PROGRAMS = ("/usr/bin/iperf3",)
TOOLS = ("qemu-system-x86_64", "busybox", "cpio", "depmod", "dpkg-deb", "apt-get", "apt-cache", "iperf3")
BOOT = 300.0
"""Seconds that a guest may take to boot: everything in it is emulated, and the machine may be busy."""
PATIENCE = 180.0
"""Seconds for any other step."""
MEMORY = "256M"
LINE_TRIES = 20
INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in {modules}; do modprobe $module; done
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
echo 'guest is up'
while read -r size line; do
    [ "${{#line}}" = "$size" ] || {{ echo 'again;'; continue; }}
    echo 'taken;'
    eval "$line"
    echo "status=$?;"
done
"""


def shared(memory: str = MEMORY) -> tuple[str, ...]:
    """QEMU arguments for sealed guest memory that a back end can map; ``memory`` is a size as QEMU reads it."""
    return ("-object", f"memory-backend-memfd,id=m,size={memory},share=on", "-numa", "node,memdev=m")


def _run(*argv: str | Path, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    done = subprocess.run([str(arg) for arg in argv], cwd=cwd, input=data, capture_output=True, timeout=120, check=True)
    return done.stdout


def archive(tree: Path) -> bytes:
    """Return a folder as an initial file system; Linux unpacks several that follow each other in one file."""
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    return gzip.compress(_run("cpio", "-o", "-H", "newc", "--quiet", cwd=tree, data=names.encode()), 1)


class GuestError(TrafficError):
    """A guest did not start, did not answer, or a command in it failed."""


class GuestKernel:
    """A kernel and an initial file system for any number of guests."""

    def __init__(self, folder: Path, programs: Sequence[str] = PROGRAMS, files: Sequence[str] = ()) -> None:
        """Write some 20 MiB to ``folder``, with programs, their libraries and files of this machine.

        Raises PrivilegeError if no kernel can be downloaded.
        """
        package = kernel_package()
        root = folder / "package"
        _run("dpkg-deb", "-x", package, root)
        [self.image] = (root / "boot").glob("vmlinuz-*")
        version = self.image.name.removeprefix("vmlinuz-")
        self.initrd = folder / "initrd.gz"
        _run("depmod", "-b", root, version)
        tree = folder / "root"
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "mnt"):
            (tree / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, tree / "bin/busybox")
        for applet in _run(busybox, "--list").decode().split():
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")
        libraries = re.findall(r"(/\S+) \(0x", _run("ldd", *programs).decode())
        for path in (*programs, *dict.fromkeys(libraries), *files):
            (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / path.lstrip("/"))
        _copy_modules(root, tree, version)
        init = tree / "init"
        init.write_text(INIT.format(modules=" ".join(MODULES)))
        init.chmod(0o755)
        self.initrd.write_bytes(archive(tree))
        shutil.rmtree(root / "lib")
        shutil.rmtree(tree)


def kernel_package() -> Path:
    """Debian's current kernel package, downloaded once and never installed. Raises PrivilegeError if that fails."""
    package = _have() or _have()
    if package is None:
        raise PrivilegeError(
            f"the package {KERNEL} can't be downloaded", f"apt-get update && apt-get download {KERNEL}"
        )
    return package


def _have() -> Path | None:
    """Return the package, downloading it if needed; None on failure, after `apt-get update` for the next try."""
    depends = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=False).stdout
    names = re.findall(r"Depends: (linux-image-\S+)", depends)
    if names:
        CACHE.mkdir(parents=True, exist_ok=True)
        if not list(CACHE.glob(f"{names[0]}_*.deb")):
            download = ["apt-get", "download", "-o", "APT::Sandbox::User=root", names[0]]
            subprocess.run(download, cwd=CACHE, capture_output=True, timeout=300, check=False)
        if list(CACHE.glob(f"{names[0]}_*.deb")):
            return max(CACHE.glob(f"{names[0]}_*.deb"))
    subprocess.run(["apt-get", "update"], capture_output=True, timeout=300, check=False)
    return None


def _copy_modules(root: Path, tree: Path, version: str) -> None:
    """Copy `MODULES` and their dependencies."""
    modules = root / "lib/modules" / version
    needs = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    paths = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    wanted = {paths[name.replace("-", "_")] for name in MODULES if name.replace("-", "_") in paths}
    wanted |= {path for name in set(wanted) for path in needs[name].split()}
    # Softdeps that modprobe can't see here.
    for path in wanted:
        to = tree / "lib/modules" / version / path
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / path, to)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(modules / name, tree / "lib/modules" / version / name)
    _run("depmod", "-b", tree, version)


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
    ) -> None:
        """Start ``qemu`` with the arguments ``devices`` and ``boot`` on the kernel's command line.

        Without ``wait`` the caller calls `wait_up`. Raises GuestError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "console.log"
        self._shell_path, self._monitor_path = folder / "shell.sock", folder / "qmp.sock"
        argv = [
            *qemu,
            *("-machine", "q35,accel=tcg", "-m", memory, "-smp", str(cpus)),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(kernel.image), "-initrd", str(kernel.initrd)),
            *("-append", f"console=ttyS0 panic=-1 quiet mitigations=off no_timer_check {boot}".rstrip()),
            *shared(memory),
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
                    raise GuestError(f"QEMU did not start: {self.errors.read_text()}") from None
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
        console = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
        return f"console: {console}\nQEMU: {self.errors.read_text(errors='replace')[-2000:]}"

    def monitor(self, command: str, **arguments: object) -> object:
        """Run a QMP command and return its result. Raises GuestError."""
        if command == "qmp_capabilities":
            self._monitor.readline()
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._monitor.flush()
        while True:
            answer = json.loads(self._monitor.readline())
            if "event" not in answer:
                if "return" not in answer:
                    raise GuestError(f"{command}: {answer}")
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
                getattr(self, held).close()
