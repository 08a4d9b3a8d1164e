"""``vnet web`` refuses in one line, and says which extra it needs."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner, Result

from support.packages import hide
from vnet.cli import web


def run(*args: str) -> Result:
    return CliRunner().invoke(web.command, list(args))


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "203.0.113.7:8080", "[::]:8080", "moon:8080", "127.0.0.2:8080"])
def test_an_address_that_others_reach_is_refused(address: str) -> None:
    done = run("--name", "moon", "--listen", address)
    text = f"vnet: --listen {address}: must be 127.0.0.1 or [::1], because the page controls moon\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", text)


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run("--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "vnet: Address already in use\n")


def test_a_missing_package_is_one_line_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "starlette", "vnet.web")
    done = run("--listen", "127.0.0.1:0")
    text = "vnet: not installed: starlette; try: pip install 'vnet-virtio[web]'\n"
    assert (done.exit_code, done.stderr) == (1, text)
