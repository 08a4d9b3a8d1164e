"""Options of ``vnet serve net``, and QEMU's network device."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from vnet.ends.net.spec import NetSpec
from vnet.ends.serve import OLDEST, VALUE, QemuDevice, Serve, ServeOption

__all__ = ["SERVE"]

USUAL_MTU = attrs.fields(NetSpec).mtu.default
"""MTU in bytes for which QEMU needs no argument."""


def _properties(spec: NetSpec) -> Iterator[str]:
    if spec.queue_pairs > 1:
        yield "mq=on"
    if spec.mtu != USUAL_MTU:
        yield f"host_mtu={spec.mtu}"


def _netdev(spec: NetSpec) -> tuple[str, str]:
    pairs = f",queues={spec.queue_pairs}" if spec.queue_pairs > 1 else ""
    return "-netdev", f"vhost-user,id=n0,chardev=c0{pairs}"


SERVE = Serve[NetSpec](
    (
        ServeOption(
            "--tap",
            {"device.kind": "tap", "device.ifname": VALUE},
            "Make a TAP interface of this name as the device's port.",
            metavar="NAME",
        ),
        ServeOption(
            "--tun",
            {"device.kind": "tun", "device.ifname": VALUE},
            "Make a TUN interface of this name as the device's port.",
            metavar="NAME",
        ),
        ServeOption("--netns", {"device.netns": VALUE}, "Existing namespace for the interface."),
        ServeOption(
            "--address",
            {"device.addresses": VALUE},
            "Address of the interface, with prefix length. Repeatable.",
            metavar="ADDRESS",
            repeatable=True,
        ),
        ServeOption("--mtu", {"mtu": VALUE}, "MTU in bytes.", int),
        ServeOption("--pairs", {"queue_pairs": VALUE}, "Largest number of queue pairs.", int),
        ServeOption(
            "--mac", {"mac": VALUE}, "MAC address of the driver's interface; learnt from its frames by default."
        ),
    ),
    one_of=("--tap", "--tun"),
    qemu=QemuDevice(
        "virtio-net-pci,netdev=n0,disable-legacy=on", returns=OLDEST, properties=_properties, words=_netdev
    ),
)
