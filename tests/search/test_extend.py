"""A study is extended: what its trials become, what each sampler draws then, what is refused, and a cut-off import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from werkzeug.test import Client

from attnsearch.cli.app import main
from attnsearch.config.load import LoadedStudy, load_study
from attnsearch.errors import ConfigError, StoreError
from attnsearch.explorer.server import build_app
from attnsearch.results.progress import is_done
from attnsearch.results.reader import find_experiments
from attnsearch.results.reader import load_study as read_study
from attnsearch.results.study import StudyReader
from attnsearch.search import extend
from attnsearch.search.brackets import BRACKET, n_finished, trials_left
from attnsearch.search.context import Worker
from attnsearch.search.extend import Extension, extend_study
from attnsearch.search.handle import StudyHandle
from attnsearch.search.patience import why_stopped
from attnsearch.search.plan import SearchPlan, layout_of
from attnsearch.search.queue import claim_next
from attnsearch.search.run import run_study
from attnsearch.search.samplers import sampler_of
from attnsearch.search.space import distribution, suggest_settings
from attnsearch.search.study import IMPORTED_FROM, take_trial
from attnsearch.store.layout import StudyLayout
from attnsearch.types import HALVES
from tests.search.studies import EXPERIMENT, HALVING, play_leg

OLD_SPACE: dict[str, Any] = {
    "train.optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "train.optimizer.name": {"kind": "choice", "choices": ["adam", "sgd"]},
    "train.optimizer.momentum": {"kind": "float", "low": 0.0, "high": 0.9, "when": {"train.optimizer.name": ["sgd"]}},
}
NEW_SPACE: dict[str, Any] = {
    "train.optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "train.optimizer.name": {"kind": "choice", "choices": ["adam", "sgd", "adamw"]},
    "train.optimizer.momentum": {"kind": "float", "low": 0.0, "high": 0.95, "when": {"train.optimizer.name": ["sgd"]}},
    "train.label_smoothing": {"kind": "float", "low": 0.0, "high": 0.2},
}


def study_of(name: str, space: dict[str, Any], *, base: dict[str, Any] | None = None, **fields: Any) -> LoadedStudy:
    return load_study({"name": name, "base": base or EXPERIMENT, "space": space, "n_trials": 4, **fields})


def old_trial(number: int, value: float, **settings: Any) -> optuna.trial.FrozenTrial:
    """A complete trial of the old study; its learning rates grow towards the end of the range, as its values do."""
    params = {"train.optimizer.lr": 10 ** (-4 + number / 6), "train.optimizer.name": "adam", **settings}
    distributions = {key: distribution(study_of("old", OLD_SPACE).study.space[key]) for key in params}
    return optuna.trial.create_trial(
        value=value,
        params=params,
        distributions=distributions,
        user_attrs={"val/accuracy": value, "best_epoch": 1, "epochs_run": 2, "ended_at": float(number)},
        intermediate_values={0: value / 2, 1: value},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Results with a study of twelve complete trials that nobody has trained."""
    loaded = study_of("old", OLD_SPACE, n_trials=12)
    handle = SearchPlan.check(loaded, tmp_path).open()
    with closing(handle.database):
        handle.study.add_trials([old_trial(number, number / 20) for number in range(12)])
        handle.study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
        handle.study.enqueue_trial({})
    return tmp_path


def layout_in(root: Path, name: str = "old") -> StudyLayout:
    return StudyLayout(root, "here", name)


def extended(root: Path, name: str = "new", space: dict[str, Any] | None = None, **fields: Any) -> Extension:
    return extend_study(study_of(name, space or NEW_SPACE, **fields), layout_in(root), root=root)


@pytest.fixture
def opened(root: Path) -> Iterator[Callable[..., StudyHandle]]:
    handles = []

    def make(**fields: Any) -> StudyHandle:
        handles.append(extended(root, **fields).plan.open())
        return handles[-1]

    yield make
    for handle in handles:
        handle.database.close()


