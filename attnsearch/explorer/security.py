"""Which requests reach the server: of known hosts, with the token, and by default only those that read.

A web page from elsewhere can make a browser send requests to 127.0.0.1. It cannot read the answers, unless its own name
is made to point there (DNS rebinding); so the Host header must be a name of this server. It can still send changes
(CSRF); so those need an Origin of this server, besides `--allow-edit`.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

COOKIE = "attnsearch_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PREFIX = "/attention"
"""Where the explorer lies beside optuna-dashboard."""
API = f"{PREFIX}/api/"
"""Requests of scripts: errors are JSON too."""
_LARGEST = 2**63 - 1
_LONG_NUMBER = re.compile(r"[+-]?0*([1-9]\d{18,})")
_READING = ("GET", "HEAD")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::\d{1,5})?")
_DROPPED = ("access-control-allow-origin",)
_ADDED = [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "SAMEORIGIN"), ("Referrer-Policy", "no-referrer")]


def new_token() -> str:
    """A random token of 24 bytes, as URL-safe text."""
    return secrets.token_urlsafe(24)


class Guard:
    """A WSGI filter in front of the dashboard and the explorer.

    Args:
        hosts: names under which this server may be called; with a token, also every IP address.
        token: asked of everyone, once by `?token=`, then by cookie; None where only this machine can connect.
        allow_edit: lets changes through, if the page that sends them comes from this server.
    """

    def __init__(
        self, app: WSGIApplication, *, hosts: Iterable[str], token: str | None = None, allow_edit: bool = False
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token
        self._allow_edit = allow_edit

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start = _with_headers(start_response)
        host = environ.get("HTTP_HOST", "")
        if not self._is_known(host):
            return _refuse(environ, start, "403 Forbidden", "this server does not answer to that host name")
        if n_digits := _digits_of_too_large(environ):
            text = f"a number of an address must fit into 64 bits, got one of {n_digits} digits"
            return _refuse(environ, start, "400 Bad Request", text)
        if self._token is not None and (not _has_cookie(environ, self._token) or self._gives_token(environ)):
            return self._ask(environ, start)  # also takes the token out of an address that would be shared
        if environ["REQUEST_METHOD"] not in _READING:
            if not self._allow_edit:
                return _refuse(
                    environ, start, "405 Method Not Allowed", "read-only; start the dashboard with --allow-edit"
                )
            if not _is_own_page(environ, host):
                return _refuse(environ, start, "403 Forbidden", "changes must come from a page of this server")
        return self._app(environ, start)

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        return name in self._hosts or (self._token is not None and _is_address(name))

    def _gives_token(self, environ: WSGIEnvironment) -> bool:
        token = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def _ask(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Takes the token from the URL into a cookie, or refuses."""
        assert self._token is not None
        query = environ.get("QUERY_STRING", "")
        if not self._gives_token(environ) or environ["REQUEST_METHOD"] not in _READING:
            return _refuse(environ, start, "403 Forbidden", "open the address with the token that the server printed")
        rest = urlencode([(key, value) for key, value in parse_qsl(query) if key != "token"])
        place = "/" + quote(environ.get("PATH_INFO", "/").lstrip("/").encode("latin-1")) + (f"?{rest}" if rest else "")
        cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        start("303 See Other", [("Location", place), ("Set-Cookie", cookie), ("Content-Length", "0")])
        return [b""]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _has_cookie(environ: WSGIEnvironment, token: str) -> bool:
    try:
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    except CookieError:
        return False
    return COOKIE in cookies and hmac.compare_digest(cookies[COOKIE].value.encode(), token.encode())


def _is_own_page(environ: WSGIEnvironment, host: str) -> bool:
    return bool(host) and environ.get("HTTP_ORIGIN") == f"{environ.get('wsgi.url_scheme', 'http')}://{host}"


def _digits_of_too_large(environ: WSGIEnvironment) -> int:
    """The number of digits of an integer in the address that is too large for a database; 0 where there is none."""
    path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    values = [word for _, value in parse_qsl(query) for word in re.split("[,:]", value)]
    numbers = [match[1] for word in [*path.split("/"), *values] if (match := _LONG_NUMBER.fullmatch(word))]
    return next((len(digits) for digits in numbers if len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST), 0)


def _refuse(environ: WSGIEnvironment, start: StartResponse, status: str, text: str) -> Iterable[bytes]:
    """The answer to a refused request: one line of text, or JSON below `API`."""
    is_api = environ.get("PATH_INFO", "").startswith(API)
    body = (json.dumps({"error": text}) if is_api else f"{text}\n").encode()
    kind = "application/json" if is_api else "text/plain; charset=utf-8"
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def _with_headers(start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        own = [(name, value) for name, value in headers if name.lower() not in _DROPPED]
        names = {name.lower() for name, _ in own}
        added = [(name, value) for name, value in _ADDED if name.lower() not in names]
        return start_response(status, [*own, *added], exc_info)

    return start
