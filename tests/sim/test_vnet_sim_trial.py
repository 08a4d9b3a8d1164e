"""A trial follows from its seed alone, its loads notice wrong data, and random systems survive their faults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio

from support.rigs.stores import fail_reads
from vnet.errors import ConfigError
from vnet.ports.disk.store import MemoryStore
from vnet.sim import trial
from vnet.sim.configuration import Configuration
from vnet.sim.script import Fault
from vnet.sim.shrink import shrink
from vnet.sim.trial import run_trial
from vnet.topology import Topology, parse
from vnet.topology.samples import built_in

SHORT = Configuration(seconds=0.3, check=True)


def system(kind: str, transport: str = "pci", **keys: Any) -> Topology:
    return built_in(kind, transport, **keys)


def short(topology: Topology, **options: Any) -> Configuration:
    return Configuration(topology, "FILE", seconds=0.3, **options)


@pytest.mark.seeds
def test_random_systems_survive_their_faults(seeds: range) -> None:
    """Every second batch runs its rings in C, since nothing watches them."""
    configuration = Configuration(seconds=0.3, check=True, data_path=not seeds.start // len(seeds) % 2)
    failures = [run_trial(configuration, seed)["failure"] for seed in seeds]
    commands = [configuration.command(seed) for seed, failure in zip(seeds, failures, strict=True) if failure]
    assert not commands, f"repeat with: {commands}; {[failure for failure in failures if failure]}"


def test_a_result_is_plain_data_and_the_same_again() -> None:
    results = [json.dumps(run_trial(SHORT, 11)) for _ in range(2)]
    assert results[0] == results[1]
    assert json.loads(results[0])["failure"] is None
    assert json.loads(results[0])["hash"] != run_trial(SHORT, 51)["hash"]


def test_the_lines_of_the_log_have_the_hash_of_the_result() -> None:
    lines: list[str] = []
    result = run_trial(SHORT, 11, write=lines.append)
    assert result["events"] == len(lines)
    assert result["hash"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    again: list[str] = []
    run_trial(SHORT, 11, write=again.append)
    assert lines == again


def test_a_system_of_interfaces_files_and_sockets_is_simulated_in_memory() -> None:
    keys = 'driver = { nbd = "/nowhere/nbd.sock" }\ndevice = { store = "file", path = "/nowhere/disk.img", size = 8 }'
    assert run_trial(short(system("blk", keys=keys), check=True), 1)["failure"] is None
    net = run_trial(short(system("net", keys='driver = { addresses = ["198.18.0.1/24"] }'), check=True), 1)
    assert net["failure"] is None
    assert {load["load"] for load in net["loads"]} == {"ping", "tcp"}
    surface = 'driver = { channels = [{ name = "a", surface = "pty", path = "/nowhere/pty" }] }'
    assert run_trial(short(system("rpmsg", keys=surface), check=True), 1)["failure"] is None


def test_loads_are_chosen_by_name() -> None:
    result = run_trial(short(system("net"), loads=("tcp", "blk")), 1)
    assert [load["load"] for load in result["loads"]] == ["tcp"]


def test_the_faults_of_a_script_happen_instead_of_those_of_the_seed() -> None:
    script = [Fault(0.1, "pcie0", "flap", 0.05), Fault(0.2, "blk0", "rebind", 0.01)]
    lines: list[str] = []
    result = run_trial(short(system("blk"), data_path=False), 1, script, lines.append)
    assert result["script"] == ["0.1:pcie0:flap:0.05", "0.2:blk0:rebind:0.01"]
    assert [line.split()[3] for line in lines if " LinkMoved " in line] == ["up=True", "up=False", "up=True"]
    assert result["failure"] is None


def test_a_result_has_the_counters_of_wires_whose_faults_end_before_the_last_round() -> None:
    link = "wire = { bit_errors = 0.02, lost_acks = 0.02 }"
    result = run_trial(short(system("blk", link=link), data_path=False, check=True), 1, [])
    wire = result["links"]["pcie0"]["wire"]
    assert wire["faults"]["bit_errors"] > 0
    assert wire["errors"]["bad TLP"] > 0
    assert wire["replayed"] > 0


def test_a_wire_fails_requests_once_all_devices_are_up_and_until_the_last_round() -> None:
    configuration = short(system("blk", link="wire = { hot_resets = 0.003 }"), data_path=False, check=True)
    lines: list[str] = []
    results = [run_trial(configuration, seed, [], lines.append) for seed in range(2)]
    assert [result["failure"] for result in results] == [None] * 2
    assert sum(result["links"]["pcie0"]["wire"]["faults"].get("hot_resets", 0) for result in results) > 0
    first = next(at for at, line in enumerate(lines) if "up=False" in line)
    assert any("blk0" in line and "status=15" in line for line in lines[:first])


def test_random_systems_on_wires_are_repeated_with_wire() -> None:
    configuration = attrs.evolve(SHORT, wire=True, seconds=0.1, data_path=False)
    result = run_trial(configuration, 1)
    assert result["failure"] is None
    assert result["links"]["pcie0"]["wire"]["tlps"] > 0
    assert configuration.command(1) == "vnet sim --random --seed 1 --wire --time 0.1s --check --state-only"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[links.l]\nroot = "a"\nendpoint = { vfio_user = "S" }\n[devices.d]\ntype = "net"\nlink = "l"', "links.l"),
        ('[devices.d]\ntype = "net"\nhost = "a"\ntransport = "vhost_user"\nsocket = "S"', "devices.d.socket"),
    ],
)
def test_a_system_with_a_part_in_another_process_is_refused(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_trial(short(parse(f"[hosts.a]\n{text}", "FILE")), 1)
    assert caught.value.path == path


# Failures


def corrupt_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have stores return a wrong byte after a link was down."""
    read = MemoryStore.preadv

    def preadv(self: MemoryStore, segs: Sequence[memoryview], offset: int, /) -> int:
        size = read(self, segs, offset)
        if getattr(self, "broken", False):
            segs[0][0] ^= 1
        return size

    monkeypatch.setattr(MemoryStore, "preadv", preadv)


