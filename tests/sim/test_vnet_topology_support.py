"""Every cell of the matrix: each device type does its exercise on each transport, in each mode, on each kind of link.

What can't exist says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support.paths import MY_DEVICE
from vnet.ends import DEVICE_TYPES
from vnet.errors import ConfigError
from vnet.testing.exercises import LINKS, exercise
from vnet.topology.extensions import load_extension, temporarily
from vnet.topology.samples import built_in
from vnet.topology.support import cells


@pytest.fixture(autouse=True)
def example() -> Iterator[None]:
    """The device type that is in a file of its own."""
    with temporarily():
        load_extension(MY_DEVICE)
        yield


@pytest.mark.every_transport
@pytest.mark.every_link
@pytest.mark.parametrize("mode", ["direct", "mediated"])
@pytest.mark.parametrize("device", [*DEVICE_TYPES, "entropy"])
async def test_a_device_does_its_exercise_or_a_reason_is_given(
    device: str, mode: str, link: str, transport: str
) -> None:
    cell, does = cells()[device, transport], DEVICE_TYPES[device].exercise
    assert does is not None, "every device type has an exercise"
    if mode not in cell.modes:
        with pytest.raises(ConfigError, match=re.escape(cell.missing[0])):
            built_in(device, transport, does.keys, mode=mode, link=LINKS[link])
    elif link not in cell.links:
        assert not built_in(device, transport, does.keys, mode=mode, link=LINKS[link]).links
        assert "there is no link" in cell.missing[-1]
    else:
        await exercise(device, transport, mode, link)
