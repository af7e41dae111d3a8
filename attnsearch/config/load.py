"""Finds configs, studies and profiles by name and turns them, with overrides, into checked settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from attnsearch.config.datasets import RootedData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.faults import MOVED_KEYS, elsewhere, near, validate
from attnsearch.config.layers import Layer, from_overrides, merge, overlay, parse_override, read_yaml, to_yaml
from attnsearch.config.study import StudyConfig
from attnsearch.config.variables import literal
from attnsearch.errors import ConfigError

Kind = Literal["configs", "studies", "configs/profiles"]
STUDY_KEYS = frozenset(StudyConfig.model_fields)


@dataclass(frozen=True)
class LoadedStudy:
    """A checked study and the experiment that its trials start from."""

    study: StudyConfig
    experiment: ExperimentConfig


def folders(kind: Kind) -> list[Path]:
    """Where files of a kind lie: the current folder first, then the checkout or the installed package."""
    package = Path(__file__).resolve().parents[1]
    found = [Path(kind), package.parent / kind, package / kind]
    return [folder for folder in found if folder.is_dir()]


def names(kind: Kind) -> list[str]:
    """Bare names of all files of a kind, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.yaml")})


def find_file(name: str, kinds: tuple[Kind, ...]) -> Path:
    """The file behind a path or a bare name; the first kind wins.

    Raises:
        ConfigError: nothing has this name; the message lists what is known.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise ConfigError(f"{name}: no such file; pass a YAML file or one of: {_known(kinds)}")
    for kind in kinds:
        for folder in folders(kind):
            if (folder / f"{name}.yaml").is_file():
                return folder / f"{name}.yaml"
    hint = near(name, [known for kind in kinds for known in names(kind)])
    raise ConfigError(f"unknown name {name!r}{hint}; known: {_known(kinds)}")


def _known(kinds: tuple[Kind, ...]) -> str:
    return ", ".join(sorted({name for kind in kinds for name in names(kind)})) or "none"


def load_experiment(name: str, *, profile: str | None = None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """The experiment in `configs/NAME.yaml` or a file, under a profile and `key=value` overrides.

    Raises:
        ConfigError: every fault of the files, one line each.
    """
    base = read_yaml(find_file(name, ("configs",)))
    layer = _experiment_layer(base, _profile(profile).part("overrides"), profile)
    layer = merge(layer, from_overrides(map(parse_override, overrides)), ExperimentConfig)
    return validate(ExperimentConfig, layer)


def load_study(name: str, *, profile: str | None = None, overrides: Iterable[str] = ()) -> LoadedStudy:
    """The study in `studies/NAME.yaml` or a file, with its experiment, under a profile and `key=value` overrides.

    Overrides that name a field of the study change the study, all others the experiment.

    Raises:
        ConfigError: every fault of the files, one line each.
    """
    written = read_yaml(find_file(name, ("studies",)))
    shared, own = _profile(profile), written.part("profiles").part(profile or "")
    pairs = [parse_override(text) for text in overrides]
    _refuse_unknown(pairs)
    of_study = from_overrides(pair for pair in pairs if pair[0].split(".")[0] in STUDY_KEYS)
    of_experiment = from_overrides(pair for pair in pairs if pair[0].split(".")[0] not in STUDY_KEYS)

    layer = written.without("profiles")
    for over in (shared.without("overrides", "profiles"), own.without("overrides"), of_study):
        layer = merge(layer, over, StudyConfig)
    layer = _drop_null_axes(layer)
    study = validate(StudyConfig, layer)

    base = layer.part("base") if isinstance(study.base, Mapping) else read_yaml(find_file(study.base, ("configs",)))
    experiment = merge(base.without("profiles"), written.part("overrides"), ExperimentConfig)
    for over in (
        shared.part("overrides"),
        base.part("profiles").part(profile or ""),
        own.part("overrides"),
        of_experiment,
    ):
        experiment = merge(experiment, over, ExperimentConfig)
    experiment = merge(experiment, _of_the_study(study), ExperimentConfig)
    return LoadedStudy(study, validate(ExperimentConfig, experiment))


def load_stored_study(path: Path) -> LoadedStudy:
    """The study in the `study.yaml` of a results folder, which must hold all of its settings itself.

    Raises:
        ConfigError: it is broken, or its base is the name of another file, which nobody asked to read.
    """
    base = read_yaml(path).values.get("base")
    if not isinstance(base, Mapping):
        raise ConfigError(f"{path}: base: must hold the settings themselves in a results folder, got {base!r}")
    return load_study(str(path))


def load_stored_experiment(path: Path) -> ExperimentConfig:
    """The experiment in the `config.yaml` of a trial, as a reader uses it.

    Raises:
        ConfigError: it is broken.
    """
    return without_variables(load_experiment(str(path)))


def without_variables(experiment: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the root of its data as it stands: its $VARIABLES are not expanded.

    For settings out of a results folder; what a person writes beside them is merged afterwards.
    """
    if not isinstance(experiment.data, RootedData):
        return experiment
    return with_settings(experiment, {"data.root": literal(experiment.data.root)})


def with_storage(loaded: LoadedStudy, storage: str | None, overrides: Iterable[str]) -> LoadedStudy:
    """A study that is started, with the database that the command line or the environment names.

    An override `storage=URL` stays; what the file of the study names does not.
    """
    if storage is None or any(parse_override(text)[0] == "storage" for text in overrides):
        return loaded
    return replace(loaded, study=loaded.study.model_copy(update={"storage": storage}))


def _refuse_unknown(pairs: Iterable[tuple[str, Any]]) -> None:
    """An override whose first word neither a study nor an experiment has, so that the near name may be of either."""
    known = sorted(STUDY_KEYS | set(ExperimentConfig.model_fields))
    faults = [
        f"command line: {key}: is no key of a study or an experiment{_hint(key, known)}, got {value!r}"
        for key, value in pairs
        if key.split(".")[0] not in known and key not in MOVED_KEYS
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def _hint(key: str, known: list[str]) -> str:
    return elsewhere(key, ExperimentConfig) or near(key.split(".")[0], known)


def _experiment_layer(base: Layer, shared: Layer, profile: str | None) -> Layer:
    layer = merge(base.without("profiles"), shared, ExperimentConfig)
    return merge(layer, base.part("profiles").part(profile or ""), ExperimentConfig)


def _profile(profile: str | None) -> Layer:
    return read_yaml(find_file(profile, ("configs/profiles",))) if profile else Layer()


def _of_the_study(study: StudyConfig) -> Layer:
    """What the trials of a study take from it."""
    return Layer(
        {"name": study.name, "seed": study.seed, "monitor": study.monitor, "monitor_direction": study.monitor_direction}
    )


def _drop_null_axes(layer: Layer) -> Layer:
    """An axis set to null by a profile or override is no axis."""
    space = layer.values.get("space")
    if not isinstance(space, dict):
        return layer
    kept = {key: axis for key, axis in space.items() if axis is not None}
    return Layer({**layer.values, "space": kept}, layer.origins)


def with_settings(experiment: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """A copy of an experiment with dotted settings applied and everything checked again.

    Raises:
        ConfigError: the settings do not fit.
    """
    values = overlay(experiment.model_dump(mode="json"), settings, ExperimentConfig)
    return validate(ExperimentConfig, Layer(values))


def resolved_study(loaded: LoadedStudy) -> str:
    """The whole study as YAML, its experiment inlined: `attnsearch search` takes this file like any other."""
    values = loaded.study.model_dump(mode="json")
    return to_yaml({**values, "base": loaded.experiment.model_dump(mode="json"), "overrides": {}})
