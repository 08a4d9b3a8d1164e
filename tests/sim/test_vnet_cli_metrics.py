"""``vnet metrics`` prints, and refuses in one line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from support.packages import hide
from vnet.cli import metrics, query
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.topology.samples import built_in
from vnet.views.plain import to_plain


def run(*args: str) -> Result:
    return CliRunner().invoke(metrics.command, list(args))


async def test_the_text_is_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(built_in("blk", "pci"), "t") as world:
        await world.wait_up()
        plain = to_plain(take_snapshot(world))
    monkeypatch.setattr(query, "ask", lambda *_: json.loads(json.dumps(plain)))
    done = run("--name", "t")
    assert done.exit_code == 0
    assert done.output.startswith("# HELP vnet_up Whether the system answers.\n")
    assert 'vnet_device_up{device="blk0",system="t",transport="pci",type="blk"} 1.0\n' in done.output


@pytest.mark.parametrize(
    ("args", "status", "line"),
    [
        (("--name", "moon"), 1, "vnet: moon is not running; try: vnet up --name moon"),
        *(
            (
                ("--listen", text),
                2,
                (
                    f"Error: Invalid value for '--listen': {text!r}: must be ADDRESS:PORT, such as 127.0.0.1:9100 or "
                    "[::1]:9100"
                ),
            )
            for text in ("9100", ":9100", "127.0.0.1", "127.0.0.1:99999", "::1:9100", "")
        ),
        (("--listen", "203.0.113.7:0"), 1, "vnet: Cannot assign requested address"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], status: int, line: str) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout, done.stderr.splitlines()[-1]) == (status, "", line)


def test_a_missing_package_is_one_line_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "prometheus_client", "vnet.metrics")
    done = run("--listen", "127.0.0.1:0")
    text = "vnet: not installed: prometheus_client; try: pip install 'vnet-virtio[metrics]'\n"
    assert (done.exit_code, done.stderr) == (1, text)
