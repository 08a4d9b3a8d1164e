"""Views of functions as plain data: a function's configuration stands beside its own keys."""

from __future__ import annotations

from vnet.views.parse import from_plain
from vnet.views.pci import BarView, CapabilityView, ConfigView, EndpointFunctionView, MsixView
from vnet.views.plain import to_plain


def test_an_endpoints_function_is_flat_and_its_class_is_called_class() -> None:
    config = ConfigView(0x1AF4, 0x1041, 0x020000, ("MEMORY",), (BarView(0, 0, 128),), (CapabilityView(64, 16, "x"),))
    view = EndpointFunctionView(0, config, MsixView(2, True, (1,), ()), False)
    plain = to_plain(view)
    assert plain == {
        "function": 0,
        "vendor": 0x1AF4,
        "device": 0x1041,
        "class": 0x020000,
        "command": ["MEMORY"],
        "bars": [{"bar": 0, "address": 0, "size": 128}],
        "capabilities": [{"offset": 64, "id": 16, "name": "x"}],
        "msix": {"vectors": 2, "enabled": True, "masked": [1], "pending": []},
        "intx": False,
    }
    assert from_plain(EndpointFunctionView, plain) == view
