"""Keys of a link in a topology file."""

from __future__ import annotations

import attrs
import pytest

from vnet.errors import ConfigError
from vnet.link.faults import FAULTS, Action, LinkRequest, Rule, rates
from vnet.spec import FaultSpec, LinkSpec
from vnet.topology import DEFAULT, parse

HEAD = 'endpoint = "ep"\n'


def link(text: str) -> LinkSpec:
    return parse(DEFAULT.replace(HEAD, HEAD + text, 1)).links["pcie0"]


def test_a_link_without_options_is_ideal() -> None:
    assert link("") == LinkSpec("rc", "ep")
    assert not link("").timed


@pytest.mark.parametrize("output", ["generation = 3", "lanes = 4", "max_payload = 128", "read_latency_ns = 0"])
def test_a_word_about_its_time_makes_it_take_some(output: str) -> None:
    assert link(output).timed


def test_every_option_is_accepted() -> None:
    text = """\
generation = 4
lanes = 16
max_payload = 512
max_read_request = 1024
completion_boundary = 64
read_latency_ns = 700
faults = { seed = 7, lost_doorbells = 0.1, timeouts = 1, flap_every_ms = 1000, flap_ms = 20.5 }
trace = "trace.txt"
"""
    assert link(text) == LinkSpec(
        "rc",
        "ep",
        4,
        16,
        512,
        1024,
        64,
        700,
        FaultSpec(seed=7, lost_doorbells=0.1, timeouts=1.0, flap_every_ms=1000.0, flap_ms=20.5),
        "trace.txt",
    )


@pytest.mark.parametrize(
    ("text", "path", "why"),
    [
        ("generation = 6", "links.pcie0.generation", "one of 1, 2, 3, 4, 5"),
        ("lanes = 3", "links.pcie0.lanes", "one of 1, 2, 4, 8, 16"),
        ('lanes = "4"', "links.pcie0.lanes", "a whole number"),
        ("max_payload = 100", "links.pcie0.max_payload", "one of 128"),
        ("speed = 3", "links.pcie0.speed", "unknown key"),
        ("faults = { timeouts = 2.0 }", "links.pcie0.faults.timeouts", "a probability"),
        ('faults = { timeouts = "often" }', "links.pcie0.faults.timeouts", "a number"),
        ("faults = { luck = 1.0 }", "links.pcie0.faults.luck", "unknown key"),
        ("faults = { flap_ms = 0 }", "links.pcie0.faults.flap_ms", "above 0"),
        ("faults = 1", "links.pcie0.faults", "a table"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(text: str, path: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        link(text)
    assert refused.value.path == path
    assert "\n" not in str(refused.value)


def test_every_chance_of_a_topology_stands_for_rules() -> None:
    chances = {field.name for field in attrs.fields(FaultSpec) if field.metadata.get("chance")}
    assert chances == set(FAULTS)
    assert rates(lost_doorbells=0.25, timeouts=0.0) == [
        Rule(LinkRequest.DOORBELL, Action.LOSE, rate=0.25, name="lost_doorbells")
    ]
