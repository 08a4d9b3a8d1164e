"""A new device resumes a packed ring where the one before it stopped, with any base it is given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rings.packed.place import used_next
from rings.packed.ring import FIRST_LAP, at
from rings.packed.vringh import PackedVringh
from support.rigs.packed import PackedRig
from support.rigs.ring import SPOT, get, seg

NUM = 5


def words(rig: PackedRig) -> list[int]:
    view = rig.memory.view(rig.addrs.desc, 16 * rig.num).cast("Q")
    return [int(word) for word in view[1::2]]


@given(
    st.lists(st.tuples(st.integers(0, NUM), st.integers(0, NUM), st.integers(0, NUM)), max_size=20),
    st.integers(0, NUM - 1),
    st.booleans(),
    st.booleans(),
)
def test_chains_of_one_descriptor_need_no_word_of_where_it_was(
    turns: list[tuple[int, int, int]], slot: int, lap: bool, exact: bool
) -> None:
    rig = PackedRig(NUM)
    driver, device = rig.driver(memory=rig.memory), rig.device(memory=rig.memory)
    owed: list[int] = []
    for add, take, give in turns:
        for _ in range(min(add, driver.num_free)):
            driver.add((), (seg(SPOT, 8),), 7)
        driver.publish()
        owed += [head for head, _, _ in device.getdescs(take)]
        done, owed = owed[:give], owed[give:]
        device.complete_each([(head, 1) for head in done])
        device.publish()
        driver.get_each(NUM)
    position = device.state().used
    events = position if exact else at(slot, lap)
    actual = used_next(words(rig), events)
    # The one other place that may be believed is two behind the last one used: there is no knowing.
    beyond = at((position % FIRST_LAP + 1) % NUM, position // FIRST_LAP ^ (position % FIRST_LAP + 1 >= NUM))
    assert actual in (position, beyond if events == beyond else position)


@given(st.lists(st.integers(1, 3), max_size=30), st.integers(0, 3))
def test_behind_chains_of_several_the_given_place_is_used(sizes: list[int], after: int) -> None:
    rig = PackedRig(7, indirect=False)
    driver, device = rig.driver(memory=rig.memory), rig.device(memory=rig.memory)
    for size in sizes:
        driver.add((), (seg(SPOT, 8),) * size, 7)
        driver.publish()
        device.complete_each([(head, 1) for head, _, _ in device.getdescs(1)])
        device.publish()
        get(driver)
    for _ in range(after):
        driver.add((), (seg(SPOT, 8),), 7)
    driver.publish()
    assert used_next(words(rig), device.state().used) == device.state().used


def test_a_new_ring_starts_at_its_start_and_a_senseless_one_at_the_given_place() -> None:
    rig = PackedRig(NUM)
    rig.driver(memory=rig.memory)
    assert used_next(words(rig), 3) == FIRST_LAP
    assert used_next([0, 0x8080 << 48, 0, 0x8080 << 48, 0], 3) == 3


@given(st.integers(1, 4 * NUM), st.integers(2, NUM - 1), st.booleans())
def test_a_batch_whose_first_chain_was_not_shown_is_served_again(before: int, batch: int, more: bool) -> None:
    """A device is killed before the end of `publish`, with a ring full of receive buffers: the driver waits for the
    first chain of that batch."""
    rig = PackedRig(NUM)
    driver, device = rig.driver(memory=rig.memory), rig.device(memory=rig.memory)

    def refill() -> None:
        while driver.num_free:
            driver.add((), (seg(SPOT, 8),), 7)
        driver.publish()

    def use(device: PackedVringh, count: int) -> None:
        device.complete_each([(head, 1) for head, _, _ in device.getdescs(count)])

    for _ in range(before):
        refill()
        use(device, 1)
        device.publish()
        assert get(driver) is not None
    if more:
        refill()
    position = device.state().used
    use(device, batch)
    assert used_next(words(rig), 0x7FFF) == position
    again = rig.device(memory=rig.memory)
    again.resume(position, ())
    use(again, NUM)
    again.publish()
    assert len(driver.get_each(NUM)) == NUM - (not more), "all, and each once"


@given(st.integers(0, 4 * NUM), st.integers(1, NUM))
def test_a_batch_that_the_driver_has_not_published_moves_no_place(before: int, batch: int) -> None:
    """Receive buffers are added before the device starts: all but the first descriptor of a batch look available."""
    rig = PackedRig(NUM)
    driver, device = rig.driver(memory=rig.memory), rig.device(memory=rig.memory)
    for _ in range(before):
        driver.add((), (seg(SPOT, 8),), 7)
        driver.publish()
        device.complete_each([(head, 1) for head, _, _ in device.getdescs(1)])
        device.publish()
        get(driver)
    for _ in range(batch):
        driver.add((), (seg(SPOT, 8),), 7)
    position = device.state().used
    assert used_next(words(rig), position) == position
