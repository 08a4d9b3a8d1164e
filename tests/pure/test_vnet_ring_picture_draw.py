"""The picture of a ring shows what is in memory, also of a broken or hostile ring, and is valid XML of limited size."""

from __future__ import annotations

import struct
from xml.etree import ElementTree

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings import FORMATS, Addr, MappedMemory
from rings.layout import DESC, INDIRECT, NEXT, WRITE, packed_sizes, split_sizes
from rings.queue import QueueState
from rings.view import RingView, view_packed, view_split
from vnet.ring_picture.draw import ring_picture
from vnet.views.ring import RingReport

SVG = "{http://www.w3.org/2000/svg}"
SIZE_MAX = 1 << 20
"""Bytes of the largest picture."""
MEMORY = 1 << 20
TABLE = 0x8_0000
"""Address of an indirect table."""


def texts(view: RingView | None, driver: QueueState | None = None, waited: float | None = None) -> list[str]:
    """All texts of a picture, which is checked for what every picture must be."""
    picture = ring_picture("t: net0 <q>", RingReport(driver, driver, view, waited))
    assert len(picture) < SIZE_MAX
    assert not any(word in picture for word in ("<script", "href", "url(http", "nan", "inf"))
    root = ElementTree.fromstring(picture.encode())
    assert float(root.attrib["width"]) < 4000
    assert float(root.attrib["height"]) < 8000
    assert texts_of(root)[0] == "t: net0 <q>"
    return texts_of(root)


def texts_of(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def arrows(view: RingView) -> set[str]:
    """The ends of all arrows, by name."""
    root = ElementTree.fromstring(ring_picture("t", RingReport(None, None, view)).encode())
    return {path[0].text or "" for path in root.iter(f"{SVG}path") if len(path)}


def chains(form: str, num: int = 8, indirect: bool = False) -> RingView:
    """A ring with a request of three buffers, and a receive buffer."""
    memory, chosen = MappedMemory(), FORMATS[form]
    memory.add(Addr(0), memoryview(bytearray(MEMORY)))
    addrs, _ = chosen.contiguous(num, Addr(0), 64)
    tables = {"indirect": Addr(TABLE), "indirect_max": 8} if indirect else {}
    driver = chosen.driver(memory, num, addrs, event_idx=True, **tables)
    driver.add([(Addr(0x1_1000), 16), (Addr(0x1_2000), 512)], [(Addr(0x1_3000), 1)], 0)
    driver.add([], [(Addr(0x1_4000), 1500)], 1)
    driver.publish()
    return driver.view()


@pytest.mark.parametrize("num", [8, 256])
def test_chains_of_a_split_ring_are_arrows_from_slot_to_slot(num: int) -> None:
    shown = texts(chains("split", num), QueueState(num, 2, 0, 2), 0.0)
    assert f"split ring of {num} descriptors at 0x0" in shown
    assert {"2 chains outstanding", "available ring (driver writes)", "descriptor table (driver writes)"} <= set(shown)
    assert {"device reads", "device writes", "0x11000", "512", "outstanding"} <= set(shown)
    assert "the oldest chain: outstanding for an unknown time; the next look will tell more" in shown
    assert arrows(chains("split", num)) == {
        "index 1 to available slot 2",
        "index 4 to used slot 0",
        "available slot 0 to descriptor 0",
        "descriptor 0 to descriptor 1",
        "descriptor 1 to descriptor 2",
        "available slot 1 to descriptor 3",
    }


@pytest.mark.parametrize("num", [8, 256])
def test_chains_of_a_packed_ring_are_arrows_from_descriptor_to_descriptor(num: int) -> None:
    shown = texts(chains("packed", num), QueueState(num, 4, 1 << 15, 2), 3.25)
    assert {"descriptor ring (both write)", "4, wrap 0", "0, wrap 1"} <= set(shown)
    assert "the oldest chain has been outstanding for at least 3.2 s: an earlier look saw it" in shown
    assert arrows(chains("packed", num)) == {"descriptor 0 to descriptor 1", "descriptor 1 to descriptor 2"}


@pytest.mark.parametrize("form", ["split", "packed"])
def test_an_indirect_table_is_beside_its_descriptor(form: str) -> None:
    view = chains(form, indirect=True)
    assert {"indirect table", "table of descriptor 0", "0x13000"} <= set(texts(view))
    assert {
        "descriptor 0 to entry of the table of descriptor 0, 0",
        "entry of the table of descriptor 0, 0 to entry of the table of descriptor 0, 1",
        "entry of the table of descriptor 0, 1 to entry of the table of descriptor 0, 2",
    } <= arrows(view)


def test_no_ring_is_a_picture_too() -> None:
    assert "no ring: the driver has set up none" in texts(None)


# Hostile contents


def split_ring(num: int, descriptors: bytes, heads: list[int], used_idx: int = 0) -> RingView:
    """A split ring with these descriptors, and with these heads available."""
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(descriptors.ljust(MEMORY, b"\0"))))
    addrs, _ = FORMATS["split"].contiguous(num, Addr(0), 64)
    memory.view(addrs.driver, 4 + 2 * len(heads), True)[:] = struct.pack(
        f"<HH{len(heads)}H", 0, used_idx + len(heads) & 0xFFFF, *heads
    )
    memory.view(addrs.device, 4, True)[:] = struct.pack("<HH", 0, used_idx)
    return view_split(memory, num, addrs)


