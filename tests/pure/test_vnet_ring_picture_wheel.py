"""The wheel of a ring: dark slots are outstanding chains, and hands are the indices of both sides."""

from __future__ import annotations

from xml.etree import ElementTree

import attrs
import pytest

from rings import FORMATS, Addr, MappedMemory
from rings.layout import LAP
from rings.queue import QueueState
from vnet.ring_picture.wheel import ring_wheel
from vnet.views.ring import RingReport, slots_of

SVG = "{http://www.w3.org/2000/svg}"
NUM = 8


def report(form: str, chains: int, done: int = 0) -> RingReport:
    """A ring to which the driver added so many chains, of which the device used the first ones."""
    memory, chosen = MappedMemory(), FORMATS[form]
    memory.add(Addr(0), memoryview(bytearray(1 << 16)))
    addrs, _ = chosen.contiguous(NUM, Addr(0), 64)
    driver = chosen.driver(memory, NUM, addrs, event_idx=True)
    device = chosen.device(memory, NUM, addrs, event_idx=True, indirect=False)
    for token in range(chains):
        driver.add([], [(Addr(0x8000), 64)], token)
    driver.publish()
    device.complete_each([(head, 0) for head, _, _ in device.getdescs(done)] if done else [])
    device.publish()
    first = 0 if form == "split" else LAP
    return RingReport(
        QueueState(NUM, first + chains, first, chains, broken=False),
        QueueState(NUM, first + done, first + done, 0, broken=False),
        driver.view(),
    )


def drawn(report: RingReport) -> tuple[list[str], list[ElementTree.Element], list[ElementTree.Element]]:
    """The texts, the arcs of slots and the hands of a wheel."""
    root = ElementTree.fromstring(ring_wheel("t <q>", slots_of(report)).encode())
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    return texts, list(root.iter(f"{SVG}path")), list(root.iter(f"{SVG}line"))


@pytest.mark.parametrize("form", ["split", "packed"])
def test_the_numbers_in_the_middle_are_slots(form: str) -> None:
    texts, arcs, hands = drawn(report(form, 3, done=1))
    assert texts == [
        "2 outstanding", f"of 8, {form}", "driver adds 3", "device takes 1", "device uses 1", "driver gets 0",
    ]  # fmt: skip
    assert (len(arcs), len(hands)) == (1, 4)


def test_a_full_ring_is_a_closed_band_and_an_empty_one_has_no_dark_slot() -> None:
    assert 'stroke-width="20.0"' in ring_wheel("t", slots_of(report("split", NUM)))
    assert drawn(report("split", 0))[1] == []


def test_slots_apart_are_arcs_apart_and_hands_turn_from_the_last_slot_to_the_first() -> None:
    full = report("split", 4)
    assert full.ring is not None
    apart = attrs.evolve(full, ring=attrs.evolve(full.ring, chains=(full.ring.chains[0], full.ring.chains[2])))
    assert len(drawn(apart)[1]) == 2
    turned = attrs.evolve(full, driver=QueueState(NUM, NUM + 1, NUM, 1, broken=False))
    assert {"driver adds 1", "driver gets 0"} <= set(drawn(turned)[0])


def test_without_a_ring_the_wheel_says_so() -> None:
    assert drawn(RingReport(None, None, None)) == (["no ring"], [], [])


def test_a_device_in_another_process_has_no_hands() -> None:
    texts, _, hands = drawn(attrs.evolve(report("split", 1), device=None))
    assert texts[2:] == ["driver adds 1", "driver gets 0"]
    assert len(hands) == 2
