"""Keys of a record: unknown ones come with the key that was meant, and missing ones are reported."""

from __future__ import annotations

import pytest

from support.topologies import errors, places
from vnet.topology import DEFAULT


@pytest.mark.parametrize(
    ("key", "hint"),
    [("queue_sise", "did you mean queue_size? known are type"), ("frob", "known are type"), ("MTU", "known are type")],
)
def test_a_misspelt_key_comes_with_the_key_that_it_is_like(key: str, hint: str) -> None:
    [error] = errors(f"{DEFAULT}{key} = 1\n")
    assert str(error).startswith(f"t.toml: devices.net0.{key} = 1: unknown key; {hint}")


def test_a_required_key_is_missing_unless_it_is_misspelt() -> None:
    link = "[links.pcie1]\n{} = 'rc'\nendpoint = 'ep'\n"
    assert places(DEFAULT + link.format("rot")) == ["links.pcie1.rot"]
    assert places(DEFAULT + link.format("frob")) == ["links.pcie1.frob", "links.pcie1.root"]


def test_a_key_that_does_not_print_is_quoted() -> None:
    assert places('[devices]\n[hosts.a]\n"\\u001b[2J" = 1') == ['hosts.a."\\u001b[2J"']
