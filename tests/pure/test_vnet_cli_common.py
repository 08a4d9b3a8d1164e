"""The command line prints one line for each expected error, and a traceback for every other."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from drivers.errors import ProbeError
from vnet.cli.common import errors_in_one_line
from vnet.errors import SUDO, ConfigError, ControlError, LinkDown, PrivilegeError

FULL = OSError(errno.ENOSPC, "No space left on device")
WRONG = ConfigError("t.toml", "devices.a.mtu", 1, "must be more")


def run(error: BaseException) -> Result:
    """The outcome of a command that raises ``error``."""

    @errors_in_one_line
    def callback() -> None:
        raise error

    return CliRunner().invoke(click.Command("it", callback=callback))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (WRONG, "t.toml: devices.a.mtu = 1: must be more"),
        (ConfigError("t.toml", "", None, "No such file or directory"), "t.toml: No such file or directory"),
        (ConfigError("t.toml", "hosts", None, "must be given"), "t.toml: hosts: must be given"),
        (ControlError("x is not running"), "x is not running"),
        (PrivilegeError("ping is missing", "sudo apt install ping"), "ping is missing; try: sudo apt install ping"),
        (ProbeError("net0 is not up:\nno memory"), "net0 is not up: no memory"),
        (LinkDown(0x1000, 4, write=True, reason="gone"), "write of 4 bytes at 0x1000: gone"),
        (OSError(errno.ENOENT, "No such file or directory", "/nowhere"), "/nowhere: No such file or directory"),
        (OSError("something"), "something"),
        (OSError(), "OSError"),
        (FULL, "No space left on device"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: ExceptionGroup("", [ExceptionGroup("", [e])])])
def test_an_expected_error_is_one_line(error: Exception, line: str, wrap: Callable[[Exception], BaseException]) -> None:
    done = run(wrap(error))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"vnet: {line}\n")


def test_each_of_a_group_is_one_line_and_the_same_line_is_printed_once() -> None:
    group = ExceptionGroup("a", [FULL, ExceptionGroup("b", [WRONG, OSError(errno.ENOSPC, "No space left on device")])])
    done = run(group)
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "vnet: No space left on device",
        "vnet: t.toml: devices.a.mtu = 1: must be more",
    ]


def test_an_unexpected_error_is_raised_alone_or_in_a_group() -> None:
    bug = KeyError("bug")
    assert run(bug).exception is bug
    done = run(ExceptionGroup("a", [FULL, ExceptionGroup("b", [WRONG, bug])]))
    assert done.stderr.splitlines() == [
        "vnet: No space left on device",
        "vnet: t.toml: devices.a.mtu = 1: must be more",
    ]
    assert isinstance(done.exception, ExceptionGroup)
    [inner] = done.exception.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert inner.exceptions == (bug,)


def test_a_missing_right_comes_with_the_command_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/vnet", "up", "my file.toml", "--name", "x"])
    done = run(PrivilegeError("no right to make the interface vnet0", SUDO))
    assert done.stderr == f"vnet: no right to make the interface vnet0; try: {SUDO} up 'my file.toml' --name x\n"


def test_too_few_descriptors_are_one_line_for_any_open() -> None:
    limit = 4 * resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    errors = [
        OSError(errno.EMFILE, "Too many open files", *path) for path in ((), ("/run/netns/a",), ("/dev/net/tun",))
    ]
    assert run(ExceptionGroup("", errors)).stderr == f"vnet: Too many open files; try: ulimit -n {limit}\n"
