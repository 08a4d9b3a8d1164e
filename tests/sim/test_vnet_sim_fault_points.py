"""Each fault inside a system happens, is counted, harms no data, and leaves no trace."""

from __future__ import annotations

import attrs
import pytest

from vnet.sim import fault_points
from vnet.sim.configuration import Configuration
from vnet.sim.script import KINDS, Fault
from vnet.sim.trial import run_trial
from vnet.system.world import open_world
from vnet.topology.samples import built_in

DEVICES = [built_in(kind).devices[f"{kind}0"] for kind in ("blk", "scsi", "net", "rpmsg")]
POINTS = [
    (device.type, name)
    for device in DEVICES
    for name, kind in KINDS.items()
    if kind.on == "device" and name != "rebind" and kind.fits(device)
]
"""Each device type with each of the faults that it can have."""
STORE = 'device = { store = "memory", size = 4 }'


def trial(kind: str, transport: str = "pci", keys: str = "") -> Configuration:
    return Configuration(built_in(kind, transport, keys), "FILE", seconds=0.6, check=True, data_path=False)


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize(("kind", "point"), POINTS)
def test_a_fault_happens_and_harms_no_data(kind: str, point: str, ring: str) -> None:
    script = [Fault(0.1, f"{kind}0", point, 2), Fault(0.4, f"{kind}0", point, 3)]
    result = run_trial(trial(kind, keys=f'ring = "{ring}"'), 1, script)
    assert result["failure"] is None
    assert all(result["fired"])


def test_a_fault_that_never_happens_is_counted_as_none() -> None:
    script = [Fault(0.1, "pcie0", "poisoned", 2), Fault(0.7, "blk0", "failed_allocation", 1000)]
    result = run_trial(Configuration(built_in("blk"), "FILE", seconds=1, loads=()), 1, script)
    assert result["failure"] is None
    assert result["fired"] == [0, 0]


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("kind", ["blk", "net", "scsi", "rpmsg"])
def test_whichever_allocation_fails_nothing_of_the_driver_stays(kind: str, number: int) -> None:
    script = [Fault(0.1, f"{kind}0", "failed_allocation", number)]
    assert run_trial(attrs.evolve(trial(kind), seconds=0.3), 1, script)["failure"] is None


async def test_replaced_methods_are_as_before_at_the_end() -> None:
    async with open_world(built_in("blk", keys=STORE), "sim", report=lambda line: None) as world:
        await world.wait_up()
        store = world.ends("blk0")[1].settings.store  # type: ignore[attr-defined]
        memory = world.devices["blk0"].driver_host.memory
        before = dict(vars(store)), dict(vars(memory))
        for point in (fault_points.short_transfers, fault_points.late_completions, fault_points.fail_allocation):
            await point(world, "blk0", 1, lambda: None)
        await world.wait_up()
        assert [*vars(store)] == [*before[0]]
        assert "alloc" not in vars(memory)
