"""Checkpoints that know their run; those of the models' authors, made here in their layouts; INTR's way back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path, PurePosixPath

import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.model import BCnnSettings, BrNpaSettings, CnnSettings, IntrSettings, LoupeSettings
from attnsearch.errors import ConfigError, DataError, LeaseLost, StoreError
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.models.checkpoint import (
    ModelCheckpoint,
    check_camera_names,
    check_class_names,
    export_intr,
    import_checkpoint,
    read_model_checkpoint,
    write_model_checkpoint,
)
from attnsearch.models.weights import save_checkpoint
from attnsearch.tasks.base import restore_model
from attnsearch.tasks.classification import LinearHeads

CONFIG = ExperimentConfig.model_validate(
    {
        "name": "kept",
        "data": {"name": "synthetic"},
        "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25},
        "train": {"accumulation": 2},
    }
)


@pytest.fixture(scope="module")
def model() -> AttentionModel:
    return build_model(CONFIG.model, LinearHeads(2))


def test_what_is_written_is_read_again(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    names = ("Ähre", "b")
    write_model_checkpoint(
        ModelCheckpoint(
            path,
            config=CONFIG,
            class_names=names,
            epoch=7,
            accumulation=4,
            val_hash="abc",
            state=model.state_dict(),
            camera_names=("1", "Tür"),
        )
    )
    kept = read_model_checkpoint(path)
    assert (kept.config, kept.class_names, kept.epoch) == (CONFIG, names, 7)
    assert (kept.accumulation, kept.val_hash, kept.camera_names) == (4, "abc", ("1", "Tür"))
    rebuilt = restore_model(kept).state_dict()
    assert all(torch.equal(rebuilt[name], value) for name, value in model.state_dict().items())


def test_a_checkpoint_of_an_older_version_names_no_cameras(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    about = {"class_names": '["a", "b"]', "config": CONFIG.model_dump_json(), "epoch": "1"}
    save_checkpoint(path, model.state_dict(), about)
    assert read_model_checkpoint(path).camera_names == ()


def test_a_failed_check_leaves_the_old_file(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    write_model_checkpoint(
        ModelCheckpoint(
            path, config=CONFIG, class_names=("a", "b"), epoch=1, accumulation=1, val_hash="", state=model.state_dict()
        )
    )

    def refuse() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        write_model_checkpoint(
            ModelCheckpoint(
                path,
                config=CONFIG,
                class_names=("a", "b"),
                epoch=2,
                accumulation=1,
                val_hash="",
                state=model.state_dict(),
            ),
            check=refuse,
        )
    assert read_model_checkpoint(path).epoch == 1
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_settings_of_another_version_are_refused(model: AttentionModel, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, model.state_dict(), {"class_names": '["a", "b"]', "config": '{"name": "x"}', "epoch": "1"})
    with pytest.raises(ConfigError, match=r"old\.safetensors holds settings that this version cannot read"):
        read_model_checkpoint(path)


def test_a_checkpoint_of_a_model_that_is_not_registered_names_the_plugin_alone(
    model: AttentionModel, tmp_path: Path
) -> None:
    path = tmp_path / "best.safetensors"
    values = {**CONFIG.model_dump(mode="json"), "plugins": ["absent.py"]}
    values["model"] = {"name": "spatial", "n_channels": 8, "kernel_px": 3}
    save_checkpoint(path, model.state_dict(), {"class_names": '["a", "b"]', "config": json.dumps(values), "epoch": "1"})
    with pytest.raises(ConfigError) as caught:
        read_model_checkpoint(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: config: model.name: unknown name 'spatial'; known: ")
    assert said.endswith("; made with plugins, which reading never imports: add --plugin 'absent.py'")
    assert not [word for word in ("n_channels", "train it again", "\n") if word in said]


WRONG = (
    ("class_names", "3"),
    ("class_names", "[" * 50_000),
    ("class_names", "null"),
    ("camera_names", "null"),
    ("epoch", "{"),
    ("epoch", "9" * 5000),
)


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_damaged_metadata_is_refused(model: AttentionModel, tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "best.safetensors"
    about = {"class_names": '["a", "b"]', "config": CONFIG.model_dump_json(), "epoch": "1"}
    save_checkpoint(path, model.state_dict(), {**about, key: value})
    with pytest.raises(ConfigError, match=r"best\.safetensors holds settings that this version cannot read"):
        read_model_checkpoint(path)


def test_different_class_names_stand_side_by_side():
    check_class_names(("crow", "jay"), ("crow", "jay"), "best.safetensors")
    with pytest.raises(DataError, match=r"3 classes and best\.safetensors has 2.*1: 'jay' \| 'wren', 2: 'owl' \| None"):
        check_class_names(("crow", "jay", "owl"), ("crow", "wren"), "best.safetensors")


@pytest.mark.parametrize("cameras", [("a", "b", "c"), ("a", "b"), ("a",)])
def test_cameras_at_the_positions_of_the_training_are_accepted(cameras: tuple[str, ...]) -> None:
    check_camera_names(cameras, ("a", "b", "c"), "best.safetensors")


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (("A", "a", "b"), "best.safetensors has no vectors of the cameras A, only of a, b, c; leave out"),
        (("a", "b", "c", "d", "e"), "no vectors of the cameras d, e, only of a, b, c;"),
        (("a", "c"), "other cameras at the positions of .*: 1: 'c' [|] 'b'; use data"),
    ],
)
def test_other_cameras_are_named_in_one_line(cameras: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_camera_names(cameras, ("a", "b", "c"), "best.safetensors")
    assert "\n" not in str(caught.value)


KEYS = json.loads((Path(__file__).parents[1] / "golden" / "intr_keys.json").read_text())
#: An INTR as published, with narrow tokens; ResNet-18 has the plain stem of torchvision.
INTR = IntrSettings(
    backbone="resnet18",
    weights="hub",
    frozen_batch_norm=True,
    n_encoder_layers=1,
    n_decoder_layers=1,
    d_model=16,
    n_heads=2,
    feedforward_width=32,
)


def by_formula(names):
    """A tensor for each name, no two alike."""
    return {
        name: torch.cos(torch.arange(float(shape.numel())) + index).view(shape)
        for index, (name, shape) in enumerate(names.items())
    }


def shapes(model):
    """Names and shapes of a state, without the counters that the authors' files lack."""
    state = model.state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture
