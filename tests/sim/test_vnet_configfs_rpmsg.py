"""Channels of the management tree open on rpmsg devices."""

from __future__ import annotations

import errno

from support.rigs.configfs import CHANNEL, RPMSG, TRANSPORT, VIRTPROC, WITH_NTB, TreeRig, refused


async def test_a_channel_opens_on_one_device_and_closes_with_its_link() -> None:
    rig = TreeRig(WITH_NTB)
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}")
    assert await rig.run("ls ../rpmsg/\nls ../rpmsg/channel/\nls ../rpmsg/virtproc/") == [
        "channel virtproc",
        "rpmsg-client-sample",
        "vhost0",
    ]
    await rig.run(f"mkdir {CHANNEL}/c1\necho echo > {CHANNEL}/c1/surface\nln -s {CHANNEL}/c1 {VIRTPROC}/vhost0")
    [channel] = rig.system.ends["vhost0"].open.values()
    assert (channel.name, channel.surface) == ("rpmsg-client-sample", "echo")
    await refused(errno.EBUSY, rig.run(f"ln -s {CHANNEL}/c1 {VIRTPROC}/vhost0/again"))
    await refused(errno.EBUSY, rig.run(f"rmdir {CHANNEL}/c1"))
    await refused(errno.EBUSY, rig.run(f"echo none > {CHANNEL}/c1/surface"))
    await rig.run(f"rm {VIRTPROC}/vhost0/c1")
    assert rig.system.ends["vhost0"].open == {}
    await rig.run(f"rmdir {CHANNEL}/c1")


async def test_a_device_that_goes_frees_its_channels() -> None:
    rig = TreeRig(WITH_NTB)
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}\nmkdir {CHANNEL}/c1\nln -s {CHANNEL}/c1 {VIRTPROC}/vhost0")
    await rig.run(f"rm {TRANSPORT}/ffffffff:00000007")
    assert await rig.run("ls ../rpmsg/virtproc") == [""]
    await rig.run(f"rmdir {CHANNEL}/c1")


async def test_channels_are_checked() -> None:
    rig = TreeRig(WITH_NTB)
    await rig.run(f"ln -s {RPMSG} {TRANSPORT}\nmkdir {CHANNEL}/c1\necho pty > {CHANNEL}/c1/surface")
    await refused(errno.EINVAL, rig.run(f"ln -s {CHANNEL}/c1 {VIRTPROC}/vhost0"), "path must be given for surface pty")
    await refused(errno.EINVAL, rig.run(f"ln -s {CHANNEL} {VIRTPROC}/vhost0"), "must lead to a channel")
    await refused(errno.EINVAL, rig.run(f"mkdir ../rpmsg/channel/{'n' * 32}"), "31 printable")
    await refused(errno.EINVAL, rig.run(f"echo 53 > {CHANNEL}/c1/addr"))
    await rig.run(
        "mkdir ../rpmsg/channel/own-name\nmkdir ../rpmsg/channel/own-name/c\nrmdir ../rpmsg/channel/own-name/c"
    )
    await refused(errno.EPERM, rig.run("rmdir ../rpmsg/channel/rpmsg-client-sample"))
