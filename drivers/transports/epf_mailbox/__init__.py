"""A register block and command mailbox in plain memory, for endpoints that can't trap register writes."""

from typing import Literal

import attrs

from drivers.carriers.options import TransportOptions
from drivers.carriers.transport import DoorbellRange, LinkTransport
from drivers.transports.epf_mailbox.back import MailboxEpf
from drivers.transports.epf_mailbox.front import EPF_MAILBOX
from drivers.transports.epf_mailbox.registers import (
    DEVICE_DOORBELL,
    DOORBELL_BAR,
    DOORBELL_SIZE,
    MAX_QUEUES,
    register_name,
)

__all__ = ["MAILBOX", "MailboxOptions"]


@attrs.frozen
class MailboxOptions(TransportOptions):
    """How the endpoint notices commands, and what its function is called."""

    poll: bool = False
    """Whether the device polls for commands every millisecond instead of waiting for a doorbell."""
    ids: Literal["104c:b0f0", "104c:b500"] = "104c:b0f0"
    """Vendor id and device id of the PCI function: the transport's own, or those of the endpoint in the kernel's
    documents. Our driver knows both."""


MAILBOX = LinkTransport(
    EPF_MAILBOX,
    MailboxEpf,
    queues=MAX_QUEUES,
    options=MailboxOptions,
    register_name=register_name,
    extra_features=MailboxEpf.extra_features,
    doorbells=(DoorbellRange(DOORBELL_BAR, 0, DOORBELL_SIZE * DEVICE_DOORBELL, DOORBELL_SIZE, DOORBELL_SIZE),),
)
