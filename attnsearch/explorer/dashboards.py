"""optuna-dashboard at the root of the server, for each experiment: a cookie of the browser tells which one it shows.

Its pages ask for absolute paths such as `/api/studies`, so that an experiment cannot have a path of its own.
`/attention/optuna/EXPERIMENT` sets the cookie, and every page of the explorer links to its own experiment there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import optuna_dashboard
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from attnsearch.errors import AttnSearchError, StoreError
from attnsearch.explorer.security import EXPERIMENT_COOKIE, PREFIX, without_scripts
from attnsearch.files import stamp_of
from attnsearch.results.dashboard import DashboardStorage, artifact_store
from attnsearch.results.reader import Results
from attnsearch.search.handle import open_database
from attnsearch.store.layout import ExperimentLayout

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)


class Dashboards:
    """One WSGI app of all experiments whose database can be read; each dashboard is built when it is first asked for.

    Attributes:
        first: the experiment whose database was written last, which is shown without a cookie; None where no database
            can be read.
        names: of all experiments that can be shown.
    """

    def __init__(self, results: Results, *, allow_edit: bool) -> None:
        self._results, self._allow_edit = results, allow_edit
        readable = [one for one in results.experiments.values() if one.studies() and _has_database(results, one)]
        newest = max(readable, key=lambda one: (stamp_of(one.database)[0][1], one.experiment), default=None)
        self.first = None if newest is None else newest.experiment
        self._experiments = {one.experiment: one for one in readable}
        self.names = frozenset(self._experiments)
        self._apps: dict[str, WSGIApplication] = {}
        if newest is not None:
            self._app_of(newest)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        experiment = self._experiments.get(self._asked(environ))
        app = redirect(f"{PREFIX}/") if experiment is None else self._app_of(experiment)
        return app(environ, start_response)

    def _asked(self, environ: WSGIEnvironment) -> str:
        """The experiment of the cookie, or the first one where that is none of ours."""
        named = unquote(Request(environ).cookies.get(EXPERIMENT_COOKIE, ""))
        return named if named in self._experiments else self.first or ""

    def _app_of(self, experiment: ExperimentLayout) -> WSGIApplication:
        name = experiment.experiment
        if name not in self._apps:
            dashboard = _with_reason(
                _dashboard(self._results, experiment, allow_edit=self._allow_edit), self._results, experiment
            )
            self._apps[name] = _unless_deleted(without_scripts(dashboard, experiment), experiment)
        return self._apps[name]


def _unless_deleted(app: WSGIApplication, experiment: ExperimentLayout) -> WSGIApplication:
    """Answers with one line where results were deleted while they are open."""
    gone = Response(f"the results of {experiment.experiment} are no longer there\n", status=410, mimetype="text/plain")

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return (app if experiment.directory.is_dir() else gone)(environ, start_response)

    return call


def _with_reason(app: WSGIApplication, results: Results, experiment: ExperimentLayout) -> WSGIApplication:
    """Answers with the reason where optuna-dashboard fails, not with its `internal server error` and a traceback."""

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
        if not has_failed:
            return body
        reason = json.dumps({"reason": _error_in(results, experiment)})  # as optuna-dashboard's own pages expect it
        return Response(reason, status=503, mimetype="application/json")(environ, start_response)

    return call


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
    app = optuna_dashboard.wsgi(DashboardStorage(storage, experiment), artifact_store=artifact_store(experiment))
    app.config["catchall"] = False  # Bottle would print a traceback and answer with another one
    logging.getLogger(optuna_dashboard.__name__).addHandler(logging.NullHandler())  # and so would its JSON pages
    typed: WSGIApplication = app
    return typed


def _has_database(results: Results, experiment: ExperimentLayout) -> bool:
    try:
        results.shared.databases.storage(results.shared.databases.shared_url(experiment))
    except StoreError as error:
        logger.warning("%s: %s", experiment.experiment, error)
        return False
    return True
