"""The targets: one record for each function that takes any bytes. Both engines and the tests read this table."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

import attrs

__all__ = ["TARGETS", "Target"]


@attrs.frozen
class Target:
    """A function of a module in ``fuzz.targets`` that takes the bytes of an input and returns nothing."""

    name: str
    place: str
    """Module and function, with a colon between them."""
    attack: str
    """The bytes, and the code that they reach."""
    length: int = 256
    """Bytes of the longest input."""
    native: bool = False
    """Whether it needs the C extension."""
    opens: bool = False
    """Whether it opens file descriptors, whose number is then compared after each input."""

    def load(self) -> Callable[[bytes], None]:
        """Import the module. Returns the function."""
        module, _, name = self.place.partition(":")
        function: Callable[[bytes], None] = getattr(importlib.import_module(f"fuzz.targets.{module}"), name)
        return function


_ALL = (
    Target("split_device", "rings:split_device", "a driver's words in a split ring"),
    Target("packed_device", "rings:packed_device", "a driver's words in a packed ring"),
    Target("split_driver", "rings:split_driver", "a device's words in a split ring"),
    Target("packed_driver", "rings:packed_driver", "a device's words in a packed ring"),
    Target("native_split", "rings:native_split", "a split ring in C, compared with Python", native=True),
    Target("native_packed", "rings:native_packed", "a packed ring in C, compared with Python", native=True),
    Target("split_inflight", "storage:split_inflight", "a log of chains in flight, from which a split ring resumes"),
    Target("packed_inflight", "storage:packed_inflight", "the same for a packed ring"),
    Target("net_header", "packets:net_header", "frames with a virtio_net_hdr, finished in software"),
    Target("net_control", "packets:net_control", "commands of a network device's control queue"),
    Target("neighbour", "packets:neighbour", "ARP, neighbour discovery and packets at a TUN"),
    Target("rpmsg", "packets:rpmsg", "rpmsg messages, name service and address service"),
    Target("blk_request", "packets:blk_request", "request chains of a disk"),
    Target("scsi_cdb", "storage:scsi_cdb", "SCSI commands with their parameter lists"),
    Target("scsi_request", "storage:scsi_request", "chains of a SCSI host, and sense data"),
    Target("tlp", "packets:tlp", "transaction layer packets"),
    Target("tlp_answer", "packets:tlp_answer", "completions of a read"),
    Target("vhost_user_messages", "streams:vhost_user_messages", "messages of a front end and of a back end"),
    Target("vfio_user_messages", "streams:vfio_user_messages", "messages of a vfio-user client and of a server"),
    Target("nbd", "streams:nbd", "an NBD client's options, commands and data"),
    Target("qmp", "streams:qmp", "a QMP client's bytes, commands and arguments"),
    Target("pcapng", "streams:pcapng", "captures"),
    Target("vhost_user_session", "sessions:vhost_user_session", "a front end's messages and rings", opens=True),
    Target("vfio_user_session", "sessions:vfio_user_session", "a client's commands and rings", opens=True),
    Target("pci_config", "registers:pci_config", "accesses to a configuration space"),
    Target("virtio_pci", "registers:virtio_pci", "accesses to a virtio-pci function", opens=True),
    Target("mmio", "registers:mmio", "accesses to a virtio-mmio device"),
    Target("mailbox", "registers:mailbox", "words and doorbells of a mailbox endpoint", opens=True),
    Target("ntb_hardware", "registers:ntb_hardware", "accesses to both sides of an NTB", opens=True),
    Target("ntb_offer", "registers:ntb_offer", "scratchpads with which a session begins"),
    Target("ntb_session", "ntb:ntb_session", "a vhost side's scratchpads, doorbells and flaps", opens=True),
    Target("topology", "streams:topology", "topology files"),
)
TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}
