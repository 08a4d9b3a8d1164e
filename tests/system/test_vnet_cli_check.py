"""`vnet check device` against QEMU's storage daemon, a device of another program."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from support.cli import vnet
from support.machine import RequireTool

DAEMON = (
    "qemu-storage-daemon --blockdev driver=file,node-name=n,filename={disk} --export type=vhost-user-blk,id=e,"
    "node-name=n,writable=on,addr.type=unix,addr.path={{socket}}"
)
CASES = ("SPLIT-DEV-9", "SPLIT-DEV-11", "R01", "B01", "B07", "V07", "P06")


def test_a_foreign_device_is_checked_and_started_again_if_a_case_ends_it(
    tmp_path: Path, require_tool: RequireTool
) -> None:
    require_tool("qemu-storage-daemon")
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(16 << 20))
    done = vnet(
        "check", "device", "--type", "blk", "--spawn", DAEMON.format(disk=disk), "--destructive",
        "--junit", str(tmp_path / "r.xml"), *CASES,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # some versions crash in V07
    assert done.stderr == ""
    cases = {case.get("name", "").split()[0]: case for case in ElementTree.parse(tmp_path / "r.xml").iter("testcase")}
    assert {name.partition(".")[0] for name in cases} == set(CASES)
    for name, case in cases.items():
        if not name.startswith(("V07", "P06")):
            assert [child.tag for child in case] == [], done.stdout
