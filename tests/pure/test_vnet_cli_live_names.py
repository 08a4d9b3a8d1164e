"""Completion of live names offers nothing where it cannot look."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from vnet.cli import live_names
from vnet.system import state

COMPLETIONS = ("complete_systems", "complete_hosts", "complete_devices", "complete_links")


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_user_whose_directory_is_another_users_is_offered_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(state, "USERS_DIR", tmp_path)
    monkeypatch.setattr(state, "SHARED_DIR", tmp_path)
    (tmp_path / "vnet-1000").symlink_to(tmp_path)
    context = click.Context(click.Command("show"))
    assert getattr(live_names, name)(context, click.Option(["--name"]), "") == []