def test_a_failure_has_its_kind_and_shrinks_to_the_faults_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from vnet.sim import script as module

    corrupt_reads(monkeypatch)
    flap = module.KINDS["flap"]

    async def break_stores(world: Any, fault: Fault, fired: Callable[[], None]) -> None:
        await flap.inject(world, fault, fired)
        world.ends("blk0")[1].settings.store.broken = True

    broken = attrs.evolve(flap, inject=break_stores)
    monkeypatch.setattr(module, "KINDS", {**module.KINDS, "poisoned": broken})
    script = [Fault(0.01 * at, "pcie0", "poisoned" if at == 3 else "delayed_interrupts", 0.01 + at) for at in range(5)]
    configuration = short(system("blk"), data_path=False)
    failure = run_trial(configuration, 3, script)["failure"]
    assert failure["kind"] == "data"
    assert failure["text"].startswith("blk on blk0: byte ")
    assert shrink(configuration, 3, script, "data") == (script[3],)
    assert shrink(configuration, 3, script, "crash") == tuple(script)


def test_an_error_of_the_system_is_a_crash_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_reads(monkeypatch, RuntimeError("a defect"))
    failure = run_trial(short(system("blk")), 1)["failure"]
    assert (failure["kind"], failure["text"]) == ("crash", "RuntimeError: a defect")
    assert "in preadv" in "".join(failure["traceback"])


def test_traffic_that_stands_still_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(MemoryStore, "preadv", lambda *_: 0)
    monkeypatch.setattr(MemoryStore, "read", sleep)
    failure = run_trial(short(system("blk")), 1)["failure"]
    assert failure == {"kind": "stalled", "text": f"blk on blk0: no progress for {trial.PATIENCE:g} s"}


def test_memory_that_a_device_keeps_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    from drivers.storage.bounce import BufferPool

    monkeypatch.setattr(BufferPool, "close", lambda self: None)
    failure = run_trial(short(system("blk"), check=True), 1, [])["failure"]
    assert failure["kind"] == "check"
    assert "stay allocated without devices" in failure["text"]


def test_a_repetition_is_a_shell_command() -> None:
    configuration = Configuration(None, seconds=0.5, loads=("blk",), check=True, data_path=False)
    words = "vnet sim --random --seed 7 --time 0.5s --load blk --check --state-only"
    assert configuration.command(7) == words
    assert configuration.command(7, []) == f"{words} --no-faults"
    assert configuration.command(7, [Fault(0.25, "pcie0", "flap", 0.1)]) == f"{words} --fault 0.25:pcie0:flap:0.1"


def test_streams_of_a_seed_are_the_same_numbers_everywhere() -> None:
    from vnet.sim.seeds import stream

    assert stream(7, "faults").getrandbits(64) == 8834123359454899764
