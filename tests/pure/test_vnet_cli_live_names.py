"""Completion of live names offers nothing where it cannot look."""

from __future__ import annotations

import os

import click
import pytest

from vnet.cli import live_names

COMPLETIONS = ("complete_systems", "complete_hosts", "complete_devices", "complete_links")


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_user_without_a_runtime_directory_is_offered_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    context = click.Context(click.Command("show"))
    assert getattr(live_names, name)(context, click.Option(["--name"]), "") == []
