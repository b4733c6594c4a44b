"""Who may ask the studio: the Host, the Origin and the token of each request, before anything else is read of it.

A page of another site that finds the studio's port can neither read from it nor post to it: a browser names the site
in Origin and in Sec-Fetch-Site, and an address that was rebound to this machine names itself in Host.
"""

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({LOOPBACK, "localhost", "::1"})
NONCE_BYTES = 16
LONGEST_BODY = 64 * 1024
"""Bytes of a request that is no upload."""
UPLOAD_PATH = "/api/sessions"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-store",
}


def content_policy(nonce: str) -> str:
    """What a page of the studio may load: its own files alone. Styles that its wave view writes carry the nonce."""
    return (
        "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; media-src 'self' blob:; "
        f"img-src 'self' data:; style-src 'self' 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    reason: str


@dataclass(frozen=True)
class AccessRules:
    """Which names the studio answers to, and the token that it wants; none where it is on loopback alone."""

    port: int
    host: str = LOOPBACK
    token: str | None = None

    @property
    def cookie(self) -> str:
        """What holds the token; cookies know no port, so that its name tells studios apart."""
        return f"backline-studio-{self.port}"

    def refusal(self, method: str, path: str, headers: Mapping[str, str], query: str) -> Refusal | None:
        """None for a request that may be answered. `headers` have names in lower case."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Refusal(421, "this address is not the studio's. Open the one that it printed.")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return Refusal(403, "another site may not use the studio.")
        opens_page = method == "GET" and path == "/"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not opens_page:
            return Refusal(403, "another site may not use the studio.")
        if self.token is not None and not self._has_token(headers, query):
            return Refusal(401, "the token is missing. Open the address that the studio printed, with its token.")
        return None

    def _is_ours(self, host: str) -> bool:
        """Loopback; elsewhere the host that was named, this machine's name, or any number, which no name rebinds."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").rstrip("."), parts.port or 80
        except ValueError:
            return False
        if port != self.port:
            return False
        if name in LOOPBACK_NAMES:
            return True
        if self.host in LOOPBACK_NAMES:
            return False
        return name in (self.host.lower(), socket.gethostname().lower()) or _is_number(name)

    def _has_token(self, headers: Mapping[str, str], query: str) -> bool:
        assert self.token is not None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            cookie = None
        given = [*parse_qs(query).get("token", []), *([cookie.value] if cookie else [])]
        return any(secrets.compare_digest(one.encode(), self.token.encode()) for one in given)


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class AccessGuard:
    """What stands before the app: it refuses, bounds bodies, and puts the headers of safety on every answer."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        scope["nonce"] = nonce

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["content-security-policy"] = content_policy(nonce)
            await send(message)

        answer = self._answer(scope)
        await (self._app if answer is None else answer)(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """What is answered without asking the app."""
        headers, query = Headers(scope=scope), scope["query_string"].decode("latin-1")
        method, path = scope["method"], scope["path"]
        refusal = self._rules.refusal(method, path, headers, query) or _body_refusal(method, path, headers)
        if refusal is not None:
            return JSONResponse({"error": refusal.reason}, refusal.status, {"connection": "close"})
        if self._rules.token is not None and method == "GET" and path == "/" and "token=" in query:
            opened = RedirectResponse("/", 303)
            opened.set_cookie(self._rules.cookie, self._rules.token, httponly=True, samesite="strict")
            return opened
        return None


def _body_refusal(method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
    """An upload is bounded while it streams; every other body says how long it is, and is short."""
    if method == "POST" and path == UPLOAD_PATH:
        return None
    if "transfer-encoding" in headers:
        return Refusal(411, "a request says how long it is.")
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LONGEST_BODY:
        return Refusal(413, f"a request has at most {LONGEST_BODY} bytes.")
    return None
