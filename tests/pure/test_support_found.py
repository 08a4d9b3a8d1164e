"""The tests of a module are found by its path: ``a/b/c.py`` has a file ``test_a_b_c*.py`` in pure, sim or system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from support.paths import ROOT

LONG = 100
"""Lines above which a module needs a test file of its name."""
WITHOUT = {
    "drivers/bus": "device_queue",
    "drivers/carriers": "ntb_registers pci vhost_user",
    "drivers/contracts": "hw ports",
    "drivers/devices/blk": "layout",
    "drivers/devices/net": "flow layout mediated",
    "drivers/devices/net/device": "flows",
    "drivers/devices/net/driver": "flows station",
    "drivers/devices/rpmsg": "bus flow",
    "drivers/devices/scsi": "sense",
    "drivers/devices/scsi/device": "domain mode request requests unit",
    "drivers/devices/scsi/driver": "queues result",
    "drivers/storage": "bounce submit",
    "drivers/transports/mmio": "front",
    "drivers/transports/vhost_user": "back connection constants front_rings payloads",
    "rings": "formats",
    "rings/observers": "packed_inflight",
    "rings/packed": "virtqueue vringh",
    "vnet/bench": "disk figures measure processes relay setups suites",
    "vnet/cli": "bench bench_tables",
    "vnet/ends": "base",
    "vnet/ends/blk": "demo end",
    "vnet/ends/net": "demo spec",
    "vnet/ends/rpmsg": "demo end",
    "vnet/ends/scsi": "demo end",
    "vnet/host": "platform",
    "vnet/link": "base faults",
    "vnet/linux/netlink": "rtnetlink",
    "vnet/nbd": "handshake transmission",
    "vnet/ports/packet": "base",
    "vnet/ports/rpmsg": "pty",
    "vnet/system": "qemu",
    "vnet/topology": "reference",
}
"""Per folder: long modules that are tested under another name, or through others. Take names off; add none."""


def file_name(module: Path) -> str:
    """Return how the names of a module's test files begin; a word that follows itself counts once."""
    words = [part for part in module.with_suffix("").parts if part != "__init__"]
    return "_".join(["test", *(word for at, word in enumerate(words) if not at or words[at - 1] != word)])


def has_test(module: Path) -> bool:
    name = file_name(module)
    tests = (path.stem for path in (ROOT / "tests").glob("*/test_*.py"))
    return any(test == name or test.startswith(f"{name}_") for test in tests)


def long_modules() -> Iterator[Path]:
    for package in ("rings", "drivers", "vnet"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT)
            kit = "testing" in module.with_suffix("").parts  # every test runs the test kit
            if not kit and len(path.read_text(encoding="utf-8").splitlines()) > LONG:
                yield module


def listed() -> set[Path]:
    return {Path(folder, f"{name}.py") for folder, names in WITHOUT.items() for name in names.split()}


def test_every_long_module_has_a_test_file_of_its_name() -> None:
    without = {module for module in long_modules() if not has_test(module)}
    assert without <= listed(), "name a test file after each of these modules"


def test_the_list_of_modules_without_a_test_file_only_shrinks() -> None:
    assert all((ROOT / module).exists() for module in listed())
    assert not {module for module in listed() if has_test(module)}, "take these off the list"


def test_a_package_in_a_package_of_the_same_name_is_named_once() -> None:
    assert file_name(Path("vnet/topology/topology.py")) == "test_vnet_topology"
    assert file_name(Path("drivers/devices/scsi/__init__.py")) == "test_drivers_devices_scsi"
