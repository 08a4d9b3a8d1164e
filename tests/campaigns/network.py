"""A network under load between two namespaces: pings, one connection, and requests with a connection each."""

from __future__ import annotations

import http.client
import http.server
import random
import select
import socket
import struct
import threading
import time
from contextlib import closing

from campaigns.load import PATIENCE, Load
from drivers.devices.net.software import ones_sum
from vnet.linux.netns import run_in_netns

__all__ = ["HttpLoad", "PingLoad", "TcpLoad"]

PAUSE = 0.005
"""Seconds between two requests."""
REQUEST, REPLY = 8, 0
ICMP = struct.Struct(">BBHHH")
KEPT = 4096
"""Requests whose replies may still come."""
PAYLOAD_MAX = 1400
CHUNK = 8192
"""Bytes that a connection carries back and forth at a time: less than its buffers hold."""
RETRANSMITS = 2
"""Offset of ``tcpi_retransmits`` in TCP_INFO."""
BODY = 20_000
"""Bytes of an answer over HTTP."""


class PingLoad(Load):
    """ICMP echo requests of random sizes; a lost one is counted, a reply with another payload is an error."""

    def __init__(self, netns: str | None, address: str, dice: random.Random) -> None:
        super().__init__()
        self.sent = self.repeated = 0
        self._address, self._dice = address, random.Random(dice.random())
        raw = socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
        self._socket = run_in_netns(netns, lambda: socket.socket(*raw))
        self._identifier = self._dice.randrange(1 << 16)
        self._under_way: dict[int, tuple[float, bytes]] = {}

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "lost": self.sent - self.requests, "repeated": self.repeated}

    def run(self) -> None:
        with self._socket:
            self._socket.setblocking(False)
            while not self.ending.is_set():
                self._send()
                end = time.monotonic() + PAUSE
                while (left := end - time.monotonic()) > 0:
                    if select.select([self._socket], [], [], left)[0]:
                        self._take(self._socket.recv(65536))

    def _send(self) -> None:
        number = self.sent & 0xFFFF
        self.sent += 1
        payload = self._dice.randbytes(self._dice.randint(8, PAYLOAD_MAX))
        head = ICMP.pack(REQUEST, 0, 0, self._identifier, number)
        message = ICMP.pack(REQUEST, 0, ~ones_sum(head + payload) & 0xFFFF, self._identifier, number) + payload
        self._under_way.pop((number - KEPT) & 0xFFFF, None)
        self._under_way[number] = time.monotonic(), payload
        try:
            self._socket.sendto(message, (self._address, 0))
        except OSError:  # no route or no interface for the moment: lost
            pass

    def _take(self, packet: bytes) -> None:
        start = (packet[0] & 15) * 4
        kind, _, _, identifier, number = ICMP.unpack_from(packet, start)
        if (kind, identifier) != (REPLY, self._identifier) or socket.inet_ntoa(packet[12:16]) != self._address:
            return
        if (request := self._under_way.pop(number, None)) is None:
            self.repeated += 1
            return
        sent, payload = request
        assert packet[start + ICMP.size :] == payload, f"ping {number} came back with other bytes"
        self.answered(sent)


class _Pair(Load):
    """A load whose server is in another namespace than its client, whose thread is in the client's."""

    def __init__(self, netns: str, there: str, address: str) -> None:
        super().__init__()
        self._netns = netns
        self.listening = run_in_netns(there, lambda: socket.create_server((address, 0)))
        self.address: tuple[str, int] = self.listening.getsockname()

    def run(self) -> None:
        with self.listening:
            run_in_netns(self._netns, self.run_inside)

    def run_inside(self) -> None:
        raise NotImplementedError


class TcpLoad(_Pair):
    """One connection, which carries numbered bytes to the other side and back, and must never break."""

    def __init__(self, netns: str, there: str, address: str, dice: random.Random) -> None:
        super().__init__(netns, there, address)
        self._dice = random.Random(dice.random())
        self._ends: list[socket.socket] = []

    @property
    def is_repeating(self) -> bool:
        """Whether a side's last segment was lost and repeated: it now waits for its timer, which doubles."""
        return any(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)[RETRANSMITS] for end in self._ends)

    def run_inside(self) -> None:
        with socket.create_connection(self.address, PATIENCE) as client, closing(self.listening.accept()[0]) as server:
            self._ends += client, server
            while not self.ending.wait(PAUSE):
                data = self._dice.randbytes(self._dice.randint(1, CHUNK))
                sent = time.monotonic()
                client.sendall(data)
                if self._echo(client, server, data):
                    self.answered(sent)

    def _echo(self, client: socket.socket, server: socket.socket, data: bytes) -> bool:
        """Send the bytes back and compare them; return False if the load is to end before all are there."""
        returned = b""
        while len(returned) < len(data):
            if self.ending.is_set():
                return False
            for ready in select.select([client, server], [], [], 0.1)[0]:
                piece = ready.recv(65536)
                assert piece, "the connection was closed"
                if ready is server:
                    server.sendall(piece)
                else:
                    returned += piece
        assert returned == data, "a connection carried other bytes"
        return True


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = random.Random(self.path).randbytes(BODY)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class HttpLoad(_Pair):
    """Requests over HTTP, each with a connection of its own; no request may fail."""

    def run_inside(self) -> None:
        server = http.server.ThreadingHTTPServer(self.address, _Answer, bind_and_activate=False)
        server.daemon_threads = True  # none waits for a connection that has no client any more
        server.socket.close()
        server.socket = self.listening
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        try:
            self._ask_each()
        finally:
            server.shutdown()
            thread.join()

    def _ask_each(self) -> None:
        number = 0
        while not self.ending.wait(PAUSE):
            path, number, sent = f"/{number}", number + 1, time.monotonic()
            with closing(http.client.HTTPConnection(*self.address, timeout=PATIENCE)) as connection:
                connection.request("GET", path)
                body = connection.getresponse().read()
            assert body == random.Random(path).randbytes(BODY), f"the answer to {path} has other bytes"
            self.answered(sent)
