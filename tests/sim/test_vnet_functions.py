"""Endpoint functions that are no devices: the registry."""

from __future__ import annotations

from typing import Any

import pytest

from vnet.functions import FunctionKind
from vnet.pcie.ntb import NtbFunction
from vnet.topology.extensions import add_function, temporarily


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("blk", FunctionKind(NtbFunction), "'blk': already used by a device type"),
        ("ntb", FunctionKind(NtbFunction), "'ntb': already used"),
        ("Mine!", FunctionKind(NtbFunction), "'Mine!': "),
        ("mine", FunctionKind(NtbFunction, 0), "links at least 1"),
    ],
)
def test_a_function_that_can_not_be_added(name: str, kind: Any, why: str) -> None:
    with temporarily(), pytest.raises(ValueError, match=why):
        add_function(name, kind)
