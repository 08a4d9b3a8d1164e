"""A register block and command mailbox in plain memory, for endpoints that can't trap register writes."""

from drivers.transports.epf_mailbox.back import MailboxEpf
from drivers.transports.epf_mailbox.front import EPF_MAILBOX
from drivers.transports.epf_mailbox.registers import MAX_QUEUES, register_name

__all__ = ["EPF_MAILBOX", "MAX_QUEUES", "MailboxEpf", "register_name"]
