"""Addresses of a stream as they are written."""

from __future__ import annotations

import pytest

from vnet.stream.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("198.18.0.1:7000", Address("198.18.0.1", 7000), "198.18.0.1:7000"),
        ("host.example:1", Address("host.example", 1), "host.example:1"),
        ("[::1]:7000", Address("::1", 7000), "[::1]:7000"),
        ("./link.sock", Address("./link.sock", None), "./link.sock"),
    ],
)
def test_an_address_is_a_host_with_a_port_or_a_path(text: str, address: Address, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("host", "HOST:PORT"),
        (":7000", "HOST:PORT"),
        ("host:0", "HOST:PORT"),
        ("host:65536", "HOST:PORT"),
        ("host:x", "HOST:PORT"),
        ("::1:7000", "brackets"),
        ("/" + "x" * 200, "shorter path"),
    ],
)
def test_a_bad_address_says_what_it_must_be(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_address(text)