def test_imported_trials_keep_values_curves_and_times_under_the_new_space(root: Path) -> None:
    done = extended(root)
    assert (done.source, done.n_imported, done.n_left) == ("here/old", 12, 2)
    with closing((handle := done.plan.open()).database):
        trials = handle.trials()
    with closing((old := SearchPlan.check(study_of("old", OLD_SPACE, n_trials=12), root).open()).database):
        before = old.trials(TrialState.COMPLETE)
    assert [trial.user_attrs[IMPORTED_FROM] for trial in trials] == [f"here/old:{number}" for number in range(12)]
    for one, other in zip(trials, before, strict=True):
        assert (one.values, one.intermediate_values) == (other.values, other.intermediate_values)
        assert (one.datetime_start, one.datetime_complete) == (other.datetime_start, other.datetime_complete)
        assert one.params == {**other.params, "train.label_smoothing": 0.0}  # the value of the base
        assert one.user_attrs["folder"] == f"here/new/trials/{one.number:05d}"
        assert one.user_attrs["ended_at"] == other.user_attrs["ended_at"]
    assert {str(trial.distributions["train.optimizer.lr"]) for trial in trials} == {
        "FloatDistribution(high=0.1, log=True, low=1e-05, step=None)"
    }


@pytest.mark.parametrize(
    "fields",
    [{"sampler": {"name": name}} for name in ("tpe", "gp", "random")] + [{"sampler": {"name": "tpe"}, **HALVING}],
    ids=["tpe", "gp", "random", "tpe with halving"],
)
def test_each_sampler_draws_outside_of_the_old_range_new_choices_and_the_new_axis(
    opened: Callable[..., StudyHandle], fields: dict[str, Any]
) -> None:
    handle, drawn = opened(**fields), []
    for number in range(12, 32):
        handle.study.sampler = sampler_of(handle.loaded.study, seed=number)
        trial = take_trial(handle.study, None)
        drawn.append(suggest_settings(trial, handle.loaded.study.space))
        # what is outside of the old range is better, as in a study whose range was too narrow
        handle.study.tell(trial, float(drawn[-1]["train.optimizer.lr"] or 0) ** 0.1)
    rates = [float(str(settings["train.optimizer.lr"])) for settings in drawn]
    assert sum(not 1e-4 <= rate <= 1e-2 for rate in rates) > 2
    assert max(rates) > 2e-2
    assert "adamw" in {settings["train.optimizer.name"] for settings in drawn}
    assert len({settings["train.label_smoothing"] for settings in drawn} - {0.0}) > 2


def test_budget_counts_the_trials_that_the_new_study_runs_itself(opened: Callable[..., StudyHandle]) -> None:
    handle = opened(n_trials=4)
    config = handle.loaded.study
    assert (n_finished(handle.trials()), trials_left(handle.trials(), config)) == (0, 4)
    claim = claim_next(handle, Worker("here:1:a", None))
    assert not isinstance(claim, str)
    assert claim.trial.number == 12
    reader = read_study(handle.layout.study_dir)
    assert (reader.summary().n_done, reader.summary().n_trials, reader.summary().state) == (0, 4, "running")
    assert reader.progress().n_done == 0
    assert not any(map(is_done, reader.rows.trials))


def test_imported_trials_are_no_idle_ones(opened: Callable[..., StudyHandle]) -> None:
    """A study that ended as nothing improved can be extended with the same patience."""
    handle = opened(patience=2)
    assert why_stopped(read_study(handle.layout.study_dir).rows, 2) is None
    for _ in range(2):
        handle.study.tell(handle.study.ask(), 0.0)
    assert "2 trials in a row did not improve" in str(why_stopped(read_study(handle.layout.study_dir).rows, 2))


