"""Options of ``vnet serve`` as data: which keys of a device they set, and when they count as given."""

from __future__ import annotations

from typing import Any

import pytest

from vnet.ends.serve import VALUE, ServeOption


def test_an_option_sets_its_keys_in_their_tables() -> None:
    device: dict[str, Any] = {"device": {"size": 1}}
    ServeOption("--file", {"device.store": "file", "device.path": VALUE, "mtu": VALUE}, "").put("x", device)
    assert device == {"device": {"size": 1, "store": "file", "path": "x"}, "mtu": "x"}


def test_values_of_a_repeatable_option_are_a_list() -> None:
    device: dict[str, Any] = {}
    ServeOption("--address", {"addresses": VALUE}, "", repeatable=True).put(("a", "b"), device)
    assert device == {"addresses": ["a", "b"]}


def test_a_value_is_converted_and_one_that_can_not_be_raises() -> None:
    option, device = ServeOption("--sum", {"sum": VALUE}, "", make=int), dict[str, Any]()
    option.put("12", device)
    assert device == {"sum": 12}
    with pytest.raises(ValueError, match="invalid literal"):
        option.put("x", device)


@pytest.mark.parametrize(("value", "given"), [(None, False), (False, False), ((), False), ("", True), (0, True)])
def test_an_absent_option_is_none_false_or_an_empty_tuple(value: object, given: bool) -> None:
    assert ServeOption("--read-only", {}, "").is_given(value) is given


def test_the_name_of_a_parameter_follows_from_the_flag() -> None:
    assert ServeOption("--read-only", {}, "").name == "read_only"
