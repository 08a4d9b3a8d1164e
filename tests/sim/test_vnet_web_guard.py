"""Without the token of the page, no request is answered: by address, cookie or header, and nothing else lets one in."""

from __future__ import annotations

import pytest

from support.rigs.web import TOKEN, open_web

COOKIE = "vnet-web-8080"
HINT = "the token is missing or wrong: open the address that vnet web printed\n"
PATHS = ("/", "/page/main.js", "/api/topology.svg", "/api/stream", "/api/settings", "/moon")
WRONG = ("", "moon", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "t\xf6ken")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_request_without_the_token_is_refused(path: str, wrong: str) -> None:
    async with open_web() as rig:
        latin = wrong.encode("latin-1")
        for header in (b"Bearer " + latin, b"Basic " + latin, b"bearer", b""):
            cookie = f"{COOKIE}=".encode() + latin
            headers = [(b"Authorization", header), (b"Cookie", cookie)]
            response = await rig.browser.get(path, params={"token": wrong}, headers=headers)
            assert (response.status_code, response.text) == (401, HINT)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "set-cookie" not in response.headers
        assert rig.connections == 0


async def test_an_action_without_the_token_changes_nothing() -> None:
    async with open_web() as rig:
        del rig.browser.headers["Authorization"]
        body = {"name": "pcie0", "up": False}
        for query in ({}, {"token": TOKEN}):  # an address with the token may be in a log; it only opens the page
            assert (await rig.browser.post("/api/link", params=query, json=body)).status_code == 401
        assert rig.world.links["pcie0"].up


async def test_the_address_with_the_token_leads_to_the_page_and_leaves_a_cookie() -> None:
    async with open_web() as rig:
        del rig.browser.headers["Authorization"]
        response = await rig.browser.get("/", params={"token": TOKEN})
        assert (response.status_code, response.headers["location"], response.text) == (303, "/", "")
        assert response.headers["set-cookie"] == f"{COOKIE}={TOKEN}; HttpOnly; Path=/; SameSite=lax"
        for path in ("/", "/page/main.js", "/api/topology.svg"):
            assert (await rig.browser.get(path)).status_code == 200
        assert (await rig.browser.post("/api/reset", json={"name": "blk0"})).status_code == 200


async def test_the_cookie_of_another_port_is_not_the_token() -> None:
    async with open_web() as rig:
        headers = {"Authorization": "", "Cookie": f"vnet-web-8081={TOKEN}"}
        assert (await rig.browser.get("/", headers=headers)).status_code == 401
