"""Requests that wait for completions: tags, deadlines, and completions that answer none of them."""

from __future__ import annotations

import math

import attrs
import pytest

from vnet.link.transaction.errors import UnexpectedCompletion
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.fragments import completions, failed
from vnet.link.transaction.packets import Completion, ConfigRead, ConfigWrite, Header, MemoryRead
from vnet.link.wire.errors import Failure
from vnet.link.wire.requests import Requests

HEADER = Header(0x100)
ROOT = Header(0)
TIMEOUT = 1000.0


def new_requests() -> Requests:
    return Requests(TIMEOUT, max_read_request=128, boundary=64)


def issue(requests: Requests, now: float = 0) -> list[MemoryRead]:
    """Return the reads that are sent now."""
    return [request for request in requests.issue(now) if isinstance(request, MemoryRead)]


def answer(requests: Requests, request: MemoryRead, data: bytes) -> None:
    for completion in completions(request, data, 0, 128, 64):
        requests.complete(completion)


def fail(requests: Requests, request: MemoryRead, status: CompletionStatus) -> None:
    requests.complete(failed(request, 0, status))


def test_parts_of_a_read_are_in_order_though_their_answers_are_not() -> None:
    requests = new_requests()
    transfer = requests.read(HEADER, 100, 300)
    first, second, third = issue(requests)
    answer(requests, third, bytes([3]) * third.size)
    answer(requests, first, bytes([1]) * first.size)
    assert not transfer.done
    answer(requests, second, bytes([2]) * second.size)
    assert transfer.done
    assert transfer.result == b"\1" * first.size + b"\2" * second.size + b"\3" * third.size
    assert len(requests) == 0


def test_a_request_without_a_tag_waits_for_an_answer_to_another_one() -> None:
    requests = new_requests()
    requests.read(HEADER, 0, 128 * 258)
    sent = issue(requests)
    assert sorted(request.header.tag for request in sent) == list(range(256))
    assert issue(requests) == []
    answer(requests, sent[7], bytes(128))
    [late] = issue(requests)
    assert (late.header.tag, late.address) == (7, 128 * 256)


def test_each_request_has_its_own_deadline_and_a_late_completion_is_unexpected() -> None:
    requests = new_requests()
    early = requests.read(HEADER, 0, 4)
    [lost] = issue(requests, now=0)
    late = requests.read(HEADER, 64, 4)
    [answered] = issue(requests, now=400)
    assert requests.deadline == TIMEOUT
    assert requests.expire(TIMEOUT - 1) == []
    assert requests.expire(TIMEOUT) == [lost]
    assert early.result is Failure.TIMEOUT
    assert requests.deadline == TIMEOUT + 400
    with pytest.raises(UnexpectedCompletion):
        answer(requests, lost, b"late")
    answer(requests, answered, b"fine")
    assert late.result == b"fine"
    assert requests.deadline == math.inf


def test_the_first_failure_of_a_read_is_its_result_once_all_parts_have_one() -> None:
    requests = new_requests()
    transfer = requests.read(HEADER, 0, 384)
    first, second, third = issue(requests)
    fail(requests, second, CompletionStatus.COMPLETER_ABORT)
    fail(requests, first, CompletionStatus.UNSUPPORTED_REQUEST)
    assert not transfer.done
    answer(requests, third, bytes(128))
    assert transfer.done
    assert transfer.result is Failure.ABORTED


def test_one_poisoned_completion_spoils_a_read() -> None:
    requests = new_requests()
    transfer = requests.read(HEADER, 0, 128)
    [read] = issue(requests)
    first, second = completions(read, bytes(128), 0, 64, 64)
    assert requests.complete(attrs.evolve(first, header=attrs.evolve(first.header, poisoned=True)))
    assert not requests.complete(second)
    assert transfer.result is Failure.POISONED


def test_a_configuration_request_goes_before_reads_and_takes_only_its_own_completion() -> None:
    requests = new_requests()
    requests.read(HEADER, 0, 4)
    transfer = requests.configure(ConfigRead(header=ROOT, target=0x100, register=0))
    config, read = requests.issue(0)
    assert isinstance(config, ConfigRead)
    right = Completion(header=config.header, completer=0x100, data=b"data")
    for wrong in (
        attrs.evolve(right, header=attrs.evolve(right.header, requester=0x200)),
        attrs.evolve(right, header=attrs.evolve(right.header, tag=read.header.tag + 1)),
        attrs.evolve(right, data=b""),
    ):
        with pytest.raises(UnexpectedCompletion):
            requests.complete(wrong)
    assert not transfer.done
    requests.complete(right)
    assert transfer.result == b"data"


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (CompletionStatus.SUCCESS, b""),
        (CompletionStatus.RETRY, Failure.UNSUPPORTED),
        (CompletionStatus.UNSUPPORTED_REQUEST, Failure.UNSUPPORTED),
        (CompletionStatus.COMPLETER_ABORT, Failure.ABORTED),
    ],
)
def test_a_configuration_write_ends_with_the_status_of_its_completion(
    status: CompletionStatus, result: bytes | Failure
) -> None:
    requests = new_requests()
    transfer = requests.configure(ConfigWrite(header=ROOT, target=0x100, register=0, data=bytes(4)))
    [request] = requests.issue(0)
    requests.complete(Completion(header=request.header, completer=0x100, status=status))
    assert transfer.result == result


def test_a_lost_link_ends_requests_sent_and_unsent_and_frees_their_tags() -> None:
    requests = new_requests()
    sent = requests.read(HEADER, 0, 128 * 300)
    issue(requests)
    unsent = requests.configure(ConfigRead(header=ROOT, target=0x100, register=0))
    requests.lose()
    assert [transfer.result for transfer in (sent, unsent)] == [Failure.LINK_DOWN] * 2
    assert sent.done
    assert unsent.done
    assert (len(requests), requests.deadline, issue(requests)) == (0, math.inf, [])
    requests.read(HEADER, 0, 4)
    assert len(issue(requests)) == 1
