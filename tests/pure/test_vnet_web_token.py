"""Tokens of the page: random, compared whole, and kept in files that only their owner reads."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vnet.errors import ControlError
from vnet.web.token import TOKEN, file_token, is_token, new_token


def test_tokens_are_random_and_need_no_quoting() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(TOKEN.fullmatch(token) for token in tokens)


@pytest.mark.parametrize(("given", "same"), [("moon", True), ("moo", False), ("", False), ("m\xf6\ud800n", False)])
def test_only_the_whole_token_is_it(given: str, same: bool) -> None:
    assert is_token("moon", given) is same


def test_a_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = file_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"{token}\n"
    assert file_token(path) == token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    file_token(path)
    path.chmod(mode)
    with pytest.raises(ControlError, match="must be our own file, without access for other users; try: chmod 600 /"):
        file_token(path)


@pytest.mark.parametrize("text", ["", "short", "x" * 129, "a token with spaces", "t\xf6ken" * 4])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ControlError, match="must be a token of 16 to 128 letters, digits, '-' and '_'"):
        file_token(path)
