"""vhost-user: virtqueues shared by two processes, and the messages that set them up (QEMU's vhost-user.rst)."""

from drivers.carriers.options import SocketOptions
from drivers.carriers.transport import SocketTransport
from drivers.transports.vhost_user.back import VhostUserBack
from drivers.transports.vhost_user.front import VHOST_USER_CLIENT

__all__ = ["VHOST_USER", "VhostUserBack"]

VHOST_USER = SocketTransport(VHOST_USER_CLIENT, VhostUserBack, options=SocketOptions)
