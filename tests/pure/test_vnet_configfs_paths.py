"""Paths of programs are paths of the tree if they lead below its mount."""

from __future__ import annotations

import pytest

from vnet.configfs.paths import inside, resolved

MOUNT = "/sys/kernel/config"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/sys/kernel/config", ""),
        ("/sys/kernel/config/", ""),
        ("/sys/kernel/config/pci_ep//controllers/", "pci_ep/controllers"),
        ("/sys/kernel/config/pci_ep/../vhost", "vhost"),
        ("/sys/kernel/config/..", None),
        ("/sys/kernel/configuration", None),
        ("/etc/passwd", None),
        ("/", None),
    ],
)
def test_a_path_below_the_mount_is_one_of_the_tree(path: str, expected: str | None) -> None:
    assert inside(MOUNT, path) == expected


def test_a_target_is_looked_for_from_the_working_directory_first() -> None:
    bases = [f"{MOUNT}/pci_ep", f"{MOUNT}/pci_ep/controllers/pcie0"]
    assert resolved(MOUNT, "functions/d/f", bases) == ["pci_ep/functions/d/f", "pci_ep/controllers/pcie0/functions/d/f"]
    assert resolved(MOUNT, f"{MOUNT}/vhost/x", bases) == ["vhost/x"]
    assert resolved(MOUNT, "../../functions/d/f", ["/root", bases[1]]) == ["pci_ep/functions/d/f"]
    assert resolved(MOUNT, "/etc", bases) == []
