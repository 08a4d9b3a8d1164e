"""The web application: its headers, the requests that it refuses, and its looks and actions."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from support.machine import RequireTool
from support.rigs.web import open_web
from vnet.link.faults import FLAPS
from vnet.qmp.fault_records import NAMES
from vnet.web.app import BODY_MAX
from vnet.web.guard import HEADERS

# httpx leaves the body of a request as it is if the application does not read it to its end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
JSON = {"Content-Type": "application/json"}
MOVE = json.dumps({"name": "pcie0", "up": False})


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/page/main.js", 200), ("/page/../app.py", 404), ("/moon", 404), ("/api/link", 405)],
)
async def test_every_response_keeps_the_page_to_itself(path: str, status: int) -> None:
    async with open_web() as rig:
        response = await rig.browser.get(path)
        assert response.status_code == status
        assert {name: response.headers[name] for name in HEADERS} == dict(HEADERS)
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("host", ["moon.example:8080", "127.0.0.1", "127.0.0.1:9", "127.0.0.1.example:8080", ""])
async def test_another_host_name_is_refused_also_if_it_leads_to_this_machine(host: str) -> None:
    async with open_web() as rig:
        for path in ("/", "/api/topology.svg", "/api/stream"):
            response = await rig.browser.get(path, headers={"Host": host})
            text = f"Host {host!r}: must be one of 127.0.0.1:8080, [::1]:8080, localhost:8080\n"
            assert (response.status_code, response.text) == (403, text)
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (JSON | {"Origin": "http://moon.example"}, "Origin 'http://moon.example': must be http://127.0.0.1:8080"),
        (JSON | {"Origin": "http://127.0.0.1:9"}, "Origin 'http://127.0.0.1:9': must be http://127.0.0.1:8080"),
        (JSON | {"Origin": "null"}, "Origin 'null': must be http://127.0.0.1:8080"),
        (JSON | {"Sec-Fetch-Site": "cross-site"}, "requests of other sites are refused"),
        (JSON | {"Sec-Fetch-Site": "same-site"}, "requests of other sites are refused"),
        ({"Content-Type": "text/plain"}, "Content-Type: must be application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type: must be application/json"),
        ({}, "Content-Type: must be application/json"),
    ],
)
async def test_a_post_of_another_page_is_refused_and_changes_nothing(headers: dict[str, str], why: str) -> None:
    async with open_web() as rig:
        response = await rig.browser.post("/api/link", content=MOVE, headers=headers)
        assert (response.status_code, response.text) == (403, f"{why}\n")
        assert rig.world.links["pcie0"].up
        assert rig.connections == 0


async def test_another_site_may_lead_to_the_page_but_takes_nothing_from_it() -> None:
    async with open_web() as rig:
        assert (await rig.browser.get("/", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200
        for path in ("/api/topology.svg", "/api/stream", "/page/main.js"):
            assert (await rig.browser.get(path, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403


async def test_a_link_goes_down_and_up() -> None:
    async with open_web() as rig:
        for up in (False, True):
            body = {"name": "pcie0", "up": up}
            response = await rig.browser.post("/api/link", json=body, headers={"Origin": "http://127.0.0.1:8080"})
            assert (response.status_code, response.json()) == (200, {})
            assert rig.world.links["pcie0"].up == up
            picture = (await rig.browser.get("/api/topology.svg")).text
            assert f"pcie0, {'up' if up else 'down'}" in picture
            ElementTree.fromstring(picture.encode())


async def test_a_fault_is_set_and_cleared() -> None:
    async with open_web() as rig:
        listed = (await rig.browser.get("/api/faults")).json()
        assert [each["name"] for each in listed] == list(NAMES)
        assert [each["name"] for each in listed if each["flaps"]] == [FLAPS]
        body = {"name": "pcie0", "rules": [{"fault": "timeouts", "count": 3, "seconds": 9}]}
        assert (await rig.browser.post("/api/fault", json=body)).status_code == 200
        assert [rule.name for rule in rig.world.faults["pcie0"].rules()] == ["timeouts"]
        body = {"name": "pcie0", "rules": ["timeouts"]}
        assert (await rig.browser.post("/api/fault-clear", json=body)).status_code == 200
        assert rig.world.faults["pcie0"].rules() == ()


async def test_a_device_is_reset() -> None:
    async with open_web() as rig:
        assert (await rig.browser.post("/api/reset", json={"name": "blk0"})).status_code == 200
        await rig.world.wait_up()
        assert rig.world.devices["blk0"].virtio is not None


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/api/link", '{"name": "moon", "up": true}', "link 'moon': must be one of pcie0"),
        ("/api/link", '{"name": "pcie0"}', "Parameter 'up': must be given"),
        ("/api/link", '{"name": "pcie0", "up": "no"}', "Parameter 'up': must be true or false"),
        ("/api/reset", '{"name": "moon"}', "device 'moon': must be one of blk0"),
        ("/api/set", '{"name": "blk0", "setting": "mac", "value": ""}', "blk0: a blk device has no settings that"),
        ("/api/fault", '{"name": "pcie0", "rules": [{"fault": "moon"}]}', "Parameter 'rules.0.fault': must be one of"),
        ("/api/fault-clear", '{"name": "pcie0", "rules": ["moon"]}', "pcie0: rule 'moon': there is no rule"),
        ("/api/link", "[]", "the body must be a JSON object"),
        ("/api/link", "{", "the body must be a JSON object"),
        ("/api/link", "[" * BODY_MAX, "the body must be a JSON object"),
        ("/api/link", "\xff", "the body must be a JSON object"),
        ("/api/link", " " * (BODY_MAX + 1), "the body may have at most 4096 bytes"),
    ],
)
async def test_a_wrong_body_is_one_line(path: str, body: str, why: str) -> None:
    async with open_web() as rig:
        response = await rig.browser.post(path, content=body.encode("latin-1"), headers=JSON)
        assert response.status_code == 400
        assert response.json()["error"].startswith(why)


async def test_rings_are_wheels_and_one_of_them_is_tables() -> None:
    async with open_web() as rig:
        query = {"device": "blk0", "queue": "requestq1", "tables": "requestq1"}
        pictures = (await rig.browser.get("/api/rings", params=query)).json()
        assert list(pictures) == ["requestq1"]
        for picture in pictures["requestq1"].values():
            assert ElementTree.fromstring(picture.encode())[0].text == "blk0 requestq1"
        for changed, why in (
            ({"device": "moon"}, "device 'moon': must be one of blk0"),
            ({"queue": "q9"}, "blk0: queue 'q9': must be one of requestq1"),
        ):
            response = await rig.browser.get("/api/rings", params=query | changed)
            assert (response.status_code, response.json()) == (400, {"error": why})


async def test_functions_are_those_of_lspci(require_tool: RequireTool) -> None:
    require_tool("lspci")
    async with open_web() as rig:
        (host,) = (await rig.browser.get("/api/pci")).json()
        assert host["host"] == "rc"
        (function,) = host["functions"]
        assert function["title"].endswith(", blk0 on pcie0")
        assert any("VirtIO: CommonCfg" in line for line in function["lines"])
        assert "Virtio 1.0 block device" in "\n".join(host["tree"])


async def test_settings_are_those_of_vnet_set() -> None:
    async with open_web() as rig:
        settings = (await rig.browser.get("/api/settings")).json()
        assert {"name", "values", "help"} == set(settings["net"][0])
        assert settings["blk"] == []


async def test_without_a_system_the_page_is_there_and_looks_say_why() -> None:
    async with open_web() as rig:
        rig.running = False
        assert (await rig.browser.get("/")).status_code == 200
        for path in ("/api/topology.svg", "/api/pci", "/api/rings?device=blk0&queue=requestq1"):
            response = await rig.browser.get(path)
            why = "t is not running; try: vnet up --name t"
            assert (response.status_code, response.json()) == (503, {"error": why})
        assert (await rig.browser.post("/api/link", json={"name": "pcie0", "up": True})).status_code == 503
