from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.errors import ConfigError
from attnsearch.files import is_temporary, temporary_path
from attnsearch.store.layout import ExperimentLayout, StudyLayout, is_live_state


def relative(layout: StudyLayout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def test_shared_files_bear_the_documented_names(layout: StudyLayout) -> None:
    paths = [layout.database, layout.artifacts, layout.study_yaml, layout.classes_csv, layout.published_json]

    assert [relative(layout, path) for path in paths] == [
        "CUB/hypSearch.db",
        "CUB/artifacts",
        "CUB/br_npa/study.yaml",
        "CUB/br_npa/classes.csv",
        "CUB/br_npa/published.json",
    ]


def test_published_files_are_those_of_this_study_whatever_the_epoch(layout: StudyLayout) -> None:
    mine = [layout.published(3).model_csv("val"), layout.published(12).archive().maps]
    mine.append(layout.pareto(7, 3).model_csv("test"))
    mine += [temporary_path(path) for path in mine]  # a publication was cut off
    others = [layout.shared.study("br_npa_2").published(3).model_csv("val"), layout.trial(3).best]
    for path in (*mine, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert sorted(layout.published_files()) == sorted(mine)


def test_pareto_trial_keeps_its_set_in_its_own_folder(layout: StudyLayout) -> None:
    path = layout.pareto(7, 12).model_csv("test")

    assert relative(layout, path) == "CUB/br_npa/pareto/00007/modelbr_npa_epoch12_test.csv"


@pytest.mark.parametrize(
    "value", ["", "a/b", "..", "../x", ".hidden", "a..b", "a b", "é", "a\n", "a\x00", "C:\\x", "x" * 101]
)
def test_name_that_cannot_be_a_folder_is_refused_with_key_and_value(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^experiment ") as caught:
        StudyLayout(Path("results"), value, "study")

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["a", "br_npa-1.5", "_x", "-x", "x" * 100])
def test_name_of_allowed_letters_is_taken(value: str) -> None:
    assert StudyLayout(Path("results"), value, value).study_dir == Path("results", value, value)


@pytest.mark.parametrize("value", ["artifacts", "figures", "hypSearch.db", "br_npa_epoch3", "a/b"])
def test_study_name_that_meets_other_files_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^study .*'{value}'"):
        StudyLayout(Path("results"), "CUB", value)


def test_experiment_lists_its_studies_by_name(layout: StudyLayout) -> None:
    experiment = ExperimentLayout.at(layout.experiment_dir)
    assert experiment.studies() == []
    for name in ("tern", "gull"):
        path = layout.shared.study(name).study_yaml
        path.parent.mkdir(parents=True)
        path.touch()
    layout.artifacts.mkdir()

    assert [study.study for study in experiment.studies()] == ["gull", "tern"]
    assert experiment.database == layout.database


def test_experiment_lists_no_folder_that_cannot_be_a_study(layout: StudyLayout) -> None:
    path = layout.experiment_dir / "old copy" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.touch()

    assert layout.shared.studies() == []


def test_thumbnails_of_ids_that_differ_in_suffix_only_stay_apart(layout: StudyLayout) -> None:
    names = {layout.thumbnail(image_id) for image_id in ("a/x.png", "a/x.jpg")}

    assert {path.relative_to(layout.thumbnails).as_posix() for path in names} == {"a/x.png.jpg", "a/x.jpg.jpg"}


@pytest.mark.parametrize("image_id", ["", "/etc/x.jpg", "../../x.jpg", "a/../../x.jpg"])
def test_thumbnail_id_that_leads_out_of_the_folder_is_refused(layout: StudyLayout, image_id: str) -> None:
    with pytest.raises(ValueError, match=f"got '{image_id}'"):
        layout.thumbnail(image_id)


def test_temporary_names_are_fresh_hidden_and_recognised(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    one, other = temporary_path(path), temporary_path(path)

    assert one != other
    assert one.parent == tmp_path
    assert one.name.startswith(".")
    assert is_temporary(one)
    assert not is_temporary(path)


def test_side_files_and_locks_are_live_state(layout: StudyLayout) -> None:
    side_file = layout.database.with_name(layout.database.name + "-wal")

    assert [is_live_state(path) for path in (side_file, layout.ask_lock, layout.database)] == [True, True, False]
