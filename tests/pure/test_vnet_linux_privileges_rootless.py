"""A refused user namespace has the command that allows it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from vnet.linux.privileges import rootless

APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"


@pytest.mark.hostile("X03")
@pytest.mark.parametrize(
    ("switch", "value", "command"),
    [
        ("user/max_user_namespaces", "0\n", "sudo sysctl -w user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0\n", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        (APPARMOR, "1", f"sudo sysctl -w {APPARMOR.replace('/', '.')}=0"),
        ("user/max_user_namespaces", "96364\n", rootless.CONTAINER),
    ],
)
def test_a_refusal_has_the_command_that_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, value: str, command: str
) -> None:
    (tmp_path / switch).parent.mkdir()
    (tmp_path / switch).write_text(value)
    monkeypatch.setattr(rootless, "SYSCTL", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=1))
    rootless.why_not.cache_clear()
    error = rootless.why_not()
    rootless.why_not.cache_clear()
    assert error is not None
    assert (error.missing, error.command) == ("no right to make a user namespace", command)
