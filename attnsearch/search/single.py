"""Runs one experiment without a study: the same trainer, folder and published files, and no database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_experiment
from attnsearch.config.yaml_layers import to_yaml
from attnsearch.data.loader import open_data
from attnsearch.errors import ConfigError, TrialInterrupted
from attnsearch.files import atomic_write, remove_stale_temporaries
from attnsearch.search.checkpoints import resolve_checkpoints
from attnsearch.search.checks import check_models, check_scores_of_run
from attnsearch.search.handle import only_runner
from attnsearch.search.objective import evaluate_best
from attnsearch.search.publish import TrialToPublish, publish
from attnsearch.search.study import changes
from attnsearch.store.archive import write_classes
from attnsearch.store.layout import StudyLayout
from attnsearch.training.checks import check_start
from attnsearch.training.trainer import fit
from attnsearch.types import EpochRecord, TrialResult


@dataclass
class SingleContext:
    """`TrialContext` of a run that nobody else may touch: it can be stopped, and is never pruned."""

    seed: int
    directory: Path
    should_stop: Callable[[], bool]
    number: int = 0
    attempt: int = 1

    def check(self) -> None:
        if self.should_stop():
            raise TrialInterrupted

    def record(self, records: list[EpochRecord]) -> None:
        """Keeps nothing: the CSV of the run is its record."""

    def report(self, value: float, epoch: int) -> None:
        """Tells nobody: there is no study."""

    def should_prune(self) -> bool:
        return False


def run_single(
    config: ExperimentConfig,
    *,
    root: Path,
    storage: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> TrialResult:
    """Trains, evaluates on validation and publishes on test; goes on where an earlier run of the same config stopped.

    Args:
        storage: the database in which a study that a checkpoint is taken from is looked up; None is the experiment's.
    Raises:
        ConfigError: the name belongs to a study, or to a run with other settings; or a checkpoint cannot be found.
        StoreError: another process runs it.
        TrialInterrupted: `should_stop` became true; the next call continues.
        AttnSearchError: whatever ends the run.
    """
    config = resolve_checkpoints(config, root=root, storage=storage)
    layout = StudyLayout(root.absolute(), config.experiment, config.name)
    trial = layout.trial(0)
    _refuse_other(config, layout)
    data = open_data(config.data, progress=progress)
    check_start(config, data.tables)
    check_models([("base", config)], n_classes=len(data.tables.class_names), metrics=[config.monitor])
    check_scores_of_run(config, data.tables)
    with only_runner(layout):
        _refuse_other(config, layout)  # again: another run may have come and gone while the pictures were decoded
        remove_stale_temporaries(layout.study_dir)
        atomic_write(trial.config, to_yaml(config.model_dump(mode="json")))
        write_classes(layout.classes_csv, data.tables.class_names)
        context = SingleContext(config.seed, trial.directory, should_stop)
        result = fit(config, context, data=data)
        result = evaluate_best(config, result, trial, data, check=context.check)
        publish(layout, [TrialToPublish(0, result.kept_epoch, trial, layout.published(result.kept_epoch))], data)
    return result


def _refuse_other(config: ExperimentConfig, layout: StudyLayout) -> None:
    """A folder belongs to one study or to one config."""
    if layout.study_yaml.exists():
        raise ConfigError(f"name: {config.name!r} is a study in {layout.experiment_dir}; choose another name=")
    path = layout.trial(0).config
    if not path.exists():
        return
    known = load_experiment(str(path))
    if known.digest() != config.digest():
        lines = [f"  {key}: was {old!r}, is {new!r}" for key, old, new in changes(known.identity(), config.identity())]
        head = f"{path}: this run was started with other settings; write those again, or choose another name="
        raise ConfigError("\n".join([head, *lines]))
