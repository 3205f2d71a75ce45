"""What a request needs before the site answers it, and what every answer says.

The site is for the person at this machine alone. Any web page that this person's browser shows can
send requests to 127.0.0.1, so a request must name this host (against DNS rebinding), come from this
site's own pages, and have the token that only the terminal has shown.
"""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing but what the site itself serves, and pictures that a page was given (blob:).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MISSING_TOKEN = (
    "This page needs the token that grigri-fast serve has printed: open the address from there.\n"
)


class Guard:
    """An ASGI middleware that answers what must not reach the site.

    Args:
        app: the site.
        port: that the site listens on, at 127.0.0.1.
        token: what a request must have, as a cookie or ``Authorization: Bearer``. Opening
            ``/?token=...`` sets the cookie.
        max_body_bytes: of a request.
    """

    def __init__(self, app: ASGIApp, *, port: int, token: str, max_body_bytes: int) -> None:
        self._app, self._token, self._max_body_bytes = app, token, max_body_bytes
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._cookie = f"grigri-fast-{port}"
        self._too_large = f"at most {max_body_bytes:,} bytes are taken"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on with a bounded body."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no web socket here
            raise RuntimeError(f"{scope['type']} is not served")
        send = _with_headers(send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        """Return the answer to a request that the site must not see."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return _text("Not this host.\n", 421)
        origin = headers.get("origin", f"http://{host}")
        if origin != f"http://{host}":
            return _text("Requests of other sites are not answered.\n", 403)
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _text("Requests of other sites are not answered.\n", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and given:
            if not self._is_token(given):
                return _text(MISSING_TOKEN, 401)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        if not self._has_token(headers):
            return _text(MISSING_TOKEN, 401)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return _text(self._too_large, 413)
        return None

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(bearer)
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        return self._cookie in cookies and self._is_token(cookies[self._cookie].value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _bounded(self, receive: Receive) -> Receive:
        """Return ``receive`` that stops a body without or with a wrong length, too."""
        num_bytes = 0

        async def bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded


def _text(words: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(words, status, headers={"Connection": "close"})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
