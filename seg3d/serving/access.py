"""Who may ask, and what a browser may do with the answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seg3d.serving.jobs import place_of

COOKIE = "seg3d_session"
# of the app's own pages: nothing from elsewhere, no inline script
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# of the viewer's page: its own inline script, in an origin of its own, without network
VIEWER_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",  # results do not outlive the server's copy
}
_OPEN = ("/health", "/login", "/session", "/static/app.css", "/static/login.js")
_PAGES = ("/", "/docs")


@dataclass(frozen=True)
class Access:
    """How clients show that they may ask.

    Attributes:
        token: What scripts send as ``Authorization: Bearer TOKEN``; ``None`` where nothing is demanded.
        hosts: Names under which the app may be asked for, ``None`` for any: a page from elsewhere whose name is made to
            point here (DNS rebinding) asks under its own.
        session: What a browser that has shown the token keeps in a cookie.
    """

    token: str | None = None
    hosts: frozenset[str] | None = None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def knows(self, given: str) -> bool:
        """Whether a string is the token, compared in constant time."""
        return self.token is not None and secrets.compare_digest(given.encode(), self.token.encode())

    def admits(self, headers: Headers) -> bool:
        """Whether a request shows the token or the cookie of a browser that has."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and secrets.compare_digest(cookie.value.encode(), self.session.encode())


class Guard:
    """The outermost layer: turns away whom it must, puts headers on every answer, lets no failure through to the log.

    Args:
        app: What is guarded.
        access: Who may ask.
        tell: Called with a line for the log when something unexpected happens.
    """

    def __init__(self, app: ASGIApp, access: Access, tell: Callable[[str], None] = lambda _: None) -> None:
        self._app, self._access, self._tell = app, access, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(MutableHeaders(raw=message["headers"]))
            await send(message)

        app = self._refusal(scope) or self._app
        try:
            await app(scope, receive, send_guarded)
        except Exception as error:  # noqa: BLE001  # a traceback in the log could show what a scan holds
            self._tell(f"unexpected {type(error).__name__} at {place_of(error)}")
            if not started:
                await _refuse(500, "an unexpected failure")(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self._access.hosts is not None and _name_of(host) not in self._access.hosts:
            return _refuse(421, "the app is not known under this name")
        # a page from elsewhere could let a browser post here
        if scope["method"] not in ("GET", "HEAD") and not _same_origin(headers, host):
            return _refuse(403, "requests from other sites are not answered")
        if path in _OPEN or self._access.admits(headers):
            return None
        if path in _PAGES:
            return RedirectResponse("/login", 303)
        return _refuse(401, "a token is needed: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})


def _add_headers(headers: MutableHeaders) -> None:
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("content-security-policy", POLICY)
    headers["x-frame-options"] = "SAMEORIGIN" if headers["content-security-policy"] == VIEWER_POLICY else "DENY"


def _same_origin(headers: Headers, host: str) -> bool:
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    return site in ("same-origin", "none") and (origin is None or origin.partition("://")[2] == host)


def _name_of(host: str) -> str:
    """A host header without its port: ``[::1]:8000`` is ``[::1]``."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower()


def _refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers)
