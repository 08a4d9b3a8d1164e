"""The yardstick: what one process can move between two TUN interfaces, doing nothing else.

``python -m vnet.bench.forwarder [--native] FD FD`` forwards between two non-blocking descriptors that were opened and
set up by the parent process, until standard input ends; with ``--native``, the loop is that of `_forwarder.c`.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
from collections.abc import Mapping

__all__ = ["forward"]

BUFFER_SIZE = 12 + 65536
"""Bytes of the largest packet behind its virtio_net_hdr."""
BATCH = 64
"""Packets of one direction before the other has its turn: as many as the stack takes."""
REFUSED = {errno.EAGAIN, errno.EINVAL, errno.EIO, errno.ENOBUFS, errno.ENOMEM}
"""Nothing to read, or a packet the kernel does not take: it is dropped."""


def forward(peers: Mapping[int, int], stop: int) -> None:
    """Write each packet of a descriptor to its peer, until ``stop`` becomes readable or is closed.

    Raises OSError if an interface is gone.
    """
    buffer = bytearray(BUFFER_SIZE)
    view = memoryview(buffer)
    into = [buffer]
    readv, write, turns = os.readv, os.write, range(BATCH)
    with select.epoll() as epoll:
        for fd in (*peers, stop):
            epoll.register(fd, select.EPOLLIN)
        poll = epoll.poll
        while True:
            for fd, _ in poll():
                if fd == stop:
                    return
                peer = peers[fd]
                try:
                    for _ in turns:
                        write(peer, view[: readv(fd, into)])
                except OSError as error:
                    if error.errno not in REFUSED:
                        raise


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward between two TUN descriptors until standard input ends.")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("fd", type=int, nargs=2)
    args = parser.parse_args()
    first, second = args.fd
    if args.native:
        from vnet.bench import _forwarder

        _forwarder.forward(first, second, 0)
    else:
        forward({first: second, second: first}, stop=0)


if __name__ == "__main__":
    main()
