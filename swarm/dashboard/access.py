"""Who may come in.

A page on the web that the browser also has open is a client on loopback, too. So: the name that the
browser asked for must be this machine's own (no DNS rebinding); what changes something must come
from our own pages (Origin); and everything needs a cookie that only the one-time link gives, whose
token is worth nothing once it was used.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "swarm-dashboard"
ENTER = "/enter"
MAX_BODY_BYTES = 64 * 1024
TOKEN_BYTES = 32
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass
class Tickets:
    """The one-time token, and the session that it is exchanged for."""

    token: str | None = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))

    def exchange(self, token: str) -> bool:
        """Whether `token` opens the door. It does so once."""
        if self.token is None or not hmac.compare_digest(self.token.encode(), token.encode()):
            return False
        self.token = None
        return True

    def admits(self, session: str) -> bool:
        return hmac.compare_digest(self.session.encode(), session.encode())


class Access:
    """ASGI middleware: refuses what may not come in, and marks every answer.

    `hosts` are the names, with the port, under which this server may be asked.
    """

    def __init__(self, app: ASGIApp, tickets: Tickets, hosts: frozenset[str]) -> None:
        self._app = app
        self._tickets = tickets
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._judge(scope, receive, send)
        # There is no other kind, such as a web socket, that a page of ours would open.

    async def _judge(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_marked)
        else:
            await self._app(scope, _bounded(receive), send_marked)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host not in self._hosts:
            return PlainTextResponse(
                f"this dashboard is not {host[:100]!r}: open {min(self._hosts)}", 421
            )
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("another page may not ask this dashboard", 403)
        if scope["method"] not in ("GET", "HEAD") and origin is None:
            return PlainTextResponse("what changes something must come from a page of ours", 403)
        if int(headers.get("content-length") or 0) > MAX_BODY_BYTES:
            return PlainTextResponse(f"at most {MAX_BODY_BYTES} bytes", 413)
        if scope["path"] == ENTER:
            return self._enter(scope)
        if not self._tickets.admits(_cookie(headers)):
            return PlainTextResponse(
                "this page needs its link: run `swarm dashboard` again, and open what it prints",
                401,
            )
        return None

    def _enter(self, scope: Scope) -> Response:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._tickets.exchange(given):
            return PlainTextResponse(
                "this link was used already, or is another's: run `swarm dashboard` again", 401
            )
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self._tickets.session, httponly=True, samesite="strict")
        return answer


def _cookie(headers: Headers) -> str:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _bounded(receive: Receive) -> Receive:
    """Bodies without a stated length end at the bound, too."""
    left = MAX_BODY_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if left < 0 else message

    return bounded
