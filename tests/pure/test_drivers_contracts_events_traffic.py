"""The records of the data path: the ids that join them, and the bytes of frames."""

from __future__ import annotations

import attrs
import pytest

from drivers.contracts.events import RECORDS, FrameReceived, Source


@pytest.mark.parametrize("name", ["frame", "chain", "published"])
def test_an_id_that_joins_records_is_a_number_in_all_of_them(name: str) -> None:
    kinds = [attrs.resolve_types(kind) for kind in RECORDS.values()]
    types = [attrs.fields_dict(kind)[name].type for kind in kinds if name in attrs.fields_dict(kind)]
    assert len(types) > 1
    assert set(types) <= {int, int | None}


def test_a_frame_gives_a_copy_of_its_bytes_or_of_its_first_ones() -> None:
    pieces = [memoryview(b"abcd"), memoryview(b""), memoryview(b"efgh__")]
    frame = FrameReceived(1.0, Source("rc", "net0", "driver", "transmitq1"), 7, 3, bytes(12), 8, pieces)
    assert [frame.data(), frame.data(6), frame.data(2), frame.data(0), frame.data(99)] == [
        b"abcdefgh",
        b"abcdef",
        b"ab",
        b"",
        b"abcdefgh",
    ]
    assert "memory" not in repr(frame)
