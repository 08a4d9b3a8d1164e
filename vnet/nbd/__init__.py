"""Server side of the network block device protocol, without I/O.

Fixed newstyle negotiation, then transmission with simple or structured replies
(https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). All numbers are big-endian.
"""

from vnet.nbd.handshake import Handshake
from vnet.nbd.limits import NbdLimits
from vnet.nbd.protocol import CommandFlag, CommandType, Export, NbdError, NbdProtocolError, TransmissionFlag
from vnet.nbd.transmission import REQUEST_SIZE, CommandReceiver, NbdCommand, error_reply, read_header, simple_reply

__all__ = [
    "REQUEST_SIZE",
    "NbdCommand",
    "CommandFlag",
    "CommandType",
    "Export",
    "Handshake",
    "NbdLimits",
    "NbdError",
    "NbdProtocolError",
    "CommandReceiver",
    "TransmissionFlag",
    "error_reply",
    "read_header",
    "simple_reply",
]
