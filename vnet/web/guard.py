"""The rules for requests: this machine's names, the token, no requests of other pages, no content from elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse

from vnet.web.token import is_token

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
COOKIE = "vnet-web-"
"""Name of the cookie that keeps the token, without the port: browsers send cookies to all ports of a host."""
BEARER = "Bearer "
"""Beginning of the Authorization header that has the token, for programs."""
REFUSAL = "the token is missing or wrong: open the address that vnet web printed"


def host_names(port: int) -> frozenset[str]:
    """Return the names of this machine that a browser may send as Host. Any other one is that of a rebound name."""
    names = ("127.0.0.1", "localhost", "[::1]")
    return frozenset([*(f"{name}:{port}" for name in names), *(names if port == 80 else ())])


class Guard:
    """Refuses requests against the rules, and adds `HEADERS` to every response of ``app``."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        why = self._fault(scope["method"], scope["path"], Headers(scope=scope))
        app = PlainTextResponse(f"{why}\n", status_code=403) if why else self._admit(HTTPConnection(scope))
        await app(scope, receive, send_guarded)

    def _admit(self, request: HTTPConnection) -> ASGIApp:
        """Return the application for a request with the token.

        The page's address may have it: the browser is then led to the address without it, and keeps it in a cookie.
        """
        cookie = f"{COOKIE}{request.url.port or 80}"
        bearer = request.headers.get("authorization", "")
        if self._is_token(request.cookies.get(cookie, "")) or (
            bearer.startswith(BEARER) and self._is_token(bearer.removeprefix(BEARER))
        ):
            return self._app
        if request.url.path == "/" and self._is_token(request.query_params.get("token", "")):
            response = RedirectResponse("/", status_code=303)
            response.set_cookie(cookie, self._token, httponly=True, samesite="lax")
            return response
        return PlainTextResponse(f"{REFUSAL}\n", status_code=401, headers={"WWW-Authenticate": "Bearer"})

    def _is_token(self, given: str) -> bool:
        return is_token(self._token, given)

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
