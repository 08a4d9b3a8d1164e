"""The pytest plugin: fixtures and mark for tests of a user's own devices, and the seed that repeats a run."""

from __future__ import annotations

import re

import pytest

from support.paths import MY_DEVICE

OWN = f"""
from pathlib import Path
import pytest, trio
from rings.layout import WRITE
from rings.status import Status
from rings.testing import Desc
from vnet.testing import until
from vnet.topology.extensions import load_extension, temporarily

@pytest.fixture(autouse=True)
def example():
    with temporarily():
        yield load_extension(Path({str(MY_DEVICE)!r}))
"""


def run(pytester: pytest.Pytester, text: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(OWN + text)
    return pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", *args)


def test_a_pair_is_opened_over_each_transport_and_ring(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.vnet_sim
async def test_bytes_arrive(vnet_pair, vnet_transport, vnet_ring):
    async with vnet_pair("entropy") as pair:
        assert (pair.device.spec.transport, pair.device.spec.ring) == (vnet_transport, vnet_ring)
        before = trio.current_time()
        await trio.sleep(60)
        assert trio.current_time() - before == pytest.approx(60)
        await pair.transfer()
"""
    run(pytester, text).assert_outcomes(passed=10)
    run(pytester, text, "--vnet-transport", "mmio").assert_outcomes(passed=2)
    result = run(pytester, text, "--vnet-transport", "nto")
    assert "--vnet-transport nto: must be one of pci, epf_mailbox, mmio, ntb, vhost_user" in result.stdout.str()


def test_without_the_fixtures_a_pair_is_over_pci_with_a_split_ring(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.vnet_sim
async def test_pair(vnet_pair):
    async with vnet_pair("net", keys='mtu = 1400') as pair:
        assert (pair.device.spec.transport, pair.device.spec.ring, pair.device.spec.mtu) == ("pci", "split", 1400)
        await pair.transfer()

@pytest.mark.vnet_sim
@pytest.mark.parametrize("vnet_transport", ["mmio"], indirect=True)
async def test_chosen(vnet_pair, vnet_transport):
    async with vnet_pair("entropy") as pair:
        assert pair.device.spec.transport == "mmio"
"""
    run(pytester, text).assert_outcomes(passed=2)


def test_the_mark_has_precedence_over_the_mode_of_pytest_trio(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntrio_mode = true")
    text = """
@pytest.mark.vnet_sim
async def test_time(vnet_random):
    assert trio.current_time() == 0

async def test_without():
    assert trio.current_time() > 0
"""
    run(pytester, text).assert_outcomes(passed=2)


def test_hostile_ends_of_a_pair(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.vnet_sim
async def test_a_request_beyond_memory_stops_the_queue(vnet_pair, vnet_hostile_driver):
    async with vnet_pair("entropy") as pair, vnet_hostile_driver(pair) as driver:
        await driver.start(queues=1)
        driver.send(Desc(driver.alloc(64), 2 << 30, WRITE), queue=0)
        await until(lambda: driver.status & Status.NEEDS_RESET)

@pytest.mark.vnet_sim
async def test_a_head_that_was_never_offered_resets_the_device(vnet_pair, vnet_hostile_device):
    async with vnet_pair("entropy") as pair, vnet_hostile_device(pair) as device:
        device.rings[0].give(60, 1 << 20)
        device.call(0)
        await until(lambda: pair.virtio.restarts and pair.device.up)
"""
    run(pytester, text).assert_outcomes(passed=2)


def test_a_system_of_a_file_is_opened_in_memory(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("system.toml").write_text(
        '[hosts.rc]\n[hosts.ep]\n[links.l]\nroot = "rc"\nendpoint = "ep"\n'
        '[devices.net0]\ntype = "net"\nlink = "l"\n[devices.disk0]\ntype = "blk"\nlink = "l"\nfunction = 1\n'
        'driver = { nbd = "/nowhere/disk.sock" }\n'
    )
    text = """
@pytest.mark.vnet_sim
async def test_world(vnet_world):
    async with vnet_world(Path("system.toml")) as world:
        assert all(device.up for device in world.devices.values())
        world.memory_port("net0", "driver")
"""
    run(pytester, text).assert_outcomes(passed=1)


def test_a_seed_repeats_numbers_and_the_order_of_tasks(pytester: pytest.Pytester) -> None:
    text = """
async def order():
    seen = []
    async def note(number):
        await trio.lowlevel.checkpoint()
        seen.append(number)
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(note, number)
    return seen

def test_print(vnet_run, vnet_random, vnet_seed):
    with Path("seen").open("a") as file:
        file.write(f"{vnet_seed} {vnet_random.random()} {vnet_run(order)}\\n")
"""
    for seed in ("5", "5", "6"):
        run(pytester, text, "--vnet-seed", seed).assert_outcomes(passed=1)
    seen = pytester.path.joinpath("seen").read_text().splitlines()
    assert seen[0] == seen[1]
    assert [part != other for part, other in zip(seen[0].split(" ", 2), seen[2].split(" ", 2), strict=True)] == [
        True
    ] * 3


def test_a_failure_says_how_to_repeat_it(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.vnet_sim
async def test_fails(vnet_random):
    assert vnet_random.random() > 2

def test_without(): assert False
"""
    output = run(pytester, text).stdout.str()
    [repeat] = re.findall(r"to repeat it: (.*)", output)
    assert re.fullmatch(r"pytest 'test_a_failure\w+\.py::test_fails' --vnet-seed \d+", repeat)
    assert f"vnet seed: {repeat.rpartition(' ')[2]} (--vnet-seed repeats it)" in output
    header = run(pytester, text, "--vnet-seed", "7").stdout.str()
    assert "vnet seed: 7\n" in header
    assert "pytest 'test_a_failure" in header


@pytest.mark.seeds
def test_workers_of_xdist_have_one_seed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import pytest
@pytest.mark.parametrize("number", range(4))
def test_seed(vnet_seed, number):
    with open(f"seed{number}", "w") as file:
        file.write(str(vnet_seed))
""")
    result = pytester.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)
    [seed] = {path.read_text() for path in pytester.path.glob("seed*")}
    result.stdout.fnmatch_lines([f"vnet seed: {seed} (--vnet-seed repeats it)"])


@pytest.mark.seeds
def test_pytest_starts_without_the_rest_of_the_package(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import sys
def test_names():
    assert not {"vnet.testing", "vnet.system", "vnet.sim"} & {*sys.modules}
""")
    args = ("-p", "no:trio", "-p", "no:cacheprovider", "-p", "no:xdist")
    pytester.runpytest_subprocess(*args).assert_outcomes(passed=1)
