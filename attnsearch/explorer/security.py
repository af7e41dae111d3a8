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
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Request, Response

from attnsearch.files import lies_in
from attnsearch.store.layout import ExperimentLayout

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

COOKIE = "attnsearch_token"
EXPERIMENT_COOKIE = "attnsearch_experiment"
"""Which experiment optuna-dashboard shows in this browser."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PREFIX = "/attention"
"""Where the explorer lies beside optuna-dashboard."""
API = f"{PREFIX}/api/"
"""Requests of scripts: errors are JSON too."""
_ASKING = re.compile(rf"{PREFIX}/(explain/[^/]+/[^/]+/\d+|score/[^/]+/[^/]+/\d+/.+)")
"""Paths whose POST changes nothing: its body is a photograph, and it makes the machine work, which no page from
elsewhere may start. So it passes without `--allow-edit`, but only with an Origin of this server.
"""
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
        answer = self._answer(Request(environ))
        return (self._app if answer is None else answer)(environ, _with_headers(start_response))

    def _answer(self, request: Request) -> Response | None:
        """The answer to a request that must not reach the app; None for one that may."""
        if not self._is_known(request.environ.get("HTTP_HOST", "")):
            return _refuse(request, 403, "this server does not answer to that host name")
        if n_digits := _digits_of_too_large(request):
            return _refuse(request, 400, f"a number of an address must fit into 64 bits, got one of {n_digits} digits")
        answer = None if self._token is None else self._check_token(request, self._token)
        return self._check_change(request) if answer is None and request.method not in _READING else answer

    def _check_token(self, request: Request, token: str) -> Response | None:
        has_cookie, gives_token = (
            hmac.compare_digest(text.encode(errors="replace"), token.encode())
            for text in (request.cookies.get(COOKIE, ""), request.args.get("token", ""))
        )
        if gives_token and request.method in _READING:
            return _move_to_cookie(request, token)  # an address that is shared must not carry it
        if gives_token or not has_cookie:
            return _refuse(request, 403, "open the address with the token that the server printed")
        return None

    def _check_change(self, request: Request) -> Response | None:
        is_asking = request.method == "POST" and _ASKING.fullmatch(request.path) is not None
        if not (self._allow_edit or is_asking):
            return _refuse(request, 405, "read-only; start the dashboard with --allow-edit")
        if request.headers.get("Origin") != f"{request.scheme}://{request.environ['HTTP_HOST']}":
            return _refuse(request, 403, "changes must come from a page of this server")
        return None

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        return name in self._hosts or (self._token is not None and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _move_to_cookie(request: Request, token: str) -> Response:
    """Takes the token out of the address, into a cookie; the path stays on this server."""
    rest = urlencode([(key, value) for key, value in request.args.items(multi=True) if key != "token"])
    place = f"/{quote(request.path.lstrip('/'))}{'?' if rest else ''}{rest}"
    response = Response(status=303, headers={"Location": place})
    response.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
    return response


def _digits_of_too_large(request: Request) -> int:
    """The number of digits of an integer in the address that is too large for a database; 0 where there is none."""
    values = [word for _, value in request.args.items(multi=True) for word in re.split("[,:]", value)]
    numbers = [match[1] for word in [*request.path.split("/"), *values] if (match := _LONG_NUMBER.fullmatch(word))]
    return next((len(digits) for digits in numbers if len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST), 0)


def wants_json(request: Request) -> bool:
    """Whether a script of the explorer asks, which reads errors as JSON."""
    return request.path.startswith(API) or (request.method == "POST" and request.path.startswith(f"{PREFIX}/"))


def _refuse(request: Request, status: int, text: str) -> Response:
    """The answer to a refused request: one line of text, or JSON for scripts."""
    if wants_json(request):
        return Response(json.dumps({"error": text}), status, mimetype="application/json")
    return Response(f"{text}\n", status, mimetype="text/plain")


def without_scripts(app: WSGIApplication, experiment: ExperimentLayout) -> WSGIApplication:
    """Serves attached files so that none runs as a page of this server: an HTML artifact may hold scripts.

    A file that is missing, or lies outside of the experiment behind a link in copied results, is not found.
    """

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/artifacts"):
            return app(environ, start_response)
        path = experiment.artifacts / environ["PATH_INFO"].rpartition("/")[2]
        if not (lies_in(path, experiment.artifacts) and lies_in(path, experiment.directory)):
            return NotFound()(environ, start_response)
        return app(environ, _with_headers(start_response, [("Content-Security-Policy", "sandbox")]))

    return call


def _with_headers(start_response: StartResponse, more: Iterable[tuple[str, str]] = _ADDED) -> StartResponse:
    """Adds headers that an answer lacks, and drops what would let other pages read it."""

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        own = [(name, value) for name, value in headers if name.lower() not in _DROPPED]
        names = {name.lower() for name, _ in own}
        added = [(name, value) for name, value in more if name.lower() not in names]
        return start_response(status, [*own, *added], exc_info)

    return start
