"""The tutorial about a function of one's own does what it says, guest included. `test_docs` plays the other pages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.docs import play
from support.guest import GuestKernel
from support.paths import ROOT


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("privileged", "no_leaks")
def test_a_guest_enumerates_the_function_of_the_tutorial(
    guest_kernel: GuestKernel, new_qemu: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(guest_kernel.image, tmp_path / "vmlinuz")
    monkeypatch.setenv("QEMU", " ".join(new_qemu))
    monkeypatch.setenv("ACCEL", "tcg")
    play(ROOT / "docs" / "tutorial" / "own-function.md", tmp_path)
