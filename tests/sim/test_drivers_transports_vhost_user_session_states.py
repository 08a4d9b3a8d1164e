"""Every message in every state of a session is answered or ends the connection, and the next front end works."""

from __future__ import annotations

import pytest
import trio

from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import FrontendRequest as R
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, emit
from drivers.transports.vhost_user.payloads import U64
from drivers.transports.vhost_user.states import SessionState
from support.rigs.session_hostile import bench_, lead_to, message_body, state_of, works
from support.rigs.vhost_user import Bench, FrontEnd, HungUp

NEW, FEATURES, RUNNING = SessionState
REFUSED = {
    NEW: {R.SET_VRING_KICK, R.VRING_KICK},
    FEATURES: {R.VRING_KICK},
    RUNNING: {R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_INFLIGHT_FD},
}
"""Messages with a body that another state takes."""
TAKEN = {
    NEW: {R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_OWNER, R.GET_VRING_BASE},
    FEATURES: {R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ADDR, R.SET_MEM_TABLE, R.GET_VRING_BASE},
    RUNNING: {R.SET_VRING_ADDR, R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ENABLE, R.GET_VRING_BASE},
}


async def say(bench: Bench, front: FrontEnd, message: R) -> bool:
    """Send one message; whether the back end carried it out."""
    asks = FRONTEND_MESSAGES[message].answer is None
    payload, descriptors = message_body(front, message, 0)
    await front.send(emit(message, payload, need_reply=asks), descriptors)
    try:
        with trio.fail_after(60):
            answer = await front.answer(message)
    except (HungUp, TransportLost):
        return False
    while front.passed:
        front.passed.pop().close()
    return not asks or (isinstance(answer, U64) and not answer.value)


@pytest.mark.hostile("V12", "V13")
@pytest.mark.parametrize("state", SessionState, ids=lambda state: state.name)
async def test_each_message_in_each_state_is_answered_or_ends_the_connection(state: SessionState) -> None:
    carried_out = set()
    async with bench_() as bench:
        for message in map(R, sorted(FRONTEND_MESSAGES)):
            async with bench.front() as front:
                await lead_to(front, state)
                assert state_of(bench) is state
                if await say(bench, front, message):
                    carried_out.add(message)
            if message in REFUSED[state] | TAKEN[state]:
                await works(bench)
        await works(bench)
    assert not carried_out & REFUSED[state]
    assert carried_out >= TAKEN[state]
