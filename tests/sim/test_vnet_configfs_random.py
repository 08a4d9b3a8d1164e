"""Random operations on the management tree end with an error number at worst, and the tree stays whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from support.rigs.configfs import WITH_NTB, TreeRig
from vnet.configfs.nodes import Directory, Link
from vnet.configfs.values import TreeError
from vnet.errors import ConfigError, ControlError

WORDS = ("a", "b", "func1", "ntb0", "pci_epf_ntb.0", "c1", "primary", "pcie0", "..", "n" * 256, "", "x\0", "\udcff")
VALUES = (
    "",
    "0",
    "1",
    "2",
    "0x100000",
    "128",
    "net",
    "rpmsg",
    "blk",
    "memory",
    "pty",
    "[",
    "9" * 5000,
    "\0",
    "\n\n",
    "é",
)


def directories(at: Directory) -> list[Directory]:
    inner = [node for node in at.nodes().values() if isinstance(node, Directory)]
    return [at, *(below for each in inner for below in directories(each))]


def path_of(rig: TreeRig, dice: random.Random) -> str:
    """Return the path of an entry that is there, or of one that may not be."""
    at = dice.choice(directories(rig.tree.tree.root))
    names = list(at.nodes())
    name = dice.choice(names) if names and dice.random() < 0.7 else dice.choice(WORDS)
    return f"{at.path}/{name}"


def check(rig: TreeRig) -> None:
    """Check what must hold of any tree: links are counted, and so are the directories of users."""
    root = rig.tree.tree.root
    links = [child for each in directories(root) for child in each.children.values() if isinstance(child, Link)]
    expected = Counter(id(link.target) for link in links if not link.fixed)
    for each in directories(root):
        assert each.links == expected[id(each)], each.path
    assert rig.tree.tree.objects == sum(each.own for each in directories(root))


def likely(rig: TreeRig, dice: random.Random, able: Callable[[Directory], object]) -> str:
    """Return the path of a directory that can do something; now and then, of another entry."""
    places = [each.path for each in directories(rig.tree.tree.root) if able(each)]
    return dice.choice(places) if places and dice.random() < 0.9 else path_of(rig, dice)


async def operate(rig: TreeRig, dice: random.Random) -> str:
    path = path_of(rig, dice)
    match dice.choice(("mkdir", "mkdir", "rmdir", "link", "link", "unlink", "write", "write", "read", "list", "stat")):
        case "mkdir":
            await rig.tree.mkdir(f"{likely(rig, dice, lambda each: each.kind.make)}/{dice.choice(WORDS)}")
        case "rmdir":
            await rig.tree.rmdir(likely(rig, dice, lambda each: each.own))
        case "link":
            place = likely(rig, dice, lambda each: each.kind.allow_link)
            target = likely(rig, dice, lambda each: each.data is not None)
            await rig.tree.symlink(target, f"{place}/{dice.choice(WORDS)}")
        case "unlink":
            place = likely(rig, dice, lambda each: any(isinstance(child, Link) for child in each.children.values()))
            await rig.tree.unlink(f"{place}/{dice.choice([entry.name for entry in rig.tree.list(place)] or WORDS)}")
        case "write":
            place = likely(rig, dice, lambda each: each.kind.attributes)
            name = dice.choice([entry.name for entry in rig.tree.list(place)] or WORDS)
            await rig.tree.write(f"{place}/{name}", dice.choice(VALUES).encode())
        case "read":
            rig.tree.read(path)
        case "list":
            rig.tree.list(path)
        case "stat":
            rig.tree.stat(path)
    return "done"


@pytest.mark.hostile("X05", "X06")
@pytest.mark.parametrize("seed", range(6))
async def test_random_operations_end_with_an_error_number_at_worst(seed: int) -> None:
    dice, rig = random.Random(seed), TreeRig(WITH_NTB)
    outcomes: Counter[str] = Counter()
    for _ in range(250):
        refuse = dice.random() < 0.1
        rig.system.refusal = (
            dice.choice([ConfigError("t", "a", 1, "b"), ControlError("c"), OSError(28, "d")]) if refuse else None
        )
        if dice.random() < 0.03 and rig.system.topology.devices:
            rig.system.drop(dice.choice(list(rig.system.topology.devices)))
        try:
            outcomes[await operate(rig, dice)] += 1
        except TreeError as exc:
            outcomes[str(exc).partition(":")[0]] += 1
        check(rig)
    assert outcomes["done"] > 50
    assert len(outcomes) > 5
