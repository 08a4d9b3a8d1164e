"""A store says which of its keys contradict each other, and is replaced by one in memory for a simulation."""

from __future__ import annotations

import pytest

from vnet.ends.store import SIMULATED_MAX, StoreSpec


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (StoreSpec("file"), "path"),
        (StoreSpec("memory", path="/disk.img", size=1), "path"),
        (StoreSpec("memory"), "size"),
        (StoreSpec("memory", size=1, shared=True), "shared"),
    ],
)
def test_keys_that_contradict_each_other_are_named(spec: StoreSpec, key: str) -> None:
    assert [problem.keys for problem in spec.problems()] == [(key,)]


def test_a_store_in_memory_is_simulated_as_it_is() -> None:
    spec = StoreSpec(size=100, block_size=4096)
    assert spec.in_memory() is spec


@pytest.mark.parametrize(("size", "simulated"), [(None, SIMULATED_MAX), (8, 8), (1 << 20, SIMULATED_MAX)])
def test_a_file_is_simulated_by_memory_without_any_claim(size: int | None, simulated: int) -> None:
    spec = StoreSpec("file", path="/disk.img", size=size, shared=size is None, read_only=True).in_memory()
    assert (spec.store, spec.path, spec.size, spec.shared, spec.read_only) == ("memory", None, simulated, False, True)
    assert not list(spec.problems())
    assert not list(spec.claims("device"))
