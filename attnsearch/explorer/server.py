"""One server: optuna-dashboard at the root, the attention explorer beside it, the guard in front of both."""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.utils import redirect

from attnsearch.errors import AttnSearchError, ConfigError, StoreError
from attnsearch.explorer.connections import MAX_WAITING, Server
from attnsearch.explorer.security import LOOPBACK, PREFIX, Guard, new_token
from attnsearch.explorer.views import create_explorer
from attnsearch.files import lies_in
from attnsearch.results.databases import StudyDatabases
from attnsearch.results.optuna_storage import DashboardStorage
from attnsearch.results.reader import Results
from attnsearch.results.shared import SharedReads
from attnsearch.search.storage import open_database
from attnsearch.store.layout import ExperimentLayout

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

HIGHEST_PORT = 65535


@dataclass(frozen=True)
class RunningServer:
    """A server that listens already; `serve_forever` of `server` blocks.

    Attributes:
        url: of the explorer, with the token if one is needed.
        dashboard_of: the experiment that optuna-dashboard shows at the root; None if there is no database.
        token: what a browser must show first, or None.
    """

    server: Server
    url: str
    dashboard_of: str | None
    token: str | None


def open_server(
    experiments: Mapping[str, ExperimentLayout],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    allow_edit: bool = False,
    storage: str | None = None,
) -> RunningServer:
    """Binds the address and builds both apps; no request is answered before `serve_forever`.

    Args:
        experiments: what is shown; optuna-dashboard shows the one whose database was written last.
        host: an address of this machine; anything but the loopback asks for a token.
        port: 0 takes a free one.
        allow_edit: lets optuna-dashboard change studies.
        storage: the database that a person named; None is each experiment's own file.
    Raises:
        ConfigError: the port is taken, or there is no such address.
        StoreError: a database cannot be read.
    """
    listener = bind(host, port)
    try:
        token = None if host in LOOPBACK else new_token()
        app, dashboard_of = build_app(
            experiments,
            hosts=(*LOOPBACK, host, socket.gethostname()),
            token=token,
            allow_edit=allow_edit,
            storage=storage,
        )
        port = listener.getsockname()[1]
        server = Server(listener, app)
    finally:
        listener.close()  # the server has a copy of its own
    name = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={token}"
    return RunningServer(server, f"http://{name}:{port}{PREFIX}/{query}", dashboard_of, token)


def build_app(
    experiments: Mapping[str, ExperimentLayout],
    *,
    hosts: Iterable[str] = LOOPBACK,
    token: str | None = None,
    allow_edit: bool = False,
    storage: str | None = None,
) -> tuple[WSGIApplication, str | None]:
    """The whole as one WSGI app, and the experiment that optuna-dashboard shows."""
    results = Results(experiments, SharedReads(StudyDatabases(storage)))
    for study in results:
        with suppress(AttnSearchError):  # its page shows the error
            study.rows  # noqa: B018  read now, so that the first page of a large study is not slow
    newest = _written_last(results)
    root: WSGIApplication = _to_explorer
    if newest is not None:
        dashboard = _explained(_dashboard(results, newest, allow_edit=allow_edit), results, newest)
        root = _while_there(_contained(dashboard, newest), newest)
    explorer = create_explorer(results, dashboard_of=None if newest is None else newest.experiment)
    both = DispatcherMiddleware(root, {PREFIX: _at_prefix(explorer)})
    guarded = Guard(both, hosts=hosts, token=token, allow_edit=allow_edit)
    return guarded, None if newest is None else newest.experiment


