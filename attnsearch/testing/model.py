"""What every model family must do, as a suite that tests subclass; and small models and batches to do it with."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from attnsearch import plugins
from attnsearch.config.experiment import ClassificationSettings
from attnsearch.config.model import BackboneSettings
from attnsearch.errors import UsageError
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel
from attnsearch.models.weights import load_into, read_checkpoint, save_checkpoint
from attnsearch.tasks.base import build_task
from attnsearch.types import AttentionOutput, Batch

N_CLASSES = 5
TASK = build_task(ClassificationSettings())
M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def fill_by_formula(module: M) -> M:
    """Sets every parameter by formula, so that no layer is zero and no output depends on a random generator."""
    for index, parameter in enumerate(module.parameters()):
        wave = torch.cos(0.7 * torch.arange(parameter.numel()) + index).view_as(parameter)
        fan_in = parameter[0].numel() if parameter.ndim else 1
        parameter.copy_(wave * (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.5 + 0.25 * wave)
    return module


def wave_batch(n_images: int = 2, height: int = 64, width: int = 64) -> Batch:
    """A batch of waves, (B, 3, H, W); image i is the same whatever the batch's size."""
    frequency = 0.03 * (1 + torch.arange(n_images * 3).view(n_images, 3, 1, 1))
    grid = torch.arange(height)[:, None] * 1.3 + torch.arange(width)
    return Batch(
        images=torch.sin(frequency * grid),
        labels=torch.arange(n_images) % N_CLASSES,
        image_ids=tuple(f"{index}.jpg" for index in range(n_images)),
        rows=torch.arange(n_images),
    )


