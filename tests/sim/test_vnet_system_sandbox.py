"""In a sandbox forbidden calls fail, in each thread. (A program of its own enters it, since no process leaves one.)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT
from vnet.linux.privileges.confinement import why_incomplete

pytestmark = pytest.mark.skipif(bool(why_incomplete()), reason=why_incomplete())

PROGRAM = '''
import ctypes, errno, json, os, socket, sys, threading
import trio
from pathlib import Path
from vnet.system.sandbox import Sandbox, enter_sandbox, sandbox_view
from vnet.topology import parse
from vnet.views.plain import to_plain

libc = ctypes.CDLL(None, use_errno=True)
inside, outside = Path(sys.argv[2]), Path(sys.argv[3])
kept = open(outside, "r+b")

def libc_call(name, *args):
    def call():
        ctypes.set_errno(0)
        if getattr(libc, name)(*args) < 0:
            raise OSError(ctypes.get_errno(), name)
    return call

def make_socket(family, kind):
    return lambda: socket.socket(family, kind).close()

def refuse(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

TRIES = {
    "fork": os.fork,
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "ptrace": libc_call("ptrace", 0, 0, 0, 0),
    "unshare": libc_call("unshare", 0x10000000),
    "mount": libc_call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "chroot": libc_call("chroot", b"/"),
    "kill": lambda: os.kill(os.getppid(), 0),
    "prctl": libc_call("prctl", 15, b"x", 0, 0, 0),
    "inet": make_socket(socket.AF_INET, socket.SOCK_STREAM),
    "packet": make_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": make_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "read outside": lambda: outside.read_bytes(),
    "write outside": lambda: outside.write_bytes(b"x"),
    "remove outside": outside.unlink,
    "write a module": lambda: open(trio.__file__, "r+b"),
    "write its own folder": lambda: (inside / "new").write_bytes(b""),
    "read its memory": lambda: open("/proc/self/mem", "r+b"),
    "list /etc": lambda: os.listdir("/etc"),
    "chmod": lambda: os.chmod(inside, 0o777),
    "read a descriptor": lambda: kept.read(),
    "connect": make_socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "import": lambda: __import__("wave"),
    "thread": lambda: threading.Thread(target=int).start(),
}
TOPOLOGY = f"""
[hosts.rc]
[devices.disk]
type = "blk"
transport = "mmio"
host = "rc"
driver = {{ nbd = "{inside}/disk.sock" }}
device = {{ store = "memory", size = 1 }}
"""

def try_all():
    return {name: refuse(call) for name, call in TRIES.items()}

async def main():
    working = threading.Event()
    await trio.to_thread.run_sync(int)  # leaves a thread without work
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, working.wait, 0.2)  # works while the sandbox closes
        await trio.sleep(0.05)
        await enter_sandbox(Sandbox(sys.argv[1]), parse(TOPOLOGY), None, runs_command=False)
    results = {"main": try_all()}
    together = threading.Barrier(len(os.listdir("/proc/self/task")))
    async def in_thread(number):
        def run():
            together.wait(30)
            return try_all()
        results[f"thread {number}"] = await trio.to_thread.run_sync(run)
    async with trio.open_nursery() as nursery:
        for number in range(together.parties):
            nursery.start_soon(in_thread, number)
    os.write(1, json.dumps([results, to_plain(sandbox_view())]).encode())

trio.run(main)
'''
ALLOWED = {"read a descriptor", "connect", "import", "thread"}


@pytest.mark.hostile("X01")
@pytest.mark.hostile("X02")
@pytest.mark.parametrize("mode", ["on", "strict"])
def test_forbidden_calls_fail_in_each_thread_and_what_a_system_needs_works(mode: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_bytes(b"secret")
    argv = [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, mode, str(inside), str(outside)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    threads, view = json.loads(done.stdout)
    assert (view["mode"], view["capabilities"], view["no_new_privs"]) == (mode, 0, True)
    assert view["calls"] > 0
    assert view["landlock"] > 0
    for thread, results in threads.items():
        worked = {name for name, result in results.items() if result == "done"}
        assert worked == ALLOWED, thread
        assert set(results.values()) <= {"done", "EPERM", "EACCES"}, thread
    assert outside.read_bytes() == b"secret"
    assert list(inside.iterdir()) == []
