"""The command `visualize` on a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.cli import main

RUN = "br_npa_low_res"


def visualize(run: Path, to: Path, *words: str) -> int:
    return main(["visualize", RUN, *words, "--results", str(run), "--to", str(to), "--width", "0.6", "--dpi", "60"])


def test_files_are_printed(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize(finished_run, tmp_path, "--kind", "parts", "--per-class", "1") == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.relative_to(tmp_path).parts[:3] for path in paths] == [(f"{RUN}-0", "parts", "val")] * 2
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "heads"], "--kind heads works with intr and dcal only; this model is br_npa"),
        (["--kind", "overlays"], "did you mean 'overlay'?"),
        (["--image", "nobody.jpg"], "'nobody.jpg' is neither an image of the split nor a file"),
        (["--format", "gif"], "'gif'"),
        (["--colours", "infernal"], "'infernal'"),
        (["--method", "pairs"], "--method must be one of occlusion, own, pair, gradient_rollout, got 'pairs'"),
        (["--enlarge", "more"], "'more'"),
        (["--most-faithful", "1", "--by", "nothing"], "attnsearch faithfulness|'nothing' was not measured"),
        (["--trial", "7"], "has no trial 7"),
        (["--kind", "ranks"], "--kind ranks works with the task reid only; this run's is classification"),
        (["--worst", "2"], "--worst needs the average precision of queries"),
        (["--random", "-1", "0"], "--random must be a number of images and a seed, both >= 0, got -1 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    words: list[str], said: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visualize(finished_run, tmp_path, *words) == 2
    shown = capsys.readouterr().err
    assert any(part in shown for part in said.split("|"))
    assert shown.count("\n") == 1


def test_ranked_galleries_and_pairs_of_a_run(
    people_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DCAL tells cameras apart here, so that those of the images must reach the model."""
    words = ["--kind", "ranks", "--kind", "pair", "--random", "1", "7", "--with-removed", "--format", "svg"]
    words += ["--method", "gradient_rollout"]
    options = ["--results", str(people_runs), "--to", str(tmp_path)]
    assert main(["visualize", "dcal_people", *words, *options]) == 0
    ranks, *pairs = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert "queries by chance, seed 7" in ranks.read_text()
    assert 1 <= len(pairs) <= 2
    assert all("gradient rollout of the cosine" in path.read_text() for path in pairs)
