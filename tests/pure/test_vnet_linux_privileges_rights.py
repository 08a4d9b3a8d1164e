"""A refusal of the kernel is a missing right only if a capability is missing."""

from __future__ import annotations

import errno

import pytest

from vnet.errors import SUDO, PrivilegeError
from vnet.linux.privileges import rights
from vnet.linux.privileges.rights import NET_ADMIN, SYS_ADMIN, refusal


def refused(monkeypatch: pytest.MonkeyPatch, code: int, uid: int, *owned: int) -> Exception:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(rights, "has_capability", owned.__contains__)
    return refusal(OSError(code, "x"), "make it", NET_ADMIN, SYS_ADMIN)


def test_a_user_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, errno.EPERM, 1000)
    assert isinstance(error, PrivilegeError)
    assert (error.missing, error.command) == ("no right to make it", SUDO)


def test_root_without_a_capability_hears_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, errno.EPERM, 0, NET_ADMIN)
    assert isinstance(error, PrivilegeError)
    assert error.missing == "no right to make it"
    assert error.command.endswith("(this root lacks CAP_SYS_ADMIN)")
    assert "sudo" not in error.command


@pytest.mark.parametrize(
    ("code", "why"),
    [(errno.EPERM, "Operation not permitted"), (errno.EACCES, "Permission denied"), (errno.EINVAL, "Invalid argument")],
)
def test_root_with_all_capabilities_is_refused_for_another_reason(
    monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    error = refused(monkeypatch, code, 0, NET_ADMIN, SYS_ADMIN)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror) == (code, f"cannot make it: {why}")
