"""Programs made for QEMU drive a running system, and the commands that QEMU has are the same there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import EventListener, ExecuteError, QMPClient

from support.cli import READY, Up, clean_machine
from support.machine import RequireTool
from support.paths import BIN
from support.qapi import by_name, shape
from vnet.qmp.commands import COMMANDS
from vnet.system.state import socket_path

QEMU = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults", "-qmp", "stdio"]
OURS = (
    "capture",
    "cfs-",
    "controller-",
    "device-",
    "fault-",
    "link-set",
    "lun-add",
    "query-config-space",
    "query-faults",
    "query-ring",
    "query-vnet",
    "set-events",
    "topology-",
)
"""Starts of names of commands that QEMU does not have."""
OTHER_ARGUMENTS = {"qmp_capabilities", "device_add"}
"""QEMU's qmp_capabilities has an enumeration that has no value here. Our device_add needs an id and has properties."""
PATIENCE = 30
TOPOLOGY = """
[hosts.rc]
[hosts.ep]

[links.pcie0]
root = "rc"
endpoint = "ep"

[devices.net0]
type = "net"
transport = "pci"
link = "pcie0"
driver = { kind = "memory" }
device = { kind = "memory" }
"""


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    """The control socket of a running system."""
    name = f"t{os.getpid()}-qmp"
    file = tmp_path / "system.toml"
    file.write_text(TOPOLOGY, encoding="utf-8")
    with clean_machine(name) as started:
        up = Up(name, str(file))
        started.append(up)
        up.wait_for(READY)
        yield socket_path(name)


def run_shell(control: Path, tmp_path: Path, *lines: str) -> str:
    """The output of qmp-shell for these commands."""
    done = subprocess.run(
        [BIN / "qmp-shell", control],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_qmp_shell_drives_a_system_and_prints_its_events(control: Path, tmp_path: Path) -> None:
    printed = run_shell(
        control,
        tmp_path,
        "query-version",
        'set-events events=["VNET_LINK_DOWN","VNET_LINK_UP"]',
        "set_link name=pcie0 up=false",
        "set_link name=pcie0 up=true",
        "set_link name=moon up=true",
        "x-query-virtio",
        "query-status",
        "",
    )
    for part in (
        '{"return": {"running": true, "status": "running"}}',
        '{"error": {"class": "DeviceNotFound", "desc": "link \'moon\': must be one of pcie0"}}',
        '{"return": [{"path": "/machine/peripheral/net0/virtio-backend", "name": "virtio-net"}]}',
        "'event': 'VNET_LINK_DOWN', 'data': {'link': 'pcie0', 'epoch': 1}",
        "'event': 'VNET_LINK_UP', 'data': {'link': 'pcie0', 'epoch': 2}",
    ):
        assert part in printed


def test_the_client_library_gets_events_while_it_executes_commands(control: Path) -> None:
    async def drive() -> tuple[list[str], str, dict[str, Any]]:
        client, listener = QMPClient("test"), EventListener()
        client.register_listener(listener)
        await client.connect(str(control))
        await client.execute("set-events")
        for up in (False, True):
            await client.execute("set_link", {"name": "pcie0", "up": up})
        with pytest.raises(ExecuteError) as caught:
            await client.execute("set_link", {"name": "pcie0"})
        names: list[str] = []
        while not {"VNET_LINK_DOWN", "VNET_DEVICE_RESET", "VNET_LINK_UP"} <= set(names):
            names.append(str((await listener.get())["event"]))
        await client.execute("quit")
        last: Any = {}
        while last.get("event") != "SHUTDOWN":
            last = await listener.get()
        with suppress(EOFError):  # the system has closed the connection
            await client.disconnect()
        return names, str(caught.value), last["data"]

    names, error, data = asyncio.run(asyncio.wait_for(drive(), PATIENCE))
    assert names.index("VNET_LINK_DOWN") < names.index("VNET_LINK_UP")
    assert error == "Parameter 'up': must be given"
    assert data == {"guest": False, "reason": "host-qmp-quit"}


@contextmanager
def conversation() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(QEMU, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_commands_that_qemu_has_are_qemus(control: Path, require_tool: RequireTool, tmp_path: Path) -> None:
    require_tool(QEMU[0])
    with conversation() as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write('{"execute": "qmp_capabilities"}\n{"execute": "query-qmp-schema"}\n')
        qemu.stdin.flush()
        lines = [json.loads(qemu.stdout.readline()) for _ in range(3)]
    theirs = by_name(lines[-1]["return"])
    printed = run_shell(control, tmp_path, "query-qmp-schema")
    ours = by_name(json.loads(printed[printed.index('{"return"') :].splitlines()[0])["return"])
    common = [name for name in COMMANDS if not name.startswith(OURS)]
    for name in common:
        if name not in theirs:
            assert name.startswith("x-query-virtio")  # QEMU has them from 7.2 on
            continue
        for key in {"arg-type", "ret-type"} - ({"arg-type"} if name in OTHER_ARGUMENTS else set()):
            expected = shape(theirs, theirs[name][key])
            if name == "query-status":
                expected["members"].pop("singlestep", None)  # only in versions before 9
            assert shape(ours, ours[name][key]) == expected, (name, key)
    assert shape(ours, ours["SHUTDOWN"]["arg-type"]) == shape(theirs, theirs["SHUTDOWN"]["arg-type"])
