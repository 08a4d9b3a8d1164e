"""A fault of a script is a short text, and scripts of a seed stay within the run and the system."""

from __future__ import annotations

from random import Random

import pytest

from vnet.link.wire.impairments import FAULTS, Carried, WireFault
from vnet.sim.random_topology import cells, random_topology
from vnet.sim.script import KINDS, Fault, draw_script
from vnet.sim.seeds import stream
from vnet.system.links import chances
from vnet.topology.samples import built_in

SYSTEM = built_in("net", "ntb")
DISK = built_in("blk", "ntb")


@pytest.mark.parametrize("text", ["0.25:pcie1:flap:0.1", "3600.1234:pcie0:lost_doorbells:3", "0:net0:rebind:0.5"])
def test_a_text_is_parsed_and_written_without_a_change(text: str) -> None:
    assert str(Fault.parse(text, SYSTEM)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("flap", "must be AT:PLACE:KIND:AMOUNT"),
        ("soon:pcie0:flap:1", "must be AT:PLACE:KIND:AMOUNT"),
        ("1:pcie0:flop:1", "the kind must be one of flap, "),
        ("1:net0:flap:1", "flap needs a link, one of pcie0, pcie1"),
        ("1:pcie0:rebind:1", "rebind needs a device, one of net0"),
        ("-1:pcie0:flap:1", "the time must be at least 0"),
        ("nan:pcie0:flap:1", "the time must be at least 0"),
        ("1:pcie0:flap:0", "the amount above 0"),
        ("1:pcie0:flap:inf", "the amount above 0"),
    ],
)
def test_a_bad_text_is_an_error_that_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Fault.parse(text, SYSTEM)


def test_a_system_without_links_has_no_faults_of_links() -> None:
    alone = built_in("net", "mmio")
    with pytest.raises(ValueError, match="and this system has none"):
        Fault.parse("1:pcie0:flap:1", alone)
    kinds = {fault.kind for seed in range(50) for fault in draw_script(Random(seed), alone, 1)}
    assert {KINDS[kind].on for kind in kinds} == {"device"}


def test_devices_without_stores_have_no_faults_of_stores() -> None:
    with pytest.raises(ValueError, match="late_completions needs a device, and this system has none"):
        Fault.parse("1:net0:late_completions:1", SYSTEM)


def test_scripts_of_seeds_are_in_order_and_end_before_the_run_and_have_each_kind() -> None:
    scripts = [draw_script(Random(seed), DISK, 10) for seed in range(300)]
    assert {fault.kind for script in scripts for fault in script} == set(KINDS)
    for script in scripts:
        assert [fault.at for fault in script] == sorted(fault.at for fault in script)
        assert all(0 <= fault.at <= 8 for fault in script)
        assert [Fault.parse(str(fault), DISK) for fault in script] == list(script)
    assert {len(draw_script(Random(seed), DISK, 36000)) for seed in range(300)} == set(range(25))


def test_as_many_seeds_as_there_are_cells_have_each_device_type_transport_and_ring_once() -> None:
    number = len(cells())
    topologies = [random_topology(seed, stream(seed, "topology")) for seed in range(7 * number, 8 * number)]
    devices = [next(iter(topology.devices.values())) for topology in topologies]
    assert [(device.type, device.transport, device.ring) for device in devices] == list(cells())


def test_random_systems_have_wires_if_all_links_are_to_be_wires_and_none_otherwise() -> None:
    number = len(cells(wire=True))
    wired = [random_topology(seed, stream(seed, "topology"), wire=True) for seed in range(4 * number)]
    devices = [next(iter(topology.devices.values())) for topology in wired]
    assert [(device.type, device.transport, device.ring) for device in devices] == [*cells(wire=True)] * 4
    assert all(topology.links for topology in wired)
    assert all(link.wire is not None for topology in wired for link in topology.links.values())
    others = [random_topology(seed, stream(seed, "topology")) for seed in range(len(cells()))]
    assert all(link.wire is None for topology in others for link in topology.links.values())


def test_each_fault_of_a_wire_that_spares_completions_and_data_is_in_some_random_system() -> None:
    links = [link for seed in range(100) for link in random_topology(seed, Random(seed), wire=True).links.values()]
    wires = [link.wire for link in links if link.wire is not None]
    drawn = {name for wire in wires for name, chance in chances(wire).items() if chance}
    left_out = (Carried.COMPLETION, Carried.PACKET)
    assert drawn == {fault.value for fault in WireFault if FAULTS[fault].carried not in left_out}
