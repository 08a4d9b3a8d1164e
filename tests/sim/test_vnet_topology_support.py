"""Every cell of the matrix: each device type does its exercise on each transport, in each mode, on each kind of link.

What can't exist says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from drivers.registry import DEVICES
from support.paths import MY_DEVICE
from vnet.errors import ConfigError
from vnet.system.world import World
from vnet.testing.exercises import EXERCISES, LINKS, Exercise, exercise
from vnet.topology.extensions import load_extension, temporarily
from vnet.topology.samples import built_in
from vnet.topology.support import cells


async def entropy(world: World, name: str) -> None:
    settings: Any = world.devices[name].driver_end.settings
    assert len(set(await settings.read(256 << 10))) == 256


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device type that is in a file of its own: its line of the table."""
    with temporarily():
        load_extension(MY_DEVICE)
        monkeypatch.setitem(EXERCISES, "entropy", Exercise(entropy, kept=True))
        yield


@pytest.mark.every_transport
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("mode", ["direct", "mediated"])
@pytest.mark.parametrize("device", [*DEVICES, "entropy"])
async def test_a_device_does_its_exercise_or_it_is_said_why_it_can_not(
    device: str, mode: str, link: str, transport: str
) -> None:
    cell = cells()[device, transport]
    if mode not in cell.modes:
        with pytest.raises(ConfigError, match=re.escape(cell.missing[0])):
            built_in(device, transport, EXERCISES[device].keys, mode=mode, link=LINKS[link])
    elif link not in cell.links:
        assert not built_in(device, transport, EXERCISES[device].keys, mode=mode, link=LINKS[link]).links
        assert "there is no link" in cell.missing[-1]
    else:
        await exercise(device, transport, mode, link)


def test_every_device_type_has_an_exercise() -> None:
    assert EXERCISES.keys() == DEVICES.keys()
