"""The table of system calls is short, and each has its reason."""

from __future__ import annotations

import pytest

from vnet.linux.privileges.calls import CALLS, CALLS_MAX, RUN_CALLS, allowed_calls

DANGEROUS = {
    *("execve", "execveat", "fork", "vfork", "clone3", "ptrace", "process_vm_readv", "process_vm_writev"),
    *("mount", "umount2", "unshare", "setns", "pivot_root", "chroot", "open_by_handle_at", "mknodat", "symlink"),
    *("setuid", "setresuid", "setgid", "capset", "prctl", "seccomp", "bpf", "perf_event_open", "userfaultfd"),
    *("init_module", "kexec_load", "keyctl", "io_uring_setup", "tgkill", "pidfd_getfd", "rename", "chmod", "link"),
}


@pytest.mark.parametrize("strict", [True, False])
def test_at_most_sixty_calls_are_allowed_and_none_that_makes_rights_or_processes(strict: bool) -> None:
    calls = allowed_calls(strict=strict, runs_command=True)
    assert len(calls) <= CALLS_MAX == 60
    assert not calls.keys() & DANGEROUS


def test_the_strict_sandbox_allows_less_and_nothing_else() -> None:
    on, strict = (allowed_calls(strict=strict, runs_command=False) for strict in (False, True))
    assert strict.keys() < on.keys()
    assert on["openat"] is None
    assert strict["openat"] is not None
    assert not {"bind", "listen", "kill"} & strict.keys()


def test_each_call_has_a_reason() -> None:
    assert all(call.reason for call in (*CALLS.values(), *RUN_CALLS.values()))
    assert sum(call.rare for call in CALLS.values()) < 10, "the system test compares all others with what is made"
