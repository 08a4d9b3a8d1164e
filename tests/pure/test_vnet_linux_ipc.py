"""Parts of files as memory: from any offset on, of any size, in whole pages of the kind that the file has."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.linux.ipc import Mapping, mapped_span

HUGE = 2 << 20


@given(st.integers(0, 8 * HUGE), st.integers(1, 8 * HUGE), st.sampled_from([512, 4096, HUGE]))
def test_a_span_is_whole_pages_around_what_is_wanted_and_within_the_file(offset: int, size: int, block: int) -> None:
    page = max(block, 4096)
    file_size = -(-(offset + size) // page) * page
    start, length = mapped_span(offset, size, file_size, block)
    assert start % page == length % page == 0
    assert start <= offset < start + page
    assert offset + size <= start + length <= file_size
    assert start + length - offset - size < page


def test_a_file_that_ends_within_a_page_is_mapped_up_to_its_end() -> None:
    assert mapped_span(0x10, 0x3B00, 0x3B10, 4096) == (0, 0x3B10)


@pytest.mark.parametrize(("offset", "size"), [(0, 0x3B10), (1, 1), (0xFFF, 2), (0x1001, 0x2B0F)])
def test_exactly_the_bytes_that_are_wanted_are_seen(offset: int, size: int) -> None:
    content = os.urandom(0x3B10)
    fd = os.memfd_create("test")
    try:
        os.write(fd, content)
        mapping = Mapping(fd, size, offset)
        assert mapping.view == content[offset : offset + size]
        mapping.view[-1:] = b"!"
        mapping.close()
        assert os.pread(fd, 1, offset + size - 1) == b"!"
    finally:
        os.close(fd)