def intr_file(tmp_path):
    """A checkpoint as INTR's training writes it, and its state."""
    names = {
        name.replace("backbone.", "backbone.0.body.", 1): shape
        for name, shape in shapes(build_model(INTR, LinearHeads(5), load_weights=False)).items()
    }
    state = by_formula(names)
    content = {"model": state, "optimizer": {"state": {}}, "epoch": 139, "args": argparse.Namespace(lr=5e-5)}
    torch.save(content, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth", state


def test_intr_survives_import_and_export_exactly(intr_file, tmp_path):
    path, state = intr_file
    model = import_checkpoint("intr", path, LinearHeads(5), INTR)
    imported = model.state_dict()
    assert torch.equal(imported["backbone.conv1.weight"], state["backbone.0.body.conv1.weight"])
    export_intr(model, tmp_path / "exported.pth")
    exported = torch.load(tmp_path / "exported.pth", weights_only=True)["model"]
    assert exported.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in exported.items())
    again = import_checkpoint("intr", tmp_path / "exported.pth", LinearHeads(5), INTR).state_dict()
    assert all(torch.equal(tensor, imported[name]) for name, tensor in again.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pth", "exported.pth"]


def test_every_name_of_the_published_intr_is_taken(tmp_path):
    small = {256: 16, 768: 48, 2048: 2048}  # tokens of 16 channels; the ResNet-50 keeps its own
    names = {
        name: torch.Size(shape if "body" in name else [small.get(side, side) for side in shape])
        for name, shape, _ in KEYS["intr_r50_200"]
    }
    torch.save({"model": {name: torch.zeros(shape) for name, shape in names.items()}}, tmp_path / "cub.pth")
    cfg = IntrSettings(backbone="resnet50", weights="hub", frozen_batch_norm=True, d_model=16)
    model = import_checkpoint("intr", tmp_path / "cub.pth", LinearHeads(200), cfg)
    assert len(model.state_dict()) == len(names) == 452


def test_other_number_of_classes_is_named(intr_file):
    with pytest.raises(ConfigError, match=r"has 5 classes, and 7 are named; .*model\.weights=IMPORTED"):
        import_checkpoint("intr", intr_file[0], LinearHeads(7), INTR)


def test_options_that_are_not_built_are_named(intr_file):
    path, state = intr_file
    extra = [name for name, _ in KEYS["extra_with_pre_norm_and_learned_positions"]]
    torch.save({"model": state | {name: torch.zeros(1) for name in extra}}, path)
    with pytest.raises(ConfigError, match=r"4 unexpected: transformer\.encoder\.norm\.weight.*backbone\.1\.row_embed"):
        import_checkpoint("intr", path, LinearHeads(5), INTR)


def test_nothing_but_a_namespace_is_let_through(intr_file):
    path, state = intr_file
    torch.save({"model": state, "args": argparse.Namespace(output=PurePosixPath("out"))}, path)
    with pytest.raises(ConfigError, match=r"checkpoint\.pth would run code \(pathlib\.PurePosixPath\) and is refused"):
        import_checkpoint("intr", path, LinearHeads(5), INTR)
    torch.save({"model": state, "args": argparse.Namespace()}, path)
    cfg = LoupeSettings(backbone="resnet18")
    with pytest.raises(ConfigError, match=r"would run code \(argparse\.Namespace\)"):
        import_checkpoint("loupe", path, LinearHeads(5), cfg)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_export_knows_only_plain_resnets(tmp_path):
    deep = IntrSettings(backbone="resnet10t", width=0.25, d_model=16, n_heads=2)
    for cfg, message in ((deep, "got Intr on ResNet"), (CnnSettings(backbone="resnet18", width=0.25), "got Cnn on")):
        with pytest.raises(ConfigError, match=message):
            export_intr(build_model(cfg, LinearHeads(5)), tmp_path / "x.pth")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"/file: File exists"):
        export_intr(build_model(INTR, LinearHeads(5), load_weights=False), tmp_path / "file" / "x.pth")


