"""The handshake of a stream, without a stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.framing import ProtocolError
from vnet.stream.handshake import Handshake, Side, StreamIdentity

IDENTITY = StreamIdentity("pcie0", {0: "net over pci"})


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