def _at_prefix(app: WSGIApplication) -> WSGIApplication:
    """Gives the path back that the dispatcher took off: the explorer's routes name their prefix themselves."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["SCRIPT_NAME"] + (environ["PATH_INFO"] or "/")
        return app({**environ, "SCRIPT_NAME": "", "PATH_INFO": path}, start_response)

    return call


def _to_explorer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return redirect(f"{PREFIX}/")(environ, start_response)


def _contained(app: WSGIApplication, experiment: ExperimentLayout) -> WSGIApplication:
    """Keeps an attached file from running as a page of this server: an HTML artifact may hold scripts.

    A file that is missing, or lies outside of the experiment behind a link in copied results, is not found.
    """
    folder = experiment.artifacts

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/artifacts"):
            return app(environ, start_response)
        path = folder / environ["PATH_INFO"].rpartition("/")[2]
        if not (lies_in(path, folder) and lies_in(path, experiment.directory)):
            return NotFound()(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            return start_response(status, [*headers, ("Content-Security-Policy", "sandbox")], exc_info)

        return app(environ, start)

    return call


def _while_there(app: WSGIApplication, experiment: ExperimentLayout) -> WSGIApplication:
    """Says in one line that results were deleted while they are open."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if experiment.directory.is_dir():
            return app(environ, start_response)
        body = f"the results of {experiment.experiment} are no longer there\n".encode()
        start_response("410 Gone", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return call


def _explained(app: WSGIApplication, results: Results, experiment: ExperimentLayout) -> WSGIApplication:
    """Says in one line why optuna-dashboard fails, in place of its `internal server error` and its traceback."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        has_failed = False

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal has_failed
            has_failed = status.startswith("500")
            return (lambda _: None) if has_failed else start_response(status, headers, exc_info)

        try:
            body = app(environ, start)
        except Exception:
            has_failed = True
            logger.debug("optuna-dashboard failed at %s", environ["PATH_INFO"], exc_info=True)
        return _unavailable(_error_in(results, experiment), start_response) if has_failed else body

    return call


def _unavailable(text: str, start_response: StartResponse) -> Iterable[bytes]:
    body = json.dumps({"reason": text}).encode()  # as optuna-dashboard's own pages expect it
    start_response(
        "503 Service Unavailable", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


def _error_in(results: Results, experiment: ExperimentLayout) -> str:
    for layout in experiment.studies():
        try:
            results.shared.databases.rows(layout)
        except AttnSearchError as error:
            return str(error)
    return f"optuna-dashboard cannot show {experiment.database}; the explorer at {PREFIX}/ may"


def _dashboard(results: Results, experiment: ExperimentLayout, *, allow_edit: bool) -> WSGIApplication:
    """optuna-dashboard on a cached storage, which can write only with `allow_edit`."""
    databases = results.shared.databases
    url = databases.shared_url(experiment)
    storage = open_database(url).storage if allow_edit else databases.storage(url)
    store = FileSystemArtifactStore(experiment.artifacts) if experiment.artifacts.is_dir() else None
    app = optuna_dashboard.wsgi(DashboardStorage(storage, experiment), artifact_store=store)
    app.config["catchall"] = False  # Bottle would print a traceback and answer with another one
    logging.getLogger(optuna_dashboard.__name__).addHandler(logging.NullHandler())  # and so would its JSON pages
    typed: WSGIApplication = app
    return typed


def _written_last(results: Results) -> ExperimentLayout | None:
    with_database = [one for one in results.experiments.values() if one.studies() and _has_database(results, one)]
    return max(with_database, key=lambda one: (_written(one.database), one.experiment), default=None)


def _written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _has_database(results: Results, experiment: ExperimentLayout) -> bool:
    try:
        results.shared.databases.storage(results.shared.databases.shared_url(experiment))
    except StoreError as error:
        logger.warning("%s: %s", experiment.experiment, error)
        return False
    return True


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on the address.

    Raises:
        ConfigError: the port is taken or not allowed, or there is no such address.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise ConfigError(f"--port must lie between 0 and {HIGHEST_PORT}, got {port}")
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_WAITING)
    except OSError as error:
        if listener is not None:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"--port {port} is taken on {host}; choose another, or 0 for a free one") from error
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --host or --port") from error
    return listener
