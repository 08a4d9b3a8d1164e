"""The rules for requests: this machine's names only, no requests of other pages, and no content from elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "Guard", "host_names"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: everything comes from this server, and no other page has it in a frame."""
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every response."""
SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""


def host_names(port: int) -> frozenset[str]:
    """Return the names of this machine that a browser may send as Host. Any other one is that of a rebound name."""
    names = ("127.0.0.1", "localhost", "[::1]")
    return frozenset([*(f"{name}:{port}" for name in names), *(names if port == 80 else ())])


class Guard:
    """Refuses requests against the rules, and adds `HEADERS` to every response of ``app``."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        why = self._fault(scope["method"], scope["path"], Headers(scope=scope))
        app = PlainTextResponse(f"{why}\n", status_code=403) if why else self._app
        await app(scope, receive, send_guarded)

    def _fault(self, method: str, path: str, headers: Headers) -> str:
        """Return the rule that the request violates; empty if there is none."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return f"Host {host!r}: must be one of {', '.join(sorted(self._hosts))}"
        site = headers.get("sec-fetch-site", "none")
        if site not in {"same-origin", "none"} and (method not in SAFE or path != "/"):
            return "requests of other sites are refused"
        if method not in SAFE:
            origin = headers.get("origin")
            if origin not in {None, f"http://{host}"}:
                return f"Origin {origin!r}: must be http://{host}"
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return "Content-Type: must be application/json"
        return ""
