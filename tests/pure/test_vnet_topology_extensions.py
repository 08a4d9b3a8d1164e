"""How a file of one's own adds a device type or a transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from drivers.carriers.transport import CarrierHost, LinkTransport, Transport
from support.paths import EXAMPLES
from vnet.ends import DEVICE_TYPES, DeviceKind
from vnet.errors import ConfigError
from vnet.host.host import Host
from vnet.spec import DeviceSpec
from vnet.topology import parse
from vnet.topology.extensions import add_device_type, add_transport, load_extension, temporarily
from vnet.transports import TRANSPORTS


@pytest.fixture(autouse=True)
def examples() -> Iterator[None]:
    with temporarily():
        for name in ("my_device.py", "my_transport.py"):
            load_extension(EXAMPLES / name)
        yield
    assert "entropy" not in DEVICE_TYPES and "mine" not in TRANSPORTS  # noqa: PT018


BROKEN_FILES = [
    ("x = 1\nx.y\n", r"line 2 = 'AttributeError': 'int' object has no attribute 'y'"),
    ("def f(:\n", r"line 1 = 'SyntaxError': .*"),
    (
        "from vnet.topology.extensions import add_transport\nadd_transport('pci', None)",
        r"line 2 = 'ValueError': .*'pci': already used",
    ),
]


@pytest.mark.parametrize(("text", "why"), BROKEN_FILES)
def test_a_file_that_can_not_be_run_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=why) as caught:
        load_extension(file)
    assert "\n" not in str(caught.value)


def test_names_are_names_and_are_given_once() -> None:
    for name in ("net", "entropy", "Net", ""):
        with pytest.raises(ValueError, match=r"already|must be"):
            add_device_type(name, DEVICE_TYPES["net"])
    for name in ("pci", "mine"):
        with pytest.raises(ValueError, match="already"):
            add_transport(name, TRANSPORTS["pci"])


class NoVirtio(DeviceSpec):
    pass


BROKEN_KINDS = [
    ({"spec": dict}, "spec of device type new = <class 'dict'>: must be a class derived from DeviceSpec"),
    ({"spec": "net"}, "spec of device type new = 'net': must be a class derived from DeviceSpec"),
    ({"spec": NoVirtio}, "virtio of device type new = None: must be a VirtioType"),
    ({"demo": 3}, "demo of device type new = 3: must be a Demo or None"),
    ({"serve": None}, "serve of device type new = None: must be a Serve"),
]


@pytest.mark.parametrize(("changes", "why"), BROKEN_KINDS)
def test_a_device_type_with_a_wrong_field_is_not_added(changes: dict[str, Any], why: str) -> None:
    kind: DeviceKind[Any, Any] = attrs.evolve(DEVICE_TYPES["net"], **changes)
    with pytest.raises(ValueError, match=r"of device type new") as caught:
        add_device_type("new", kind)
    assert str(caught.value) == why


@pytest.mark.parametrize("options", [None, dict, "limit"])
def test_a_transport_with_other_options_is_not_added(options: Any) -> None:
    transport: Transport = attrs.evolve(TRANSPORTS["pci"], options=options)
    with pytest.raises(ValueError, match=r"options of transport new") as caught:
        add_transport("new", transport)
    assert str(caught.value) == f"options of transport new = {options!r}: must be a class derived from TransportOptions"


class Broken(LinkTransport):
    def install(self, host: CarrierHost) -> None:
        raise RuntimeError("no\nbus")


def test_a_transport_that_cannot_be_installed_is_one_line_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    pci = TRANSPORTS["pci"]
    assert isinstance(pci, LinkTransport)
    add_transport("broken", Broken(front=pci.front, back=pci.back))
    Host("a", 4096).close()
    assert [record.getMessage() for record in caplog.records] == ["a: transport broken is left out: no bus"]


def test_a_topology_may_have_what_was_added() -> None:
    text = '[hosts.a]\n[devices.d]\ntype = "{}"\ntransport = "mine"\nhost = "a"\n{}'
    with pytest.raises(ConfigError, match=r"one of .*entropy"):
        parse(text.format("entrophy", ""))
    with pytest.raises(ConfigError, match=r"limit = 0: must be between 1 and 65536 \(bytes\)"):
        parse(text.format("entropy", "limit = 0"))
    assert parse(text.format("entropy", "limit = 1")).devices["d"].type == "entropy"


def test_the_command_line_loads_such_a_file_before_anything_else(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from vnet.cli import main

    file = tmp_path / "mine.py"
    file.write_text("nothing", encoding="utf-8")
    done = CliRunner().invoke(main, ["--load", str(file), "down"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"vnet: {file}: line 1 = 'NameError': name 'nothing' is not defined\n"
