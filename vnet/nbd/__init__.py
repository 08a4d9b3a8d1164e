"""The network block device protocol, a server's side, as far as bytes go: nothing here reads or sends any.

Fixed newstyle negotiation, then transmission with simple or structured replies, after the protocol's own
description (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). All numbers are big-endian.
"""

from vnet.nbd.handshake import Handshake
from vnet.nbd.limits import Limits
from vnet.nbd.protocol import CommandFlag, CommandType, Export, NbdError, NbdProtocolError, TransmissionFlag
from vnet.nbd.transmission import REQUEST_SIZE, Command, Receiver, error_reply, read_header, simple_reply

__all__ = [
    "REQUEST_SIZE",
    "Command",
    "CommandFlag",
    "CommandType",
    "Export",
    "Handshake",
    "Limits",
    "NbdError",
    "NbdProtocolError",
    "Receiver",
    "TransmissionFlag",
    "error_reply",
    "read_header",
    "simple_reply",
]
