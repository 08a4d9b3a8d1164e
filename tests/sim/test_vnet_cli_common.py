"""Errors of several tasks, as a command meets them: beside cancellations."""

from __future__ import annotations

import click
import pytest
import trio
from click.testing import CliRunner

from vnet.cli.common import errors_in_one_line
from vnet.errors import ConfigError

WRONG = ConfigError("t.toml", "devices.a.mtu", 1, "must be more")


async def cancelled() -> trio.Cancelled:
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught.append(error)
            raise
    return caught[0]


async def test_cancellations_beside_an_expected_error_are_not_printed() -> None:
    stop = await cancelled()

    @errors_in_one_line
    def callback() -> None:
        raise BaseExceptionGroup("", [stop, BaseExceptionGroup("", [WRONG, stop])])

    done = CliRunner().invoke(click.Command("it", callback=callback))
    assert (done.exit_code, done.stderr) == (1, "vnet: t.toml: devices.a.mtu = 1: must be more\n")


async def test_cancellations_beside_a_bug_do_not_hide_it() -> None:
    stop = await cancelled()

    @errors_in_one_line
    def callback() -> None:
        raise BaseExceptionGroup("", [stop, BaseExceptionGroup("", [KeyError("bug"), stop])])

    with pytest.raises(BaseExceptionGroup) as raised:
        callback()
    assert raised.group_contains(KeyError)
    assert not raised.group_contains(trio.Cancelled)
