"""The links of a simulated system have random faults by the run's seed, and no files."""

from __future__ import annotations

from vnet.sim.simulated import draws_faults, simulated
from vnet.topology.samples import built_in

FAULTY = "faults = { seed = 1, lost_doorbells = 0.1 }\nwire = { seed = 1 }"


def test_faults_of_links_and_of_wires_follow_from_the_seed() -> None:
    system = built_in("net", "ntb", link=FAULTY)
    links = [link for seed in (1, 1, 2) for link in simulated(system, seed).links.values()]
    assert links[:2] == links[2:4]
    assert len({link.faults.seed for link in links if link.faults}) == 4
    assert len({link.wire.seed for link in links if link.wire}) == 4


def test_the_trace_of_a_link_is_not_written() -> None:
    [link] = simulated(built_in("net", link="trace = 'trace.txt'"), 1).links.values()
    assert link.trace is None


def test_a_link_draws_faults_if_it_has_chances_of_some() -> None:
    for keys, draws in (("", False), (FAULTY, True), ("wire = {}", False), ("wire = { bit_errors = 0.1 }", True)):
        [link] = simulated(built_in("net", link=keys), 1).links.values()
        assert draws_faults(link) is draws
