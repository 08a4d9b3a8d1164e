"""Frames, credits, the handshake and addresses of a stream, without a stream."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.framing import ProtocolError
from support.tlps import random_tlp
from vnet.link.transaction.codec import emit
from vnet.link.transaction.flow import Flow
from vnet.stream.address import Address, parse_address
from vnet.stream.cipher import Tls
from vnet.stream.credits import FLOWS, CreditGate, CreditGrant
from vnet.stream.frames import Control, Frames, control, parse_control
from vnet.stream.handshake import Handshake, Side, StreamIdentity

IDENTITY = StreamIdentity("pcie0", {0: "net over pci"})


@given(st.integers(0, 1 << 32), st.integers(1, 600))
def test_packets_and_frames_come_out_of_any_pieces_as_they_went_in(seed: int, step: int) -> None:
    random = Random(seed)
    sent = [
        emit(random_tlp(random)) if random.random() < 0.7 else control(Control.PROOF, random.randbytes(9))
        for _ in range(5)
    ]
    stream, frames, got = b"".join(sent), Frames(), list[bytes]()
    for at in range(0, len(stream), step):
        frames.feed(stream[at : at + step])
        while (frame := frames.next()) is not None:
            got.append(bytes(frame))
    assert got == sent


def test_a_frame_of_the_link_has_a_kind_and_a_body() -> None:
    assert parse_control(memoryview(control(Control.DOWN, b"why"))) == (Control.DOWN, b"why")
    with pytest.raises(ProtocolError, match="kind 31"):
        parse_control(memoryview(b"\xff\0\0\0"))


def connected() -> tuple[CreditGate, CreditGrant]:
    gate, grant = CreditGate(), CreditGrant()
    for body in grant.updates():
        gate.update(body)
    return gate, grant


@pytest.mark.hostile("L04")
def test_credits_run_out_and_come_back_when_packets_are_handled() -> None:
    gate, grant = connected()
    packets, _ = FLOWS[Flow.NON_POSTED]
    for _ in range(packets):
        assert gate.take(0, posted=False)
        grant.receive(0, posted=False)
    assert not gate.take(0, posted=False)
    assert gate.take(256, posted=True), "posted packets have credits of their own"
    due = [grant.handle(0, posted=False) for _ in range(packets)]
    assert due.index(True) == packets // 4 - 1
    for body in grant.updates():
        gate.update(body)
    assert gate.take(0, posted=False)


@pytest.mark.hostile("L04")
@pytest.mark.parametrize(("posted", "data", "count"), [(False, 0, 513), (True, 256, 1025), (True, 0, 4097)])
def test_packets_beyond_the_credits_are_an_overflow(posted: bool, data: int, count: int) -> None:
    _, grant = connected()
    for _ in range(count - 1):
        grant.receive(data, posted=posted)
    with pytest.raises(ProtocolError, match="receiver overflow"):
        grant.receive(data, posted=posted)


def sides(key: str = "k" * 16, other: str = "k" * 16) -> tuple[Handshake, Handshake]:
    root = Handshake(Side.ROOT, IDENTITY, key, [(4096, 8192), (1 << 32, 4096)])
    endpoint = Handshake(Side.ENDPOINT, IDENTITY, other)
    root.take_hello(endpoint.hello)
    endpoint.take_hello(root.hello)
    return root, endpoint


@pytest.mark.hostile("T05")
def test_both_sides_prove_their_key_for_one_connection() -> None:
    root, endpoint = sides()
    assert endpoint.memory == ((4096, 8192), (1 << 32, 4096))
    root.take_proof(endpoint.proof(b"one"), b"one")
    endpoint.take_proof(root.proof(b"one"), b"one")
    for body, binding in ((endpoint.proof(b"two"), b"one"), (root.proof(b"one"), b"one"), (b"", b"one")):
        with pytest.raises(ProtocolError, match="key: the other side has another one"):
            root.take_proof(body, binding)


def test_a_proof_is_of_no_use_with_another_key_or_in_another_handshake() -> None:
    root, endpoint = sides(other="j" * 16)
    with pytest.raises(ProtocolError, match="key"):
        root.take_proof(endpoint.proof(b""), b"")
    first, second = sides(), sides()
    with pytest.raises(ProtocolError, match="key"):
        second[0].take_proof(first[1].proof(b""), b"")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_first_frame_is_refused_with_a_reason(value: object) -> None:
    with pytest.raises(ProtocolError):
        Handshake(Side.ROOT, IDENTITY, "k" * 16).take_hello(json.dumps(value).encode())


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


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("198.18.0.1:7000", Address("198.18.0.1", 7000), "198.18.0.1:7000"),
        ("host.example:1", Address("host.example", 1), "host.example:1"),
        ("[::1]:7000", Address("::1", 7000), "[::1]:7000"),
        ("./link.sock", Address("./link.sock", None), "./link.sock"),
    ],
)
def test_an_address_is_a_host_with_a_port_or_a_path(text: str, address: Address, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("host", "HOST:PORT"),
        (":7000", "HOST:PORT"),
        ("host:0", "HOST:PORT"),
        ("host:65536", "HOST:PORT"),
        ("host:x", "HOST:PORT"),
        ("::1:7000", "brackets"),
        ("/" + "x" * 200, "shorter path"),
    ],
)
def test_a_bad_address_says_what_it_must_be(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_address(text)
