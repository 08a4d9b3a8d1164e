"""The client's side of vfio-user without I/O: requests are numbered, and each reply belongs to the last of them."""

from __future__ import annotations

import struct

import pytest

from drivers.carriers.framing import ProtocolError
from vnet.vfio_user.accesses import RegionRead, RegionWrite
from vnet.vfio_user.client.session import ClientSession
from vnet.vfio_user.constants import Command, HeaderFlag
from vnet.vfio_user.messages import Assembler, Message
from vnet.vfio_user.payloads import Refused

C = Command


def reply_to(request: bytes, body: bytes = b"", flags: int = HeaderFlag.REPLY, error: int = 0) -> Message:
    number, command = struct.unpack_from("<HH", request)
    whole = struct.pack("<HHIII", number, command, 16 + len(body), flags, error) + body
    assembler = Assembler(server=True)
    assert assembler.feed(whole[:16]) is None or not body
    message = assembler.feed(whole[16:]) if body else Assembler(server=True).feed(whole)
    assert message is not None
    return message


def test_a_reply_is_parsed_by_the_table_of_messages() -> None:
    session = ClientSession()
    request = session.request(C.REGION_READ, RegionRead(4, 0, 2))
    answer = session.take(reply_to(request, RegionWrite(4, 0, b"ab").emit()))
    assert answer.payload == RegionWrite(4, 0, b"ab")


def test_requests_have_numbers_of_their_own_beyond_the_largest() -> None:
    session, numbers = ClientSession(), set()
    for _ in range(0x10001):
        numbers.add(session.post(C.DEVICE_RESET)[:2])
    assert len(numbers) == 0x10000


def test_a_posted_request_is_confirmed_by_the_next_reply() -> None:
    session = ClientSession()
    assert not session.unconfirmed
    session.post(C.REGION_WRITE, RegionWrite(0, 0, b"x"))
    assert session.unconfirmed
    session.take(reply_to(session.request(C.DEVICE_RESET)))
    assert not session.unconfirmed


@pytest.mark.hostile("W16")
@pytest.mark.parametrize(
    ("error", "text"), [(22, "Invalid argument"), (0, "error 0"), (0xFFFF_FFFF, "error 4294967295")]
)
def test_a_refusal_names_the_command_and_the_reason(error: int, text: str) -> None:
    session = ClientSession()
    message = reply_to(session.request(C.DEVICE_RESET), flags=HeaderFlag.REPLY | HeaderFlag.ERROR, error=error)
    with pytest.raises(Refused, match=f"DEVICE_RESET: the server refuses it: {text}"):
        session.take(message)
    session.request(C.DEVICE_RESET)


@pytest.mark.hostile("W15")
def test_a_reply_to_another_request_is_an_error() -> None:
    session = ClientSession()
    first = session.request(C.DEVICE_RESET)
    session.take(reply_to(first))
    with pytest.raises(ProtocolError, match="without a request"):
        session.take(reply_to(first))
    session.request(C.DEVICE_RESET)
    with pytest.raises(ProtocolError, match="reply 1, to request 2"):
        session.take(reply_to(first))
