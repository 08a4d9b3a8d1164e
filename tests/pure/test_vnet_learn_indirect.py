"""The lesson about indirect tables: one descriptor of the ring per chain."""

from __future__ import annotations

from support.lessons import frames


def test_a_table_takes_one_descriptor_and_is_read_once() -> None:
    first, _, taken = frames("indirect")[:3]
    assert [cell.name for cell in first.changes if cell.name.startswith("desc")] == [
        "desc[0].addr",
        "desc[0].len",
        "desc[0].flags",
    ]
    assert sum("table[0].addr" in one.names for one in taken.trace) == 1


def test_a_full_ring_has_as_many_chains_as_descriptors() -> None:
    full = frames("indirect")[1]
    assert full.result == 4
    assert all(full.value(f"desc[{index}].flags") == "INDIRECT" for index in range(4))
