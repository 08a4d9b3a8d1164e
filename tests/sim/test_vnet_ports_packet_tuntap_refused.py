"""TUN ports whose requests the kernel refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from drivers.contracts.ports import NO_OFFLOADS, Offloads
from drivers.errors import PortGone
from support.rigs.tun import OWN, Socket, tun
from vnet.ports.packet.pytun_device import TUNSETVNETHDRSZ, open_device
from vnet.ports.packet.tun import TunPort
from vnet.ports.packet.tuntap import TUN_F_CSUM, TUNSETCARRIER, TUNSETOFFLOAD

Refuse = Callable[[int, Callable[[int], bool], int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, device: Socket) -> Refuse:
    """Return a function that has the kernel refuse a request whose flags meet a condition, with an error."""

    def start(request: int, condition: Callable[[int], bool], error: int) -> None:
        def ioctl(_: int, number: int, flags: object) -> int:
            if number == request and condition(flags if isinstance(flags, int) else 0):
                raise OSError(error, os.strerror(error))
            return 0

        monkeypatch.setattr("fcntl.ioctl", ioctl)

    return start


async def test_without_checksums_there_are_no_offloads(device: Socket, refuse: Refuse) -> None:
    """The kernel has none without them; other combinations may have been accepted by chance."""
    refuse(TUNSETOFFLOAD, lambda flags: flags == TUN_F_CSUM, errno.EINVAL)
    assert TunPort(device, "vnet0", mac=OWN, peer_mac=None).caps == NO_OFFLOADS


async def test_offloads_that_are_refused_later_end_the_port_alone(device: Socket, refuse: Refuse) -> None:
    port = TunPort(device, "vnet0", mac=OWN, peer_mac=None)
    refuse(TUNSETOFFLOAD, bool, errno.EINVAL)
    with pytest.raises(PortGone, match="vnet0 can't be used: the kernel refuses offloads"):
        await port.start(mac=None, offloads=Offloads(csum=True), mtu=None)
    port.close()


async def test_a_carrier_that_cannot_be_set_names_the_interface_and_does_not_keep_a_port_from_stopping(
    device: Socket, refuse: Refuse
) -> None:
    port = await tun(device)
    refuse(TUNSETCARRIER, lambda _: True, errno.EPERM)
    with pytest.raises(PortGone, match="vnet0 can't be used: Operation not permitted"):
        port.set_carrier(True)
    port.stop()
    assert not port.live
    port.close()


async def test_a_header_that_is_refused_names_the_interface_and_deletes_it(
    device: Socket, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(TUNSETVNETHDRSZ, lambda _: True, errno.EINVAL)
    monkeypatch.setattr("pytun.TunTapDevice", lambda **_: device)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        open_device("tun", "vnet0")
    assert caught.value.filename == "vnet0"
    assert device.fileno() == -1
