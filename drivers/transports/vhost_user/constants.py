"""Constants of vhost-user: requests, protocol features, header flags, limits (QEMU's vhost-user.rst)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from rings.ids import DeviceId

__all__ = [
    "AGREED_BY",
    "F_LOG_ALL",
    "F_NET_MTU",
    "F_PROTOCOL_FEATURES",
    "MAX_BODY",
    "MAX_CONFIG",
    "MAX_FDS",
    "MAX_REGIONS",
    "MAX_RINGS",
    "NO_FD",
    "ONE_RING",
    "RINGS_PER_UNIT",
    "VERSION",
    "VRING_F_LOG",
    "BackendRequest",
    "ConfigFlag",
    "FrontendRequest",
    "HeaderFlag",
    "ProtocolFeature",
]

VERSION = 1
MAX_BODY = 4096
"""Most bytes of a body; a larger one is a protocol error."""
MAX_FDS = 253
"""Most file descriptors of a message (Linux: SCM_MAX_FD). Receivers reserve room for all, so that none is lost."""
MAX_REGIONS = 8
"""Most regions of a memory table. Single regions may be added up to the number that the back end reports."""
MAX_CONFIG = 256
"""Most bytes of configuration in a message."""
MAX_RINGS = 256
"""Most rings: messages with a ring's file descriptor have 8 bits for its index."""
NO_FD = 1 << 8
"""Flag in these messages: no file descriptor."""
F_LOG_ALL = 26
"""Feature bit of vhost: log dirty pages."""
VRING_F_LOG = 1
"""Flag of SET_VRING_ADDR: also log the device's writes to the ring itself."""
F_PROTOCOL_FEATURES = 30
"""Feature bit of vhost-user; drivers never see it."""

F_NET_MTU = 3
"""Feature bit of network devices: the configuration space has an MTU. The front end may supply the space itself."""


class HeaderFlag(IntEnum):
    """Bits of a header's flags; the two lowest bits are the version."""

    REPLY = 4
    NEED_REPLY = 8


class FrontendRequest(IntEnum):
    """Requests of the front end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44
    GET_VRING_BASE_SKIP_DRAIN = 45


class BackendRequest(IntEnum):
    """Requests of the back end, on its own channel."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


class ProtocolFeature(IntEnum):
    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19


ONE_RING = 1, 0
RINGS_PER_UNIT: Mapping[int, tuple[int, int]] = {DeviceId.NET: (2, 1)}
"""Rings per unit of GET_QUEUE_NUM and rings that it does not count, by virtio device id; else `ONE_RING`. Network
devices count pairs of rings, without the control queue. The protocol distinguishes them: see the README's decisions."""

AGREED_BY: Mapping[int, Mapping[int, tuple[ProtocolFeature, ...]]] = {
    DeviceId.NET: {F_NET_MTU: (ProtocolFeature.MTU, ProtocolFeature.CONFIG)}
}
"""Features that need a value known to both halves, with the protocol features that carry it, by virtio device id.
NET_SET_MTU sends the MTU, GET_CONFIG reads it."""


class ConfigFlag(IntEnum):
    """Reasons of a configuration write."""

    WRITABLE = 0
    """The driver wrote a writable field."""
    MIGRATION = 1
