"""Studies are created once, and opened again only with the same settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from attnsearch.config.load import LoadedStudy, study_of_one, with_settings
from attnsearch.errors import ConfigError
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import SearchPlan, layout_of, study_file
from attnsearch.search.study import (
    IDENTITY,
    SCORES_KEY,
    check_unchanged,
    create_study,
    derive_seed,
)
from tests.search.studies import ON_EACH_DATABASE, identity_of, loaded_study

Open = Callable[..., StudyHandle]


@ON_EACH_DATABASE
def test_study_opens_again_with_the_same_settings(open_tiny: Open) -> None:
    handle = open_tiny()
    again = create_study(handle.database.storage, handle.loaded.study, identity_of(handle.loaded))
    assert again.user_attrs == handle.study.user_attrs


@ON_EACH_DATABASE
def test_another_base_is_refused_with_the_difference(open_tiny: Open) -> None:
    handle = open_tiny()
    changed = type(handle.loaded)(handle.loaded.study, with_settings(handle.loaded.experiment, {"model.n_vectors": 5}))
    with pytest.raises(
        ConfigError, match=r"this search was started with other settings(.|\n)*\n  model\.n_vectors: was 3, is 5"
    ):
        create_study(handle.database.storage, changed.study, identity_of(changed))


def test_another_space_is_refused_with_the_difference(open_tiny: Open) -> None:
    handle = open_tiny()
    changed = loaded_study(space={"train.optimizer.lr": {"kind": "float", "low": 1e-3, "high": 1e-2}})
    with pytest.raises(ConfigError, match=r"space\.train\.optimizer\.lr\.low: was 0\.0001, is 0\.001"):
        create_study(handle.database.storage, changed.study, identity_of(changed))


def test_another_validation_split_is_refused(open_tiny: Open) -> None:
    handle = open_tiny()
    with pytest.raises(ConfigError, match='validation split: was "split-a", is "split-b"'):
        create_study(handle.database.storage, handle.loaded.study, identity_of(handle.loaded, val_hash="split-b"))


def test_values_of_a_difference_are_as_they_are_typed(open_tiny: Open) -> None:
    handle = open_tiny()
    settings = {"train.teacher": {"checkpoint": "a.pt"}, "data.image_size_px": [32, 48]}
    changed = LoadedStudy(handle.loaded.study, with_settings(handle.loaded.experiment, settings))
    with pytest.raises(ConfigError) as caught:
        check_unchanged(handle.study, identity_of(changed), handle.layout)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{handle.layout.study_yaml}: this search was started with other settings")
    assert "  data.image_size_px: was 32, is [32, 48]" in lines
    assert any(line.startswith('  train.teacher: was null, is {"checkpoint": "a.pt"') for line in lines)


def test_name_of_another_experiment_or_kind_is_refused_without_a_difference(open_tiny: Open) -> None:
    handle = open_tiny()
    elsewhere = with_settings(handle.loaded.experiment, {"experiment": "there"})
    for other in (LoadedStudy(handle.loaded.study, elsewhere), study_of_one(handle.loaded.experiment)):
        with pytest.raises(ConfigError, match=r"^name: 'hunt' is a search of the experiment 'here'.*name=$"):
            check_unchanged(handle.study, identity_of(other))


def test_name_of_a_training_is_refused_to_a_search(open_tiny: Open) -> None:
    handle = open_tiny()
    handle.study.set_user_attr(IDENTITY, identity_of(study_of_one(handle.loaded.experiment)))
    with pytest.raises(ConfigError, match=r"^name: 'hunt' is a training of the experiment 'here'.*name=$"):
        check_unchanged(handle.study, identity_of(handle.loaded))


def test_budget_may_change(open_tiny: Open) -> None:
    handle = open_tiny()
    larger = loaded_study(n_trials=9)
    create_study(handle.database.storage, larger.study, identity_of(larger))
    assert handle.study.user_attrs[IDENTITY] == identity_of(larger)


@ON_EACH_DATABASE
def test_trials_are_enqueued_once(open_tiny: Open) -> None:
    point = {"train.optimizer.lr": 2e-3}
    handle = open_tiny(enqueue=[point])
    create_study(handle.database.storage, handle.loaded.study, identity_of(handle.loaded))
    assert [trial.system_attrs["fixed_params"] for trial in handle.trials(TrialState.WAITING)] == [point]


def test_seeds_depend_on_all_parts_and_stay() -> None:
    assert derive_seed(1, "trial", 2) == derive_seed(1, "trial", 2)
    assert (
        len({derive_seed(seed, kind, number) for seed in (0, 1) for kind in ("trial", "sampler") for number in (0, 1)})
        == 8
    )


def test_changed_study_is_refused_before_anything_is_written(open_tiny: Open) -> None:
    handle = open_tiny()
    changed = loaded_study(space={"train.optimizer.lr": {"kind": "float", "low": 1e-3, "high": 1e-2}})
    with pytest.raises(ConfigError, match=r"space\.train\.optimizer\.lr\.low: was 0\.0001, is 0\.001"):
        SearchPlan.check(changed, handle.layout.root)
    assert not handle.layout.study_yaml.exists()


def test_folder_of_a_plain_run_is_refused(tmp_path: Path) -> None:
    loaded = loaded_study()
    layout_of(loaded, tmp_path).trial(0).directory.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"here/hunt holds trials that this database does not know"):
        SearchPlan.check(loaded, tmp_path)


@pytest.mark.parametrize("study", [{"monitor": "val/acuracy"}, {"constraints": {"val/acuracy": {"at_least": 0.5}}}])
def test_unknown_metric_is_refused_with_the_near_name(tmp_path: Path, study: dict[str, object]) -> None:
    loaded = loaded_study(**study)
    with pytest.raises(ConfigError, match=r"no metric 'val/acuracy' \(did you mean 'accuracy'\?\)"):
        SearchPlan.check(loaded, tmp_path)


def test_credentials_stay_out_of_the_study_file(tmp_path: Path) -> None:
    for storage, shown in {
        "postgresql://me:secret@host/db": "postgresql://***:***@host/db",
        "postgresql://$PGUSER:$PGPASSWORD@host/db": "postgresql://$PGUSER:$PGPASSWORD@host/db",
        "postgresql://host/db?user=me&password=${PGPASSWORD}": "postgresql://host/db?user=***&password=${PGPASSWORD}",
        "postgresql://me:se$secret@$PGHOST/db": "postgresql://***:***@$PGHOST/db",
        "$STORAGE_URL": "$STORAGE_URL",
    }.items():
        text = study_file(loaded_study(storage=storage))
        assert f"storage: {shown}" in text
        assert "secret" not in text


def test_study_that_is_scored_differently_is_another_study(open_tiny: Open) -> None:
    handle = open_tiny()
    changed = with_settings(handle.loaded.experiment, {"evaluation.scores.n_steps": 4})
    with pytest.raises(ConfigError, match=r"n_steps: was null, is 4"):
        check_unchanged(handle.study, identity_of(LoadedStudy(handle.loaded.study, changed)))


def test_study_from_before_there_were_scores_goes_on(open_tiny: Open) -> None:
    handle = open_tiny()
    stored = {key: value for key, value in handle.study.user_attrs[IDENTITY].items() if key != SCORES_KEY}
    handle.study.set_user_attr(IDENTITY, stored)
    check_unchanged(handle.study, identity_of(handle.loaded))


@pytest.mark.parametrize(("objective", "is_refused"), [("val/relevance_gain", True), ("val/accuracy", False)])
def test_study_that_chooses_by_scores_keeps_to_their_version(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch, objective: str, is_refused: bool
) -> None:
    handle = open_tiny(objectives={objective: "maximize"})
    monkeypatch.setattr("attnsearch.search.study.VERSION", 99)
    if not is_refused:
        check_unchanged(handle.study, identity_of(handle.loaded))
        return
    with pytest.raises(ConfigError, match=r"evaluation\.scores\.version: was \d+, is 99"):
        check_unchanged(handle.study, identity_of(handle.loaded))


def test_other_data_under_the_same_settings_are_told_in_one_line(open_tiny: Open) -> None:
    handle = open_tiny()
    other = {**identity_of(handle.loaded, val_hash="0" * 64), "classes": ["x", "y"]}
    names = handle.study.user_attrs[IDENTITY]["classes"]
    with pytest.raises(ConfigError) as caught:
        check_unchanged(handle.study, other, handle.layout)
    assert str(caught.value).startswith(f"{handle.layout.experiment_dir} holds other classes ({names[0]}")
    assert str(caught.value).endswith("); add experiment=NAME")
