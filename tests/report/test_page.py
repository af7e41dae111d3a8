"""The report: what it says, that it needs nothing beside itself, and that it changes nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attnsearch.report.page as page_module
from attnsearch.config.evaluation import ScoreSettings
from attnsearch.errors import StoreError
from attnsearch.metrics.statistics import mean_interval
from attnsearch.report.charts import front_of_points
from attnsearch.report.facts import commands, read_facts
from attnsearch.report.page import (
    Report,
    build_report,
    camera_matrix_of,
    four_digits,
    p_value,
    save_figures,
)
from attnsearch.results.reader import load_study
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import make_table
from attnsearch.store.image_scores import write_score_files as write_table
from attnsearch.store.layout import StudyLayout
from attnsearch.store.score_journal import ImageScore
from attnsearch.types import SPLITS, Split
from tests.explorer.built import CLASSES, Built, build
from tests.explorer.built_reid import PLANTED, build_reid, planted_saliency, write_rankings
from tests.report.people import text_of
from tests.search.studies import build_halving


@pytest.fixture(scope="module")
def page(built: Built) -> str:
    return build_report(built.root).html


def write_faithfulness(layout: StudyLayout, number: int, shift: float, split: Split = "val") -> None:
    settings = ScoreSettings().identity()
    about = {"format": 1, "version": 1, "settings": settings, "split": split, "images": "x", "digest": ""}
    about |= {"grid": [4, 5], "checkpoint": {"epoch": 3}}
    values = shift + 0.1 * np.sin(np.arange(6.0) * (1 + shift))
    rows = [ImageScore(f"{row}.jpg", {"relevance_gain": float(value)}, {}) for row, value in enumerate(values)]
    write_table(layout.trial(number).scores(split), make_table(rows, [], {**about, "grid": [4, 5], "n_images": 6}))


def test_page_needs_nothing_beside_itself(page: str) -> None:
    loaded = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert len(loaded) > 10
    assert not [one for one in loaded if not one.startswith(("#", "data:image/"))]
    assert "<script" not in page
    assert len(page) < 2_000_000


def test_page_shows_every_trial_with_its_value(page: str) -> None:
    for number, accuracy in enumerate((0.5, 0.5571, 0.6143)):  # 0.5 + 0.4 n / 7
        assert re.search(rf'<td class="n">{number}</td><td>complete</td>\s*<td class="n">{accuracy}</td>', page)


def test_first_page_in_print_has_the_tables_and_images_of_which_none_is_shown_twice(page: str) -> None:
    summary = page[page.index('id="summary"') : page.index("</section>")]
    assert summary.count("<table>") == 2
    assert summary.count("<img ") == 1
    addresses = re.findall(r'<img src="([^"]+)"', page)
    assert len(set(addresses)) == len(addresses)
    assert "#summary { break-after: page; }" in page


def test_hostile_names_are_text(page: str) -> None:
    assert CLASSES[1] not in page
    assert html.escape(CLASSES[1], quote=False).replace("'", "&#39;") in page


def test_ids_of_the_charts_do_not_meet(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) > 50
    assert len(ids) == len(set(ids))
    used = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page) for name in pair if name}
    assert used <= set(ids)


def test_confused_classes_are_counted_in_both_directions(page: str) -> None:
    assert re.search(r'<td class="n">3</td><td class="n">1</td><td class="n">2</td><td class="n">0.5</td>', page)


def test_no_machine_path_is_in_the_page(page: str, built: Built) -> None:
    assert str(built.root.parent) not in page


def test_absent_scores_are_said_in_one_line(page: str) -> None:
    assert page.count("No maps were scored here") == 1


@pytest.mark.slow
def test_scores_become_intervals_and_tests(copied: Built) -> None:
    first = copied.layout
    run = StudyLayout(first.root, "here", "run")
    shutil.copytree(first.trial(0).directory, run.trial(0).directory)
    write_faithfulness(first, load_study(first.study_dir).best.number, 0.3)
    write_faithfulness(run, 0, 0.1)
    page = build_report(first.experiment_dir).html
    assert '<th title="relevance_gain">relevance gain (LeRF - MoRF)<span' in page
    pair = re.search(r"<td>hunt</td><td>run</td>\s*<td class=\"n\">([+-][\d.]+)</td>", page)
    expected = 0.2 + 0.1 * (np.sin(np.arange(6) * 1.3).mean() - np.sin(np.arange(6) * 1.1).mean())
    assert pair is not None
    assert float(pair[1]) == pytest.approx(expected, abs=6e-4)


@pytest.mark.slow
def test_scores_on_test_are_shown_once_every_scored_study_has_them(copied: Built) -> None:
    first = copied.layout
    run = StudyLayout(first.root, "here", "run")
    shutil.copytree(first.trial(0).directory, run.trial(0).directory)
    for split in SPLITS[1:]:
        write_faithfulness(first, load_study(first.study_dir).best.number, 0.3, split)
    write_faithfulness(run, 0, 0.1)
    assert "Means over 6 images of val" in build_report(first.experiment_dir).html
    write_faithfulness(run, 0, 0.1, "test")
    assert "Means over 6 images of test" in build_report(first.experiment_dir).html


@pytest.mark.slow
def test_importances_are_drawn_where_enough_trials_are_complete(tmp_path: Path) -> None:
    report = build_report(build(tmp_path, n_trials=12, n_with_maps=0).root)
    assert "importance-here-hunt" in report.figures
    assert "Importances of the hyperparameters need" not in report.html
    assert "No sample images" in report.html


def test_reading_changes_nothing(copied: Built) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = [path for path in copied.root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    build_report(copied.root)
    assert len(before) > 10
    assert state() == before


@pytest.mark.slow
def test_figures_are_written_as_pdf(copied: Built, tmp_path: Path) -> None:
    paths = save_figures(build_report(copied.root), tmp_path / "pdf")
    assert {path.name for path in paths} >= {
        "curves-here-hunt.pdf",
        "confusion-here-hunt.pdf",
        "front-here-sparsity.pdf",
    }
    assert all(path.read_bytes().startswith(b"%PDF") for path in paths)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no study"):
        build_report(tmp_path)


def test_commands_name_the_best_trial(built: Built) -> None:
    facts = read_facts(load_study(built.layout.study_dir))
    assert facts.best is not None
    written = [command for _, command in commands(facts)]
    assert "attnsearch search results/here/hunt/study.yaml" in written
    assert f"attnsearch evaluate here/hunt --trial {facts.best.number} --split val" in written
    assert not any("--split test" in command for command in written)


def test_front_keeps_what_no_other_beats() -> None:
    points = [(0.1, 0.5), (0.2, 0.7), (0.3, 0.6), (0.3, 0.7), (0.4, 0.9)]
    assert front_of_points(points, False, True) == [(0.1, 0.5), (0.2, 0.7), (0.4, 0.9)]  # x down, y up
    assert front_of_points(points, True, True) == [(0.4, 0.9)]


def test_caption_speaks_of_a_line_only_where_one_is_drawn(page: str, reid: Built) -> None:
    words = "The line joins the trials that no other beats"
    assert page.count(words) == page.count(">Pareto front<") == 1
    report = build_report(reid.root)  # trial 0 is better than trial 1 in both metrics
    assert "front-here-sparsity-mAP" in report.figures
    assert "Pareto front" not in report.html
    assert words not in report.html
    assert "Every complete trial" in report.html


def test_small_p_values_are_bounded() -> None:
    assert [p_value(value) for value in (0.0004, 0.0312, float("nan"))] == ["< 0.001", "0.031", "–"]


@pytest.fixture(scope="module")
def of_people(people_runs: Path) -> Report:
    return build_report(people_runs)


def test_retrieval_has_scores_with_intervals_beside_its_floors(of_people: Report, people_runs: Path) -> None:
    trial = load_study(people_runs / "people" / "cnn_people").best
    row = re.search(r'<th title="mAP">mAP<span.*?</th>(.*?)</tr>', of_people.html, flags=re.DOTALL)
    assert row is not None
    interval = mean_interval(trial.query_table("test").values["mAP"])
    shown = [float(value) for value in re.findall(r"\d\.\d+", row[1])[:3]]
    assert shown == pytest.approx([interval.mean, interval.low, interval.high], abs=5e-4)
    for name, value in trial.floors().items():
        row = re.search(rf'<th title="{name.partition("/")[2]}">.*?</tr>', of_people.html, flags=re.DOTALL)
        assert row is not None
        assert f"<td>{four_digits(value)}</td>" in row[0]
    assert re.search(r"<td>cnn_people</td><td>dcal_people</td>", of_people.html)


def test_retrieval_is_told_without_classes(of_people: Report) -> None:
    text = re.sub(r"<[^>]*>", " ", of_people.html.partition("<body>")[2])
    assert not re.findall(r"(?i)\b\w*(?:accuracy|confus|class)\w*", text)
    assert {"cmc-people", "cameras-people-cnn_people", "cameras-people-dcal_people"} <= of_people.figures.keys()
    assert not [name for name in of_people.figures if name.startswith("confusion")]
    assert "--kind ranks" in text
    assert "attnsearch retrieval people/cnn_people --trial" in text


def test_camera_matrix_names_its_split(of_people: Report) -> None:
    assert "mAP of cnn_people by cameras (test)" in of_people.html
    assert "mAP of the test queries of one camera" in text_of(of_people)


def test_study_without_a_complete_trial_has_the_columns_of_its_task(tmp_path: Path) -> None:
    report = build_report(build_reid(tmp_path, n_trials=0).root)
    assert '<th class="n">val mAP</th>' in report.html
    assert '<th class="n">test mAP</th>' in report.html
    assert not re.findall(r"(?i)\b\w*(?:accuracy|confus|class)\w*", text_of(report))


def test_ranked_galleries_are_shown_from_the_folder(of_people: Report) -> None:
    assert re.search(
        r'alt="Ranked galleries of cnn_people: queries with the lowest average precision \(test\)"', of_people.html
    )


def test_no_camera_matrix_without_features_or_with_too_many(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(people / "people" / "cnn_people")
    retrieval = study.best.retrieval("test").retrieval
    assert camera_matrix_of(retrieval) is not None
    assert camera_matrix_of(replace(retrieval, features=retrieval.features[:, :0])) is None
    n_queries = len(retrieval.first_match)
    monkeypatch.setattr(page_module, "MAX_DISTANCES", n_queries * (len(retrieval.image_ids) - n_queries) - 1)
    assert camera_matrix_of(retrieval) is None
    for path in study.best.archives()["test"].large:
        path.unlink(missing_ok=True)
    report = build_report(people / "people")
    assert "cameras-people-cnn_people" not in report.figures
    assert "cmc-people" in report.figures
    assert "No mAP by cameras here" in report.html


def add_run(reid: Built, name: str) -> StudyLayout:
    """A plain run of the same data beside the study: its trial 0, alone."""
    run = StudyLayout(reid.root, "here", name)
    shutil.copytree(reid.layout.trial(0).directory, run.trial(0).directory)
    return run


def names_in_cmc(report: Report) -> list[str]:
    return [str(line.get_label()) for line in report.figures["cmc-here"].axes[0].lines]


def columns_of_scores(report: Report) -> list[str]:
    section = report.html[report.html.index('<section id="retrieval-here">') :]
    head = re.search(r"<thead><tr><th>score</th>(.*?)</tr>", section)
    assert head is not None
    return re.findall(r"<th>(.*?)</th>", head[1])


def test_cmc_has_the_studies_of_the_table(reid: Built) -> None:
    add_run(reid, "run")
    report = build_report(reid.root)
    assert names_in_cmc(report) == columns_of_scores(report) == ["run", "seek"]


def test_other_match_rules_are_on_no_common_axis(reid: Built) -> None:
    about = add_run(reid, "run").trial(0).archive("val").about
    values = json.loads(about.read_text(encoding="utf-8"))
    values["retrieval"]["match_rule"] = "group"
    about.write_text(json.dumps(values), encoding="utf-8")
    report = build_report(reid.root)
    assert names_in_cmc(report) == columns_of_scores(report) == ["run"]
    assert "run and seek were scored with different settings (match_rule 'group' and 'camera')" in text_of(report)


def test_other_splits_are_on_no_common_axis(reid: Built) -> None:
    paths = add_run(reid, "run").trial(0)
    retrieval = read_archive(paths.archive("val")).retrieval
    assert retrieval is not None
    write_rankings(
        paths.archive("test"), retrieval, rows=range(len(PLANTED)), saliency=planted_saliency(0), split="test"
    )
    report = build_report(reid.root)
    assert names_in_cmc(report) == columns_of_scores(report) == ["run"]
    assert "seek: not ranked on test, and left out here" in text_of(report)
    assert "the fraction of test queries" in text_of(report)


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from attnsearch.cli import main
sys.exit(main(["report", sys.argv[1], "--to", sys.argv[2]]))
"""


@pytest.mark.slow
def test_a_copied_folder_is_reported_without_torch_and_without_the_data(copied: Built, tmp_path: Path) -> None:
    shutil.rmtree(copied.data_root)
    target = tmp_path / "r.html"
    command = [sys.executable, "-c", WITHOUT_TORCH, str(copied.root), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "data:image/jpeg;base64," in target.read_text()


def test_paused_trials_have_a_state_a_count_and_a_place(tmp_path: Path) -> None:
    build_halving(tmp_path)
    page = " ".join(text_of(build_report(tmp_path)).split())
    assert "1 complete, 1 paused, 1 pruned" in page
    assert "2, 1 paused" in page
    assert page.index("paused at epoch 1, rung 1, place 2 of 3") < page.index("pruned at epoch 1, rung 1, place 3 of 3")
