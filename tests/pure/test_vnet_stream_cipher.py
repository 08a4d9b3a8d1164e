"""TLS from memory, from one end to the other."""

from __future__ import annotations

from random import Random

from vnet.stream.cipher import Tls


def test_tls_has_one_secret_for_both_ends_and_carries_any_bytes() -> None:
    server, client = Tls(server=True), Tls(server=False)
    data, done = client.step(b"")
    while not (done and server.binding):
        back, _ = server.step(data)
        data, done = client.step(back) if not done else (b"", True)
    assert server.binding == client.binding != b""
    payload = Random(1).randbytes(300_000)
    wire = client.wrap(payload)
    assert payload[:1000] not in wire
    assert server.unwrap(wire[:1000]) + server.unwrap(wire[1000:]) == payload
