"""Shells complete commands, and the names of running systems."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.cli import Up
from support.paths import VNET


def completed(*words: str) -> list[str]:
    """The words that a shell offers in place of the last one."""
    environment = {
        **os.environ,
        "_VNET_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("vnet", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([VNET], env=environment, capture_output=True, text=True, check=True, timeout=60)
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_calls_vnet_for_completions(shell: str) -> None:
    done = subprocess.run([VNET, "completion", shell], capture_output=True, text=True, check=True, timeout=60)
    assert f"_VNET_COMPLETE={shell}_complete" in done.stdout


def test_commands_and_options_are_completed() -> None:
    assert completed("sh") == ["shell", "show"]
    assert "--exec" in completed("up", "--e")
    assert completed("capture", "--events", "frames,ri") == ["frames,rings"]
    assert "frames,frames" not in completed("capture", "--events", "frames,")


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_names_of_what_runs_are_completed(up: Up) -> None:
    assert up.name in completed("show", "--name", up.name[:3])
    assert completed("set", "--name", up.name, "n") == ["net0"]
    assert completed("link", "--name", up.name, "down", "p") == ["pcie0"]
    assert completed("fault", "--name", up.name, "p") == ["pcie0"]
    assert completed("show", "--name", up.name, "p") == ["pcie0"]
    assert "--lost-doorbells" in completed("fault", "--lost")
    assert completed("exec", "--name", up.name, "r") == ["rc"]
    assert completed("capture", "--name", up.name, "--on", "net0,p") == ["net0,pcie0"]


def test_a_system_that_does_not_run_completes_nothing() -> None:
    assert completed("set", "--name", f"t{os.getpid()}-none", "n") == []