def test_trials_of_halving_are_in_no_bracket_of_the_new_study(tmp_path: Path) -> None:
    fields = {"n_trials": 8, **HALVING}
    handle = SearchPlan.check(study_of("old", {}, **fields), tmp_path).open()
    with closing(handle.database):
        for accuracy in (0.5, 0.75, 0.25, 0.8, 0.85, 0.9):
            play_leg(handle, {"val/accuracy": accuracy, f"val/accuracy{HALVES[0]}": 0.5})
        states = [trial.state for trial in handle.trials()]
    done = extended(tmp_path, space={"train.optimizer.lr": NEW_SPACE["train.optimizer.lr"]}, **fields)
    ended = [state for state in states if state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert TrialState.PRUNED in ended
    assert (done.n_imported, done.n_left) == (len(ended), len(states) - len(ended))
    with closing((new := done.plan.open()).database):
        assert [trial.state for trial in new.trials()] == ended
        assert not any(BRACKET in trial.user_attrs for trial in new.trials())
        assert play_leg(new, {"val/accuracy": 0.5}) == len(ended)
        assert new.trials()[-1].user_attrs[BRACKET] == 1


def with_base(**changes: Any) -> dict[str, Any]:
    return EXPERIMENT | {key: EXPERIMENT.get(key, {}) | value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": with_base(train={"epochs": 3})}, "train.epochs: here/old has 2, new has 3"),
        ({"base": with_base(data={"n_val_per_class": 3})}, "validation split: here/old has "),
        ({"base": with_base(data={"n_classes": 3})}, "classes: here/old has "),
        ({"objectives": {"val/cross_entropy": "minimize"}}, "objectives.val/accuracy: here/old has "),
        ({"constraints": {"val/cross_entropy": {"at_most": 1.0}}}, "constraints.val/cross_entropy: here/old has null"),
        ({"base": with_base(evaluation={"scores": {"n_random": 3}})}, "evaluation.scores.n_random: here/old has "),
        (
            {"space": NEW_SPACE | {"train.optimizer.lr": {"kind": "float", "low": 1e-3, "high": 0.1}}},
            "space.train.optimizer.lr: trials of here/old were trained with 0.0001 (trial 0), ",
        ),
        (
            {"space": {key: value for key, value in NEW_SPACE.items() if key != "train.optimizer.lr"}},
            "space.train.optimizer.lr: is missing, and here/old has searched it",
        ),
        (
            {"space": NEW_SPACE | {"train.optimizer.name": {"kind": "choice", "choices": ["sgd", "adamw"]}}},
            "space.train.optimizer.name: trials of here/old were trained with 'adam' (trial 0), which must lie in",
        ),
        (
            {"space": NEW_SPACE | {"train.label_smoothing": {"kind": "float", "low": 0.05, "high": 0.2}}},
            "space.train.label_smoothing: trials of here/old were trained with 0.0 (trial 0), which must lie in",
        ),
        (
            {"space": {"train.optimizer.name": NEW_SPACE["train.optimizer.name"]} | NEW_SPACE
             | {"train.optimizer.lr": {**NEW_SPACE["train.optimizer.lr"], "when": {"train.optimizer.name": ["sgd"]}}}},
            "space.train.optimizer.lr: trials of here/old were trained with 0.0001 (trial 0), ",
        ),
        ({"name": "old", "space": OLD_SPACE, "n_trials": 12}, "name: 'old' is the study that is extended"),
    ],
)  # fmt: skip
def test_what_the_trials_do_not_share_is_refused_before_anything_is_written(
    root: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        extended(root, **fields)
    assert message in str(caught.value)
    assert not layout_in(root, "new").study_dir.exists()


def test_other_version_of_the_scores_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"objectives": {"val/accuracy": "maximize", "val/relevance_gain": "maximize"}}
    with closing(SearchPlan.check(study_of("old", OLD_SPACE, **fields), tmp_path).open().database):
        monkeypatch.setattr("attnsearch.search.study.VERSION", 999)
    with pytest.raises(ConfigError, match=r"evaluation.scores.version: here/old has \d+, new has 999"):
        extended(tmp_path, **fields)


def test_unknown_study_and_a_study_with_trials_of_its_own_are_refused(root: Path) -> None:
    with pytest.raises(StoreError, match="'nothing' is not in its database"):
        extend_study(study_of("new", NEW_SPACE), layout_in(root, "nothing"), root=root)
    with closing((handle := SearchPlan.check(study_of("new", NEW_SPACE), root).open()).database):
        handle.study.tell(handle.study.ask(), 0.5)
    with pytest.raises(ConfigError, match="'new' has trials of its own"):
        extended(root)


