"""Errors of the simulated world read as one line each."""

from __future__ import annotations

import pytest

from rings.errors import MemoryFault
from vnet.errors import CompletionTimeout, ConfigError, LinkDown, PrivilegeError, UnsupportedRequest


@pytest.mark.parametrize("kind", [LinkDown, CompletionTimeout, UnsupportedRequest])
def test_a_failed_access_is_a_memory_fault_with_its_address_and_reason(kind: type[MemoryFault]) -> None:
    fault = kind(0x1000, 4, write=True, reason="gone")
    assert isinstance(fault, MemoryFault)
    assert str(fault) == "write of 4 bytes at 0x1000: gone"


def test_a_setting_error_names_file_path_value_and_reason_in_one_line() -> None:
    error = ConfigError("a.toml", "hosts.rc.memory", "1\n2", "not a size")
    assert str(error) == r'a.toml: hosts.rc.memory = "1\n2": not a size'


def test_a_missing_right_comes_with_the_command_that_grants_it() -> None:
    assert str(PrivilegeError("no /dev/net/tun", "modprobe tun")) == "no /dev/net/tun; try: modprobe tun"
