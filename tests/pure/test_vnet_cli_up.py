"""The name of a system that ``vnet up`` starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from vnet.cli import up

TWO = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
vfio_user = "/run/link"
[devices]
"""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "vnet"),
        (("--only", "ep"), "ep"),
        (("--only", "ep", "--name", "mine"), "mine"),
        (("--only", "ep", "--name", "vnet"), "vnet"),
    ],
)
def test_a_system_of_one_host_is_named_after_it_unless_a_name_is_given(
    options: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, names = tmp_path / "two.toml", list[str]()
    file.write_text(TWO)

    def run(call: partial[object]) -> int:
        names.append(call.args[2])
        return 0

    monkeypatch.setattr(up, "run_until_ended", run)
    done = CliRunner().invoke(up.command, [str(file), *options])
    assert (done.exit_code, names) == (0, [name]), done.output
