"""The public names: imported on use, described in the README, typed for user code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attnsearch as at

ROOT = Path(__file__).parents[1]

USER_FILE = """
from typing import Literal

from torch import Tensor, nn

import attnsearch as at


class Settings(at.BackboneSettings):
    name: Literal["user"] = "user"


class Model(at.AttentionModel):
    def __init__(self, cfg: Settings, heads: at.Heads) -> None:
        super().__init__()
        self.backbone = at.build_backbone(cfg)
        self.head = heads.image(self.backbone.num_features)

    def forward(self, batch: at.Batch, *, maps: tuple[str, ...] | None = None) -> at.AttentionOutput:
        features: Tensor = self.backbone(batch.images)
        return at.AttentionOutput(head=self.head(features.mean((2, 3))))

    def saliency(self, output: at.AttentionOutput, target: Tensor) -> Tensor:
        assert output.maps is not None
        return output.maps[:, 0]


class Data(at.DataSettings):
    name: Literal["user"] = "user"


def list_images(cfg: Data) -> at.Listing:
    raise NotImplementedError


at.register_model(Settings, build=Model)
at.register_dataset(Data, list_images=list_images)


def read(folder: str) -> dict[str, float]:
    results: at.Results = at.load_results(folder)
    study: at.StudyReader = results.study("demo/br_npa_low_res")
    tables = [results.studies, results.trials, study.trials, study.epochs, study.scores, study.compare("gini")]
    trial: at.TrialReader = study.best if tables else study.front[0]
    model: at.TrainedModel = trial.model(device="cpu")
    explanation: at.Explanation = model.explain("photo.jpg")
    several: list[at.Explanation] = model.explain(["a.jpg", "b.jpg"])
    similar: at.Explanation = model.explain("a.jpg", target=model.similarity_to("b.jpg"))
    assert similar.match is not None and similar.cosine is not None
    assert model.embed(["a.jpg", "b.jpg"]).shape[0] == len(similar.match.own_map)
    saliency = several[0].saliency
    assert saliency is not None
    assert saliency.shape == trial.saliency("val")[0].shape == explanation.maps["vector_1"].shape
    explanation.save("overlay.png")
    model.score(["a.jpg"], ["gini"]).mean()
    at.run_search("br_npa_low_res", overrides={"n_trials": 2}, workers=0).importances()
    return {**model.evaluate("val"), **trial.metrics, **at.run_training("loupe").values}
"""


def test_all_is_what_is_imported_on_use_and_what_type_checkers_see() -> None:
    tree = ast.parse(Path(at.__file__).read_text())
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(at.__all__) == set(at._MODULE_OF) == seen - {"import_module", "TYPE_CHECKING", "Any"}
    assert at.__all__ == sorted(at.__all__)
    assert {name for name in dir(at) if not name.startswith("__")} == set(at.__all__)


@pytest.mark.parametrize("name", at.__all__)
def test_every_public_name_exists_and_has_a_docstring(name: str) -> None:
    value = getattr(at, name)
    assert value.__doc__ or value is at.Split  # a `Literal` has none


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'search_everything'"):
        _ = at.search_everything


def test_no_public_name_is_that_of_a_package() -> None:
    """Importing the package would replace the name."""
    assert not {path.stem for path in (ROOT / "attnsearch").iterdir()} & set(at.__all__)


def test_the_guides_describe_the_public_names_and_no_others() -> None:
    text = "".join((ROOT / f"docs/guide/{name}.md").read_text() for name in ("python", "own_parts"))
    assert set(re.findall(r"\bat\.([a-zA-Z]\w+)", text)) - {"nn"} == set(at.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, attnsearch; print([m for m in ('torch', 'optuna', 'pandas', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_file_of_a_user_passes_strict_type_checks(tmp_path: Path) -> None:
    """Outside of the checkout, with the package on the path, which mypy takes for an installed one."""
    path = tmp_path / "user_file.py"
    path.write_text(USER_FILE)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert checked.stdout.startswith("Success"), checked.stdout
