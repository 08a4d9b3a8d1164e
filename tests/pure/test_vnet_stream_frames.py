"""Packets and frames of a link in a stream of bytes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.carriers.framing import ProtocolError
from support.tlps import random_tlp
from vnet.link.transaction.codec import emit
from vnet.stream.frames import Control, Frames, control, parse_control


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
