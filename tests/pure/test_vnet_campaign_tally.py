"""Counters over results: a seed counts once, and points of faults that never happened are named."""

from __future__ import annotations

import json
from typing import Any

from vnet.campaign.plan import Plan
from vnet.campaign.tally import Tally, ranges
from vnet.link.wire.impairments import WireFault
from vnet.sim.configuration import Configuration
from vnet.sim.script import KINDS

PLAN = Plan(Configuration(seconds=0.5))
WIRE = {"lives": 1, "retrains": 2, "tlps": 30, "replayed": 4, "faults": {"bit_errors": 3}, "errors": {"bad TLP": 3}}
LOST = {"seed": 4, "failure": {"kind": "died", "text": "its process ended with SIGSEGV"}, "took": 1.5}


def result(seed: int, **keys: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "devices": {"blk0": {"type": "blk", "transport": "pci", "ring": "split", "mode": "direct"}},
        "script": ["0.1:pcie0:flap:0.1", "0.2:blk0:rebind:0.1"],
        "fired": [1, 0],
        "seconds": 10.0,
        "links": {"pcie0": {"faults": {}, "wire": None}},
        "loads": [{"load": "blk", "device": "blk0", "rounds": 5, "bytes": 100, "lost": 0, "retries": 0}],
        "hash": f"{seed}",
        "failure": None,
        "took": 0.25,
        **keys,
    }


def tally(*records: dict[str, Any], seeds: range = range(6)) -> Tally:
    whole = Tally(PLAN, seeds)
    for record in records:
        whole.add(record)
    return whole


def test_counters_add_up_and_are_plain_data() -> None:
    plain = tally(result(0), result(3), LOST).plain()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["seeds"], plain["done"], plain["missing"], plain["failed"]) == ("0:6", 3, "1:3, 5:6", 1)
    assert (plain["simulated_seconds"], plain["trial_seconds"]) == (20, 2)
    assert plain["systems"] == {"blk pci split": 2}
    assert plain["loads"] == {"blk": {"rounds": 10, "bytes": 200, "lost": 0, "retries": 0, "trials": 2}}
    assert plain["faults"]["flap"] == {"drawn": 2, "happened": 2}
    assert plain["faults"]["rebind"] == {"drawn": 2, "happened": 0}
    assert plain["wire"] is None


def test_a_failure_has_the_command_that_repeats_it() -> None:
    [failure] = tally(LOST).plain()["failures"]
    assert failure == {
        "seed": 4,
        "kind": "died",
        "text": "its process ended with SIGSEGV",
        "repeat": "vnet sim --random --seed 4 --time 0.5s",
    }


def test_a_seed_counts_once_and_others_do_not() -> None:
    assert tally(result(0), result(0), result(9)).plain() == tally(result(0)).plain()


def test_the_hash_follows_from_the_results_in_any_order() -> None:
    digests = [tally(*records).digest() for records in ((result(0), LOST), (LOST, result(0)), (result(0), result(4)))]
    assert digests[0] == digests[1] != digests[2]


def test_points_that_never_happened_are_named() -> None:
    assert tally(result(0)).never == [name for name in KINDS if name != "flap"]
    wired = tally(result(0, links={"pcie0": {"faults": {}, "wire": WIRE}}))
    faults = [f"wire {fault.value}" for fault in WireFault if fault is not WireFault.BIT_ERRORS]
    assert wired.never == [name for name in KINDS if name != "flap"] + faults
    assert wired.plain()["wire"] == {
        **{key: WIRE[key] for key in ("lives", "retrains", "tlps", "replayed")},
        "faults": {"bit_errors": 3},
        "errors": {"bad TLP": 3},
    }


def test_ranges_of_seeds_are_short() -> None:
    assert ranges([]) == ""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0:3, 5:6, 7:9"
