"""Finds configs, studies and profiles by name and turns them, with overrides, into checked settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from attnsearch.config.base import dotted_keys
from attnsearch.config.data import RootedData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import MAX_LINES, MOVED_KEYS, Faults, T, elsewhere, short, validate
from attnsearch.config.variables import literal
from attnsearch.config.yaml_layers import Layer, merge, overlay, to_yaml
from attnsearch.config.yaml_nodes import Place, dotted, fault
from attnsearch.config.yaml_reader import read_overrides, read_yaml
from attnsearch.errors import ConfigError, suggest

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
        if _is_file(Path(name)):
            return Path(name)
        raise ConfigError(f"{dotted((name,))}: no such file; pass a YAML file or one of: {_known(kinds)}")
    for kind in kinds:
        for folder in folders(kind):
            if _is_file(folder / f"{name}.yaml"):
                return folder / f"{name}.yaml"
    hint = suggest(name, [known for kind in kinds for known in names(kind)])
    raise ConfigError(f"unknown name {short(name)}{hint}; known: {_known(kinds)}")


def _is_file(path: Path) -> bool:
    """Whether a file has this path; a name that no file can have is one that none has."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _known(kinds: tuple[Kind, ...]) -> str:
    return ", ".join(sorted({name for kind in kinds for name in names(kind)})) or "none"


