"""Values of attributes as text, by the rules of the kernel's kstrto functions."""

from __future__ import annotations

import errno

import pytest

from vnet.configfs.values import TreeError, parse_bool, parse_unsigned


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("16", 16), ("+16", 16), ("0x10", 16), ("0XfF", 255), ("010", 8), ("00", 0), ("65535", 65535)],
)
def test_a_number_is_decimal_hexadecimal_or_octal(text: str, value: int) -> None:
    assert parse_unsigned(text, 16) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1\n",
        "-1",
        "0x",
        "x10",
        "08",
        "1_000",
        "1.0",
        "1e3",
        "0b1",
        "0o7",
        "65536",
        "0x10000",
        "9" * 4000,
    ],
)
def test_other_texts_are_no_numbers_of_16_bits(text: str) -> None:
    with pytest.raises(TreeError) as caught:
        parse_unsigned(text, 16)
    assert caught.value.number == errno.EINVAL


@pytest.mark.parametrize(("text", "value"), [("1", True), ("y", True), ("Yes", True), ("t", True), ("on", True)])
def test_the_start_of_a_text_decides_a_truth_value(text: str, value: bool) -> None:
    assert parse_bool(text) is value
    assert parse_bool({"1": "0", "y": "n", "Yes": "No", "t": "f", "on": "off"}[text]) is not value


@pytest.mark.parametrize("text", ["", "2", "x", "o", " 1", "-1"])
def test_other_texts_are_no_truth_values(text: str) -> None:
    with pytest.raises(TreeError, match="must be 1 or 0"):
        parse_bool(text)


def test_an_error_names_its_number_its_path_and_its_reason() -> None:
    assert str(TreeError(errno.EBUSY, "a link leads to it", "a/b")) == "EBUSY: a/b: a link leads to it"
    assert str(TreeError(errno.ENOENT, path="a")) == "ENOENT: a: No such file or directory"