def test_a_loop_is_named_and_drawn_once() -> None:
    view = split_ring(4, DESC.pack(0, 1, NEXT, 1) + DESC.pack(0, 1, NEXT, 0), [0, 1])
    assert {"fault of the chain at 0: loops", "fault of the chain at 1: loops"} <= set(texts(view))
    assert {"descriptor 0 to descriptor 1", "descriptor 1 to descriptor 0"} <= arrows(view)


@pytest.mark.parametrize(
    ("descriptor", "fault"),
    [
        (DESC.pack(0, 1, NEXT, 77), "names descriptor 77 of 4"),
        (DESC.pack(0xDEAD_BEEF_0000, 32, INDIRECT, 0), "no memory there"),
        (DESC.pack(TABLE, 33, INDIRECT, 0), "an indirect table of 33 bytes"),
        (DESC.pack(0, 16, INDIRECT | WRITE, 0), "an indirect table inside a table"),
    ],
)
def test_a_chain_that_can_not_be_followed_says_why(descriptor: bytes, fault: str) -> None:
    shown = texts(split_ring(4, descriptor, [0]))
    assert any("fault of the chain at 0: " in text and fault in text for text in shown)
    assert "fault" in shown  # in the state of its slot


def test_a_head_outside_of_the_table_has_no_arrow() -> None:
    view = split_ring(4, b"", [9])
    assert "fault of the chain at 0: names descriptor 9 of 4" in texts(view)
    assert not any(arrow.startswith("available") for arrow in arrows(view))


def test_many_faults_are_counted() -> None:
    view = split_ring(64, b"", [99] * 64)
    assert [text for text in texts(view) if "more chains" in text] == ["56 more chains with faults"]


def test_indices_that_contradict_each_other_are_a_fault() -> None:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(b"\xff" * MEMORY)))
    addrs, _ = FORMATS["split"].contiguous(8, Addr(0), 64)
    memory.view(addrs.device, 4, True)[:] = bytes(4)
    assert "fault: available index 65535 is 65535 ahead of used index 0" in texts(view_split(memory, 8, addrs))


@pytest.mark.parametrize("form", ["split", "packed"])
def test_areas_outside_of_memory_are_a_fault(form: str) -> None:
    addrs, _ = FORMATS[form].contiguous(8, Addr(1 << 40), 64)
    view = view_split(MappedMemory(), 8, addrs) if form == "split" else view_packed(MappedMemory(), 8, addrs, 0)
    assert any(text.startswith("fault: ") and "0x10000000000" in text for text in texts(view, QueueState(8, 3, 3, 0)))


@pytest.mark.parametrize("num", [64, 128, 32768])
def test_the_largest_ring_of_loops_and_tables_has_a_small_picture(num: int) -> None:
    looping = b"".join(DESC.pack(TABLE, 256, NEXT | INDIRECT, (index + 1) % num) for index in range(num))
    shown = texts(split_ring(num, looping, list(range(64)), used_idx=65530))
    [omitted] = [text for text in shown if text.startswith("not drawn: ")]
    assert "indirect tables" in omitted
    assert ("32 chains" in omitted) is (num > 64)


@given(st.data())
@settings(max_examples=200)
def test_no_contents_of_the_memory_break_the_picture(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["split", "packed"]))
    num = data.draw(st.sampled_from([1, 2, 8, 64, 128]))
    addrs, _ = FORMATS[form].contiguous(num, Addr(0), 64)
    memory = MappedMemory()
    filled = bytearray(MEMORY)
    memory.add(Addr(0), memoryview(filled))
    sizes = split_sizes(num) if form == "split" else packed_sizes(num)
    for start, size in zip(attrs.astuple(addrs), sizes, strict=True):
        # Small numbers, so that flags, indices and addresses often are almost right.
        words = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 7, 64, 128, 0x8000, 0xFFFF]), max_size=size // 2))
        filled[start : start + 2 * len(words)] = struct.pack(f"<{len(words)}H", *words)
    state = QueueState(num, data.draw(st.integers(0, 0xFFFF)), data.draw(st.integers(0, 0xFFFF)), 0)
    if form == "split":
        texts(view_split(memory, num, addrs), state)
    else:
        texts(view_packed(memory, num, addrs, data.draw(st.integers(0, 0xFFFF))), state)
