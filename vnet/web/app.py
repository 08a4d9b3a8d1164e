"""The application: the page with its files, looks at the system as JSON and SVG, the stream, and actions."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from itertools import groupby
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from vnet.ends import DEVICE_TYPES
from vnet.errors import ControlError, PrivilegeError
from vnet.graph.build import of_system
from vnet.graph.svg import to_svg
from vnet.link.faults import FAULTS, FLAPS
from vnet.linux.threads import run_in_thread
from vnet.lspci import decode, describe
from vnet.qmp.async_client import Control, Refusal
from vnet.views.pci import ConfigImage, ConfigImages
from vnet.views.system import SystemView
from vnet.web.feed import Feed
from vnet.web.guard import Guard
from vnet.web.rings import RingStream, ring_pictures
from vnet.web.stream import Stream

__all__ = ["make_app"]

PAGE = Path(__file__).parent / "page"
BODY_MAX = 4096
"""Bytes of the longest request body."""
Endpoint = Callable[[Request], Awaitable[Response]]


class BadRequest(Exception):
    """A request that makes no sense: the response has the reason."""


ACTIONS = {
    "link": "set_link",
    "reset": "device-reset",
    "set": "device-set",
    "fault": "fault-set",
    "fault-clear": "fault-clear",
}
"""Command of the control socket by name of the action. The body has its arguments, which the system checks."""


def make_app(control: Control, feed: Feed, hosts: Collection[str], token: str) -> Starlette:
    """Return the application for browsers that name this machine as one of ``hosts`` and have the ``token``.

    The caller runs `Feed.run`.
    """
    routes = [
        Route("/", _page),
        Route("/api/stream", Stream(feed), methods=["GET"]),
        Route("/api/topology.svg", _topology(control)),
        Route("/api/rings", _rings(control)),
        Route("/api/ring-stream", RingStream(control), methods=["GET"]),
        Route("/api/pci", _pci(control)),
        Route("/api/settings", _settings),
        Route("/api/faults", _faults),
        *(Route(f"/api/{name}", _action(control, command), methods=["POST"]) for name, command in ACTIONS.items()),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    handlers = {BadRequest: _failed, ControlError: _failed, PrivilegeError: _failed}
    guard = Middleware(Guard, hosts=hosts, token=token)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


async def _failed(_: Request, error: Exception) -> Response:
    """Return the error as JSON: 400 if the request is wrong, 503 if the system cannot be asked."""
    status = 400 if isinstance(error, BadRequest | Refusal) else 503
    return JSONResponse({"error": str(error)}, status_code=status)


async def _page(_: Request) -> Response:
    return FileResponse(PAGE / "index.html")


async def _settings(_: Request) -> Response:
    """Return the settings of each device type, as `vnet set --help` lists them."""
    return JSONResponse(
        {
            name: [{"name": key, "values": own.values, "help": own.help} for key, own in kind.settings.items()]
            for name, kind in DEVICE_TYPES.items()
        }
    )


async def _faults(_: Request) -> Response:
    """Return the faults of links, as `vnet fault --help` lists them."""
    kinds = [{"name": name, "about": kind.about, "flaps": False} for name, kind in FAULTS.items()]
    return JSONResponse([*kinds, {"name": FLAPS, "about": "The link goes down and up again.", "flaps": True}])


def _topology(control: Control) -> Endpoint:
    async def topology(_: Request) -> Response:
        view = await control.view(SystemView, "query-vnet")
        return Response(to_svg(of_system(view)), media_type="image/svg+xml")

    return topology


def _rings(control: Control) -> Endpoint:
    async def rings(request: Request) -> Response:
        return JSONResponse(await ring_pictures(control, request.query_params))

    return rings


def _pci(control: Control) -> Endpoint:
    """Return an endpoint: what lspci decodes, by host that enumerates the functions."""

    async def pci(_: Request) -> Response:
        answer = await control.view(ConfigImages, "query-config-space")
        return JSONResponse(await run_in_thread(_decoded, answer.functions))

    return pci


def _decoded(functions: Iterable[ConfigImage]) -> list[dict[str, object]]:
    """Return the bus tree and the functions of each host. Raises PrivilegeError, ControlError."""
    hosts: list[dict[str, object]] = []
    for host, group in groupby(functions, lambda function: function.host):
        own = list(group)
        entries = [entry.splitlines() for entry in "\n".join(describe(own, ["-vv"])).split("\n\n")]
        hosts.append(
            {
                "host": host,
                "tree": decode(own, ["-tv"]),
                "functions": [{"title": title, "lines": rest} for title, *rest in filter(None, entries)],
            }
        )
    return hosts


def _action(control: Control, command: str) -> Endpoint:
    async def act(request: Request) -> Response:
        body = b""
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > BODY_MAX:
                    raise BadRequest(f"the body may have at most {BODY_MAX} bytes")
        try:
            arguments = json.loads(body)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise BadRequest("the body must be a JSON object")
        await control.act(command, arguments)
        return JSONResponse({})

    return act
