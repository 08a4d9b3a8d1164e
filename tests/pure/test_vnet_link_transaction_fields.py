"""Every message and every packet type of the tables is one that the codec knows, or refuses by its name."""

from __future__ import annotations

import pytest

from vnet.link.transaction.codec import emit, parse
from vnet.link.transaction.errors import UnsupportedTlp
from vnet.link.transaction.fields import MESSAGES, UNSUPPORTED_TYPES, MessageCode
from vnet.link.transaction.packets import Header, Message


def message_of(code: MessageCode) -> Message:
    return Message(header=Header(0x0208, 7), code=code, data=bytes(MESSAGES[code].size))


@pytest.mark.parametrize("code", MessageCode)
def test_each_message_comes_back(code: MessageCode) -> None:
    assert parse(emit(message_of(code))) == message_of(code)


@pytest.mark.parametrize(("fmt", "kind"), UNSUPPORTED_TYPES)
def test_packets_of_other_kinds_are_named(fmt: int, kind: int) -> None:
    with pytest.raises(UnsupportedTlp, match=UNSUPPORTED_TYPES[fmt, kind]):
        parse(bytes([fmt << 5 | kind, *bytes(23)]))