def load_experiment(name: str, *, profile: str | None = None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """The experiment in `configs/NAME.yaml` or a file, under a profile and `key=value` overrides.

    Raises:
        ConfigError: every fault of the files and the overrides, one line each.
    """
    faults = Faults()
    base = faults.read(lambda: read_yaml(find_file(name, ("configs",))))
    shared, own = _profile(profile, faults), _own_profile(base, profile, faults)
    over = faults.read(lambda: read_overrides(overrides))
    layers = (faults.block(shared, "overrides"), own, over)
    return faults.settled(faults.check(ExperimentConfig, _laid(base.without("profiles"), layers, ExperimentConfig)))


def load_study(name: str, *, profile: str | None = None, overrides: Iterable[str] = ()) -> LoadedStudy:
    """The study in `studies/NAME.yaml` or a file, with its experiment, under a profile and `key=value` overrides.

    Overrides that name a field of the study change the study, all others the experiment.

    Raises:
        ConfigError: every fault of the files and the overrides, one line each.
    """
    faults = Faults()
    written = faults.read(lambda: read_yaml(find_file(name, ("studies",))))
    shared, own = _profile(profile, faults), _own_profile(written, profile, faults)
    over = faults.read(lambda: read_overrides(overrides))
    of_study, of_experiment = _split(over, faults)

    over_study = (shared.without("overrides"), own.without("overrides"), of_study)
    layer = _drop_null_axes(_laid(written.without("profiles"), over_study, StudyConfig))
    study = faults.check(StudyConfig, layer, _unknown_axes(layer))

    base = _base(layer, faults)
    over_experiment = (
        layer.part("overrides"),
        faults.block(shared, "overrides"),
        _own_profile(base, profile, faults),
        faults.block(own, "overrides"),
        of_experiment,
        STAND_IN if study is None else _of_the_study(study),
    )
    experiment = faults.check(ExperimentConfig, _laid(base.without("profiles"), over_experiment, ExperimentConfig))
    return LoadedStudy(faults.settled(study), faults.settled(experiment))


def load_stored_study(path: Path) -> LoadedStudy:
    """The study in the `study.yaml` of a results folder, which must hold all of its settings itself.

    Raises:
        ConfigError: it is broken, or its base is the name of another file, which nobody asked to read.
    """
    base = read_yaml(path).values.get("base")
    if not isinstance(base, Mapping):
        raise ConfigError(f"{path}: base: must hold the settings themselves in a results folder, got {short(base)}")
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
    if storage is None or "storage" in read_overrides(overrides).values:
        return loaded
    return replace(loaded, study=loaded.study.model_copy(update={"storage": storage}))


def is_study(path: Path) -> bool:
    """Whether a file is a study: it names a base. One that cannot be read is what its folder says."""
    try:
        return "base" in read_yaml(path).values
    except ConfigError:
        return path.parent.name == "studies"


def _laid(base: Layer, layers: Iterable[Layer], model: type[BaseModel]) -> Layer:
    """All layers on each other; in each of them keys may be dotted."""
    result = Layer({}, {(): base.origin(())})
    for over in (base, *layers):
        result = merge(result, over, model)
    return result


def _profile(profile: str | None, faults: Faults) -> Layer:
    return Layer() if profile is None else faults.read(lambda: read_yaml(find_file(profile, ("configs/profiles",))))


def _own_profile(layer: Layer, profile: str | None, faults: Faults) -> Layer:
    """What a file itself says under `profiles` of a profile."""
    profiles = faults.block(layer, "profiles")
    parts = {name: faults.block(profiles, name, inside="profiles") for name in profiles.values}
    return parts.get(profile or "", Layer())


def _base(layer: Layer, faults: Faults) -> Layer:
    """The experiment that a study starts from, inlined or in a file of its own."""
    base = layer.values.get("base")
    if isinstance(base, str):
        where = f"{layer.origin(('base',))}: base: "
        return faults.read(lambda: read_yaml(find_file(base, ("configs",))), origin=where)
    if not isinstance(base, dict):
        faults.is_complete = False  # what is wrong with it is said of the study
    return layer.part("base")


def _split(over: Layer, faults: Faults) -> tuple[Layer, Layer]:
    """(overrides of the study, of the experiment); what is of neither is a fault, whose near name may be of either."""
    known = sorted(STUDY_KEYS | set(ExperimentConfig.model_fields))
    first = {key: key.split(".")[0] for key in over.values}
    unknown = [key for key, head in first.items() if head not in known and key not in MOVED_KEYS]
    for key in unknown:
        message = (
            f"is no key of a study or an experiment{elsewhere(key, ExperimentConfig) or suggest(first[key], known)}"
        )
        faults.lines.append(fault(over.origin((key,)), (key,), f"{message}, got {short(over.values[key])}"))
    of_study = {key for key, head in first.items() if head in STUDY_KEYS}
    return over.only(of_study), over.without(*of_study, *unknown)


def _unknown_axes(layer: Layer) -> dict[Place, str]:
    """A line for each axis that no experiment has as a key."""
    known = dotted_keys(ExperimentConfig)
    axes = layer.part("space").values
    found: dict[Place, str] = {}
    for key in [key for key in axes if key not in known][:MAX_LINES]:
        message = f"is no key of an experiment{suggest(key, known)}, got {short(axes[key])}"
        found["space", key] = fault(layer.origin(("space", key)), ("space", key), message)
    return found


STAND_IN = Layer({"name": "study", "seed": 1, "monitor": "val/accuracy", "monitor_direction": "maximize"})
"""What the trials take from a study with faults, so that these are not said again of the experiment."""


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
    return replace(layer, values={**layer.values, "space": kept})


def with_settings(experiment: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """A copy of an experiment with dotted settings applied and everything checked again.

    Raises:
        ConfigError: the settings do not fit.
    """
    values = overlay(experiment.model_dump(mode="json"), settings, ExperimentConfig)
    return validate(ExperimentConfig, Layer(values))


def with_overrides(experiment: ExperimentConfig, overrides: Iterable[str]) -> ExperimentConfig:
    """A copy of an experiment under `key=value` overrides of a command line, checked again.

    Raises:
        ConfigError: every fault of the overrides, one line each.
    """
    return overridden(ExperimentConfig, experiment.model_dump(mode="json"), overrides)


def overridden(model: type[T], values: Mapping[str, Any], overrides: Iterable[str]) -> T:
    """The settings that plain values describe under `key=value` overrides of a command line.

    Raises:
        ConfigError: every fault of the overrides, one line each.
    """
    faults = Faults()
    over = faults.read(lambda: read_overrides(overrides))
    return faults.settled(faults.check(model, merge(Layer(dict(values)), over, model)))


def resolved_study(loaded: LoadedStudy) -> str:
    """The whole study as YAML, its experiment inlined: `attnsearch search` takes this file like any other."""
    values = loaded.study.model_dump(mode="json")
    return to_yaml({**values, "base": loaded.experiment.model_dump(mode="json"), "overrides": {}})
