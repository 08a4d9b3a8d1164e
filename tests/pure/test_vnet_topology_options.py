"""A transport from outside has topology keys of its own."""

from __future__ import annotations

import tomllib

import attrs
import jsonschema
import pytest

from drivers.carriers.options import TransportOptions
from drivers.carriers.transport import LinkTransport
from drivers.transports.pci import PCI
from support.topologies import refusal
from vnet.ends.net import net_specs
from vnet.spec import must
from vnet.topology import parse
from vnet.topology.extensions import add_transport, temporarily
from vnet.topology.reference import json_schema, records
from vnet.topology.samples import built_in_text

NET = "devices.net0"


@attrs.frozen
class PaintOptions(TransportOptions):
    """How the device is painted."""

    colour: str = attrs.field(default="blue", validator=must(("red", "blue").__contains__, "red or blue"))
    """Colour of the device."""
    depth: int | None = None
    """Coats of paint. Default: one."""


@attrs.frozen
class SizeOptions(TransportOptions):
    """A key that network devices have, too."""

    mtu: int = 1
    """Bytes."""


class Cable(LinkTransport):
    """A transport over something that topologies do not have."""

    on = "cable"


def test_a_transport_may_have_options_of_its_own() -> None:
    with temporarily():
        add_transport("mine", attrs.evolve(PCI, options=PaintOptions))
        # No other topology is any different.
        assert parse(built_in_text("net")).devices["net0"].options == TransportOptions()
        assert parse(built_in_text("net", "mine")).devices["net0"].options == PaintOptions()
        device = parse(built_in_text("net", "mine", "colour = 'red'")).devices["net0"]
        assert device.options == PaintOptions("red", None)
        assert refusal(built_in_text("net", "mine", "colour = 'green'")) == (
            f"{NET}.colour = 'green': must be red or blue"
        )
        assert refusal(built_in_text("net", "mine", "depth = '2'")) == f"{NET}.depth = '2': must be a whole number"
        assert refusal(built_in_text("net", "mine", "shape = 1")).startswith(
            f"{NET}.shape = 1: unknown key; known are "
        )
        assert refusal(built_in_text("net", "pci", "depth = 1")) == (
            f"{NET}.depth = 1: must be absent for transport pci"
        )
        assert refusal(built_in_text("net", "mine", "options = 1")).startswith(
            f"{NET}.options = 1: unknown key; known are "
        )
        assert "device, colour, depth" in refusal(built_in_text("blk", "mine", "color = 'red'"))
    assert refusal(built_in_text("net", "pci", "depth = 1")).startswith(f"{NET}.depth = 1: unknown key")


def test_the_schema_has_the_options_of_a_transport_and_requires_that_transport() -> None:
    with temporarily():
        add_transport("mine", attrs.evolve(PCI, options=PaintOptions))
        validator = jsonschema.Draft202012Validator(json_schema())
        for transport, keys, valid in (("mine", "depth = 1", True), ("mine", "depth = 'x'", False), ("pci", "", True)):
            text = built_in_text("net", transport, keys)
            assert validator.is_valid(tomllib.loads(text)) is valid
        assert not validator.is_valid(tomllib.loads(built_in_text("net", "pci", "depth = 1")))
        assert 'devices.NAME (transport = "mine")' in [record.path for record in records()]


def test_a_transport_may_have_an_option_with_the_name_of_a_devices_key() -> None:
    with temporarily():
        add_transport("mine", attrs.evolve(PCI, options=SizeOptions))
        for transport, options in (("mine", SizeOptions(9000)), ("pci", TransportOptions())):
            [net] = net_specs(parse(built_in_text("net", transport, "mtu = 9000")).devices).values()
            assert (net.mtu, net.options) == (9000, options)
        assert parse(built_in_text("blk", "mine", "mtu = 9000")).devices["blk0"].options == SizeOptions(9000)


def test_a_transport_is_carried_by_something_that_exists() -> None:
    with (
        temporarily(),
        pytest.raises(ValueError, match="carrier of transport mine = 'cable': must be one of link, host, ntb"),
    ):
        add_transport("mine", Cable(PCI.front, PCI.back))
