"""Configuration fields: where they are, and how they are emitted."""

from __future__ import annotations

import pytest

from drivers.bus.config import ConfigField, emit_config


class _Field(ConfigField):
    MODE = (0, 1)
    SPEED = (4, 4)


def test_fields_are_little_endian_and_the_bytes_between_them_are_0() -> None:
    assert emit_config({_Field.SPEED: 0x01020304, _Field.MODE: 7}, 10) == bytes.fromhex("07000000 04030201 0000")


def test_a_value_that_its_field_cannot_hold_is_an_error() -> None:
    with pytest.raises(OverflowError):
        emit_config({_Field.MODE: 256}, 8)
