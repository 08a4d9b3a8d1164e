"""A keeper takes one list of namespaces, and believes nothing that its writer says after it."""

from __future__ import annotations

import os

import pytest

from vnet.system import keeper
from vnet.system.keeper import Keeper

MADE = {"t-rc": (4, 4026531840), "t-ep": (4, 4026531841)}


@pytest.mark.parametrize("made", [{}, MADE])
@pytest.mark.parametrize("later", [b"", b"\nother 4 4026531842\n\n"])
def test_a_keeper_takes_the_first_list_alone(
    monkeypatch: pytest.MonkeyPatch, made: dict[str, tuple[int, int]], later: bytes
) -> None:
    monkeypatch.setattr(keeper, "made_namespaces", lambda: made)
    theirs, ours = os.pipe()
    try:
        Keeper(ours).keep()
        os.write(ours, later)  # the keeper may read both at once
        os.close(ours)
        assert keeper._take_list(theirs) == made
    finally:
        os.close(theirs)


@pytest.mark.parametrize("text", [b"", b"\n", b"\nt-rc 4 4026531840\n", b"\nt-rc 4"])
def test_a_list_that_its_writer_did_not_finish_is_empty(text: bytes) -> None:
    theirs, ours = os.pipe()
    try:
        os.write(ours, text)
        os.close(ours)
        assert keeper._take_list(theirs) == {}
    finally:
        os.close(theirs)
