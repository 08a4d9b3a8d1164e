"""Figures of the system are files of the management tree."""

from __future__ import annotations

import errno

from support.rigs.configfs import RPMSG, TRANSPORT, WITH_NTB, TreeRig, refused


async def test_figures_are_files_that_cannot_be_written() -> None:
    rig = TreeRig(WITH_NTB)
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}")
    queue = "../devices/vhost0/driver/queues/receiveq1"
    assert await rig.run(f"ls ../devices\nls {queue}/ring\ncat {queue}/ring/avail\ncat {queue}/live") == [
        "vhost0",
        "avail num used",
        "3",
        "1",
    ]
    assert await rig.run("cat ../devices/vhost0/driver/status\ncat ../ntb/ntb0/host") == ["A B", "soc"]
    await refused(errno.EACCES, rig.run(f"echo 4 > {queue}/ring/avail"))
    await refused(errno.EPERM, rig.run("mkdir ../devices/x"))
    await refused(errno.EPERM, rig.run("rmdir ../devices/vhost0"))
    await refused(errno.ENOENT, rig.run("ls ../devices/x"))