def test_import_that_was_cut_off_is_no_search_and_continues(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, left = extend._copy_files, [3]

    def killed(*layouts: Any) -> None:
        left[0] -= 1
        copy(*layouts)
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(extend, "_copy_files", killed)
    with pytest.raises(KeyboardInterrupt):
        extended(root)
    with pytest.raises(ConfigError, match="'new' has 2 of 12 trials of here/old; continue the import"):
        run_study(study_of("new", NEW_SPACE), root=root, n_workers=0)
    monkeypatch.undo()
    for _ in range(2):  # a call after the last one changes nothing
        done = extended(root)
        assert done.n_imported == 12
    with closing((handle := done.plan.open()).database):
        names = [trial.user_attrs[IMPORTED_FROM] for trial in handle.trials()]
    assert names == [f"here/old:{number}" for number in range(12)]


def test_second_source_is_refused(root: Path) -> None:
    extended(root)
    extended(root, name="other")
    with pytest.raises(ConfigError, match="'new' has the trials of here/old, not those of here/other"):
        extend_study(study_of("new", NEW_SPACE), layout_in(root, "other"), root=root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results with a trained study, and the file of a study that extends it by two trials."""
    folder = tmp_path_factory.mktemp("trained")
    fields = {"n_trials": 2, "sampler": {"name": "random"}, "seed": 3}
    run_study(study_of("old", OLD_SPACE, **fields), root=folder / "results", n_workers=0)
    new = {"name": "new", "base": EXPERIMENT, "space": NEW_SPACE, **fields, "retention": {"best_k": 1}}
    (folder / "new.yaml").write_text(json.dumps(new))
    return folder / "results", folder / "new.yaml"


@pytest.fixture(scope="module")
def searched(trained: tuple[Path, Path]) -> StudyReader:
    """The study that extends the trained one, whose folder was deleted before the search."""
    root, path = trained
    assert main(["extend", "here/old", str(path), "--results", str(root)]) == 0
    shutil.rmtree(root / "here/old")
    run_study(load_study(str(path)), root=root, n_workers=0)
    return read_study(root / "here/new")


def test_search_runs_its_budget_after_the_imported_trials(searched: StudyReader) -> None:
    rows = searched.rows.trials
    assert [row.imported_from for row in rows] == ["here/old:0", "here/old:1", "", ""]
    assert [row.state for row in rows] == ["complete"] * 4
    assert (searched.summary().n_done, searched.summary().state) == (2, "finished")
    assert searched.trials["imported_from"].tolist()[:2] == ["here/old:0", "here/old:1"]


def test_readers_find_all_of_an_imported_trial_whose_own_study_is_deleted(searched: StudyReader) -> None:
    trial = searched.trial(1)
    assert len(trial.epochs) == 2
    assert trial.measured()["val/accuracy"] == trial.values["val/accuracy"]
    assert trial.config.train.label_smoothing == 0.0
    assert trial.maps("val").shape[0] == 4
    assert trial.checkpoint.is_file()  # compares its checksum with that in the database
    assert set(searched.scores["trial"]) == {0, 1, 2, 3}
    assert not trial.files.resumes()


@pytest.mark.parametrize(
    "words",
    [
        ("show", "new"), ("list",), ("evaluate", "new", "--trial", "1"), ("visualize", "new", "--trial", "1"),
        ("prune-files", "new", "--yes"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_commands_work_on_imported_trials(
    searched: StudyReader, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = searched.layout.root
    assert main([*words, "--results", str(root)]) == 0
    out = capsys.readouterr().out
    if words[0] == "show":
        assert "imported from" in out
        assert "here/old:1" in out


def test_pages_mark_imported_trials(searched: StudyReader, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = searched.layout.experiment_dir
    assert main(["report", str(experiment)]) == 0
    assert "imported from here/old:1" in (experiment / "report.html").read_text()
    app, _ = build_app(find_experiments(searched.layout.root))
    client = Client(app)
    assert "Imported from here/old:1" in client.get("/attention/trial/here/new/1").text
    trials = json.loads(client.get("/attention/api/study/here/new").text)["trials"]
    assert [trial["imported_from"] for trial in trials] == ["here/old:0", "here/old:1", "", ""]


def test_layout_of_the_new_study_is_that_of_its_file(trained: tuple[Path, Path]) -> None:
    root, path = trained
    assert layout_of(load_study(str(path)), root).study_dir == (root / "here/new").absolute()