@pytest.fixture
def small_swin(monkeypatch):
    import timm

    create, shrunk = timm.create_model, {"embed_dim": 24, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 3, 3)}
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: create(name, **kw, **shrunk))


def test_loupe_of_its_authors_is_taken(tmp_path, small_swin):
    cfg = LoupeSettings(backbone="swin_base_patch4_window7_224")
    own = shapes(build_model(cfg, LinearHeads(5)))
    foreign = {name: name.removeprefix("backbone.").replace("gate.", "loupe.") for name in own}
    state = by_formula({foreign[name]: shape for name, shape in own.items()})
    assert {name.split(".")[0] for name in state} == {"patch_embed", "layers", "norm", "head", "loupe"}
    torch.save(state | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}, tmp_path / "best_model.pth")
    imported = import_checkpoint("loupe", tmp_path / "best_model.pth", LinearHeads(5), cfg).state_dict()
    assert all(torch.equal(imported[name], state[foreign[name]]) for name in own)
    with pytest.raises(
        ConfigError, match=r"misshapen: gate\.attention_net\.0\.weight \(12, 48, 3, 3\) instead of \(24, 96"
    ):
        import_checkpoint("loupe", tmp_path / "best_model.pth", LinearHeads(5), cfg.model_copy(update={"stage": 2}))


@pytest.mark.parametrize(
    "cfg",
    [
        CnnSettings(backbone="resnet18", width=0.25, head_bias=True),
        BCnnSettings(backbone="resnet18", width=0.25, n_parts=2),
        BrNpaSettings(backbone="resnet18", width=0.25, auxiliary_heads=True),
    ],
    ids=lambda cfg: cfg.name,
)
def test_br_npa_of_its_authors_is_taken(tmp_path, cfg):
    own = shapes(build_model(cfg, LinearHeads(5)))
    foreign = {}
    for name in own:
        part, rest = name.split(".", 1)
        begin = {
            "backbone": "backbone.featMod.",
            "attention": "backbone.attention.",
            "head": "classificationHead.linLay.",
        }
        foreign[name] = begin.get(part, "classificationHead.lin") + rest
    state = by_formula({foreign[name]: shape for name, shape in own.items()})
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "modelbr_npa_best_epoch7")
    imported = import_checkpoint("br_npa", tmp_path / "modelbr_npa_best_epoch7", LinearHeads(5), cfg).state_dict()
    assert all(torch.equal(imported[name], state[foreign[name]]) for name in own)


def test_all_that_does_not_fit_is_listed(tmp_path):
    cfg = CnnSettings(backbone="resnet18", width=0.25)
    state = {
        f"backbone.featMod.{name}": torch.zeros(shape)
        for name, shape in shapes(build_model(cfg, LinearHeads(5)).backbone).items()
    }
    torch.save(state | {"classificationHead.lin01.bias": torch.zeros(5)}, tmp_path / "model_best_epoch7")
    with pytest.raises(ConfigError, match=r"best_epoch7 .*1 missing: head\.weight; 1 unexpected: auxiliary\.01\.bias"):
        import_checkpoint("br_npa", tmp_path / "model_best_epoch7", LinearHeads(5), cfg)


def test_config_of_another_family_is_refused():
    with pytest.raises(
        ConfigError, match=r"checkpoint of br_npa .* family 'loupe'; use a config of br_npa or b_cnn or cnn"
    ):
        import_checkpoint("br_npa", "x.pth", LinearHeads(5), LoupeSettings())