def loss_terms(
    model: AttentionModel, output: AttentionOutput, batch: Batch, *, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Named scalars whose sum is the loss of classification, as the training loop makes them."""
    return model.weigh_losses(TASK.losses(output, batch, label_smoothing=label_smoothing), output)


def _loss(model: AttentionModel, output: AttentionOutput, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """The loss, a scalar."""
    return torch.stack(list(loss_terms(model, output, batch, label_smoothing=label_smoothing).values())).sum()


@cache
def _filled(kind: type[BackboneSettings], settings: str, draws_weights: bool) -> AttentionModel:
    """A model made once for all tests, which copy it."""
    torch.manual_seed(0)
    model = build_model(kind.model_validate_json(settings), TASK.heads(N_CLASSES))
    fill_by_formula(model.get_submodule("backbone") if draws_weights else model)
    return model


class ModelContract:
    """Subclass it as `TestMine` with a fixture `settings` that returns those of a small model.

    Attributes:
        draws_weights: weights behind the backbone are drawn and not by formula, for families in which equal queries
            would answer alike.
    """

    draws_weights = False

    @pytest.fixture
    def settings(self) -> BackboneSettings:
        """The settings of a model as small as can be."""
        raise NotImplementedError("give this suite a fixture `settings`")

    @pytest.fixture
    def model(self, settings: BackboneSettings) -> AttentionModel:
        """The model with weights that depend on nothing but their shapes."""
        model = copy.deepcopy(_filled(type(settings), settings.model_dump_json(), self.draws_weights))
        torch.manual_seed(0)
        return model

    def test_its_settings_are_registered(self, settings: BackboneSettings) -> None:
        assert plugins.find("model", settings.name).settings is type(settings)

    def test_output_shapes(self, model: AttentionModel) -> None:
        output = model.eval()(wave_batch(), maps=())
        assert output.logits.shape == (2, N_CLASSES)
        assert all(head.logits.shape == (2, N_CLASSES) for head in output.branches.values())
        assert output.maps.shape[:2] == (2, len(output.map_names))
        assert len(set(output.map_names)) == len(output.map_names) > 0
        if output.norms is not None:
            assert output.norms.shape == (2, 1, *output.maps.shape[2:])
            assert output.norms.min() >= 0

    def test_maps_come_only_when_asked_for(self, model: AttentionModel) -> None:
        model.eval()
        silent, full = model(wave_batch()), model(wave_batch(), maps=())
        assert silent.maps is None
        assert silent.norms is None
        assert silent.map_names == ()
        assert torch.equal(silent.logits, full.logits)

    def test_maps_come_by_name_in_the_order_asked(self, model: AttentionModel) -> None:
        model.eval()
        full = model(wave_batch(), maps=())
        backwards = model(wave_batch(), maps=full.map_names[::-1])
        assert backwards.map_names == full.map_names[::-1]
        assert torch.equal(backwards.maps, full.maps.flip(1))
        with pytest.raises(ValueError, match="no map nonesuch"):
            model(wave_batch(), maps=("nonesuch",))

    def test_cell_features_lie_on_the_grid_of_the_maps(self, model: AttentionModel) -> None:
        model.eval()
        try:
            features = model.cell_features(wave_batch())  # (B, C, h, w)
        except UsageError:
            pytest.skip("the family does not say what its map weighs")
        maps = model(wave_batch(), maps=()).maps
        assert (features.shape[0], *features.shape[2:]) == (2, *maps.shape[2:])
        torch.testing.assert_close(model.cell_features(wave_batch(1)), features[:1], rtol=1e-3, atol=1e-4)

    def test_loss_is_made_of_named_scalars(self, model: AttentionModel) -> None:
        batch = wave_batch(4)
        terms = loss_terms(model.train(), model(batch), batch, label_smoothing=0.1)
        assert "cross_entropy" in terms
        assert {(term.ndim, term.dtype) for term in terms.values()} == {(0, torch.float32)}

    def test_gradients_reach_every_parameter(self, model: AttentionModel) -> None:
        batch = wave_batch(4)
        torch.autograd.backward(_loss(model.train(), model(batch), batch, label_smoothing=0.1))
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert gradients.keys() == dict(model.named_parameters()).keys()
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        backbone = [gradient for name, gradient in gradients.items() if name.startswith(model.backbone_prefix)]
        assert 0 < len(backbone) < len(gradients)
        assert all(gradient.count_nonzero() > 0 for gradient in backbone)

    def test_state_survives_a_file(self, model: AttentionModel, settings: BackboneSettings, tmp_path: Path) -> None:
        metadata = {"class_names": "[]", "config": settings.model_dump_json(), "epoch": "1"}
        save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), metadata)
        state, metadata = read_checkpoint(tmp_path / "best.safetensors")
        copy = build_model(type(settings).model_validate_json(metadata["config"]), TASK.heads(N_CLASSES))
        load_into(copy, state, "best.safetensors")
        assert torch.equal(copy.eval()(wave_batch()).logits, model.eval()(wave_batch()).logits)

    def test_eval_is_deterministic(self, model: AttentionModel) -> None:
        model.eval()
        first, second = model(wave_batch(), maps=()), model(wave_batch(), maps=())
        assert torch.equal(first.logits, second.logits)
        assert torch.equal(first.maps, second.maps)

    def test_one_image_alone_equals_itself_in_a_batch(self, model: AttentionModel) -> None:
        model.eval()
        alone, together = model(wave_batch(1), maps=()), model(wave_batch(4), maps=())
        target = torch.zeros(4, dtype=torch.int64)
        for one, first_of_four in (
            (alone.logits, together.logits[:1]),
            (alone.maps, together.maps[:1]),
            (model.saliency(alone, target[:1]), model.saliency(together, target)[:1]),
        ):
            torch.testing.assert_close(one, first_of_four, atol=1e-5, rtol=1e-4)

    def test_bfloat16_autocast_is_finite(self, model: AttentionModel) -> None:
        batch = wave_batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(batch, maps=())
            loss = _loss(model, output, batch)
        torch.autograd.backward(loss)
        assert output.maps.dtype == torch.float32
        assert output.maps.isfinite().all()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    @pytest.mark.parametrize(("height", "width"), [(45, 37), (32, 70)])
    def test_odd_image_sizes_work(self, model: AttentionModel, height: int, width: int) -> None:
        output = model.eval()(wave_batch(2, height, width), maps=())
        saliency = model.saliency(output, torch.tensor([0, 1]))
        assert output.logits.isfinite().all()
        assert saliency.shape == (2, *output.maps.shape[2:])

    def test_saliency_is_finite_and_never_negative(self, model: AttentionModel) -> None:
        saliency = model.eval().saliency(model(wave_batch(4), maps=()), torch.tensor([0, 1, 2, 3]))
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()
        assert saliency.min() >= 0
        assert saliency.amax(dim=(1, 2)).min() > 0

    def test_saliency_needs_the_maps(self, model: AttentionModel) -> None:
        with pytest.raises(ValueError, match=r"maps=\(\)"):
            model.saliency(model.eval()(wave_batch()), torch.tensor([0, 1]))

    def test_blank_images_give_finite_results(self, model: AttentionModel) -> None:
        batch = wave_batch()
        batch.images.zero_()
        output = model(batch, maps=())
        torch.autograd.backward(_loss(model, output, batch))
        assert output.maps.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_channels_last_gives_the_same(self, model: AttentionModel) -> None:
        model.eval()
        batch = wave_batch()
        expected = model(batch, maps=())
        if not model.channels_last:
            pytest.skip("the family does not ask for channels-last memory")
        batch.images.data = batch.images.contiguous(memory_format=torch.channels_last)
        output = model.to(memory_format=torch.channels_last)(batch, maps=())
        torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.maps, expected.maps, atol=1e-5, rtol=1e-4)
