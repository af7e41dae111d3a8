"""Turns files of settings, a profile and overrides into a checked experiment or study, and reads stored ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from attnsearch.config.base import Settings, dotted_keys, literal
from attnsearch.config.data import DataConfig
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.images import VIEWS, RootedData
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import MAX_LINES, MOVED_KEYS, Problems, T, elsewhere, pruner_problem, short, validate
from attnsearch.config.yaml_layers import Layer, merge, to_yaml
from attnsearch.config.yaml_nodes import Place, format_error
from attnsearch.config.yaml_reader import COMMAND_LINE, Kind, find_file, read_overrides, read_yaml
from attnsearch.errors import ConfigError, MissingPlugin, suggest
from attnsearch.plugins import is_loaded
from attnsearch.plugins import load as load_plugins

Source = str | Mapping[str, Any]
"""A bare name or a path, or the settings themselves."""
STUDY_KEYS = frozenset(StudyConfig.model_fields)
STAND_IN = {"name": "study", "seed": 1, "monitor": "val/accuracy", "monitor_direction": "maximize"}
"""What the trials take from their study, with values for a study that has problems: none is reported twice."""


@dataclass(frozen=True)
class LoadedStudy:
    """A checked study and the experiment that its trials start from."""

    study: StudyConfig
    experiment: ExperimentConfig


def load_experiment(
    name: Source, *, profile: str | None = None, overrides: Iterable[str] = (), plugins: Sequence[str] = ()
) -> ExperimentConfig:
    """The experiment in `configs/NAME.yaml` or a file, under a profile and `key=value` overrides.

    Args:
        name: a bare name, a path, or the settings themselves.
        plugins: modules that are imported first, beside those that the files and overrides name.
    Raises:
        ConfigError: every problem of the files and the overrides, one line each.
    """
    problems = Problems()
    layers = _experiment_layers(name, profile, overrides, problems)
    layers.append(_imported(layers, plugins))
    return _checked_experiment(layers, problems)


def load_study(
    name: Source, *, profile: str | None = None, overrides: Iterable[str] = (), plugins: Sequence[str] = ()
) -> LoadedStudy:
    """The study in `studies/NAME.yaml` or a file, with its experiment, under a profile and `key=value` overrides.

    Overrides that name a field of the study change the study, all others the experiment.

    Args:
        name: a bare name, a path, or the settings themselves.
        plugins: modules that are imported first, beside those that the files and overrides name.
    Raises:
        ConfigError: every problem of the files and the overrides, one line each.
    """
    problems = Problems()
    layers = _study_layers(name, profile, overrides, problems)
    problems.lines += pruner_problem(layers.study)
    layers.experiment.append(_imported(layers.experiment, plugins))
    return _checked_study(layers, problems)


def study_of_one(experiment: ExperimentConfig, *, storage: str | None = None) -> LoadedStudy:
    """The study that `train` runs: one trial, which is the experiment as it stands.

    Args:
        storage: the database; None is the experiment's own file.
    """
    values = {
        "name": experiment.name,
        "base": experiment.model_dump(mode="json"),
        "objectives": {experiment.monitor: experiment.monitor_direction},
        "monitor": experiment.monitor,
        "sampler": {"name": "fixed"},
        "n_trials": 1,
        "seed": experiment.seed,
        "storage": storage,
    }
    return LoadedStudy(validate(StudyConfig, Layer(values)), experiment)


def load_stored_settings(path: Path) -> StudyConfig:
    """The study in the `study.yaml` of a results folder, without its experiment, whose model may be unknown here.

    Raises:
        ConfigError: it is broken.
    """
    problems = Problems()
    layer = problems.read(lambda: read_yaml(path))
    return problems.settled(problems.check(StudyConfig, layer))


def load_stored_study(path: Path) -> LoadedStudy:
    """The study in the `study.yaml` of a results folder, which must hold all of its settings itself.

    Nothing that the file names is imported.

    Raises:
        ConfigError: it is broken, its model or data set is not registered, or its base is the name of another file,
            which the user did not ask to read.
    """
    base = read_yaml(path).values.get("base")
    if not isinstance(base, Mapping):
        raise ConfigError(f"{path}: base: must hold the settings themselves in a results folder, got {short(base)}")
    problems = Problems()
    layers = _study_layers(str(path), None, (), problems)
    with naming_plugins(_plugins(layers.experiment)):
        return _checked_study(layers, problems)


def starts_from(path: Path) -> list[str]:
    """What the trials of a stored study start from or learn from: checkpoints, `none`, `hub`.

    Its model may be of a plugin that is not imported here.

    Raises:
        ConfigError: the `study.yaml` is broken.
    """
    try:
        experiment = load_stored_study(path).experiment
    except MissingPlugin:
        base: Any = read_yaml(path).values["base"]
        named = [base["model"].get("weights"), (base["train"].get("teacher") or {}).get("checkpoint")]
        return [name for name in named if isinstance(name, str)]
    teacher = experiment.train.teacher
    return [experiment.model.weights, *([teacher.checkpoint] if teacher else [])]


def load_stored_experiment(path: Path) -> ExperimentConfig:
    """The experiment in the `config.yaml` of a trial, as a reader uses it: nothing that the file names is imported.

    Raises:
        ConfigError: it is broken, or its model or data set is not registered.
    """
    problems = Problems()
    layers = _experiment_layers(str(path), None, (), problems)
    with naming_plugins(_plugins(layers)):
        return without_variables(_checked_experiment(layers, problems))


def parse_experiment(text: str) -> ExperimentConfig:
    """The experiment that a checkpoint holds as JSON; nothing that it names is imported.

    Raises:
        ConfigError: it is broken, or its model or data set is not registered.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}") from error
    layer = Layer(values, {(): "config"}) if isinstance(values, dict) else Layer()
    with naming_plugins(_plugins([layer])):
        return validate(ExperimentConfig, layer)


@contextmanager
def naming_plugins(plugins: Iterable[str]) -> Iterator[None]:
    """Adds to the error of stored settings which plugins they were made with, where these are not imported.

    Where a name is unknown because of it, other problems are left out: they may follow from that.
    """
    try:
        yield
    except ConfigError as error:
        if missing := [plugin for plugin in plugins if not is_loaded(plugin)]:
            options = " ".join(f"--plugin {plugin!r}" for plugin in missing)
            lines = str(error).splitlines()
            reason = "; ".join([line for line in lines if "unknown name" in line] or lines)
            raise MissingPlugin(f"{reason}; made with plugins, which reading never imports: add {options}") from error
        raise


def without_variables(experiment: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the root of its data as it stands: its $VARIABLES are not expanded.

    For settings out of a results folder; overrides are merged afterwards.
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
    """Whether a file is a study, which names a base; where it cannot be read, its folder decides."""
    try:
        return "base" in read_yaml(path).values
    except ConfigError:
        return path.parent.name == "studies"


def _merged(layers: Sequence[Layer], model: type[BaseModel]) -> Layer:
    """The layers merged, of which a later one overrides those before it; in each of them keys may be dotted."""
    result = Layer({}, {(): layers[0].origin(())})
    for layer in layers:
        result = merge(result, layer, model)
    return result


def _profile(profile: str | None, problems: Problems) -> Layer:
    return Layer() if profile is None else problems.read(lambda: read_yaml(find_file(profile, ("configs/profiles",))))


def _own_profile(layer: Layer, profile: str | None, problems: Problems) -> Layer:
    """What a file itself holds for a profile, under `profiles`."""
    profiles = problems.block(layer, "profiles")
    parts = {name: problems.block(profiles, name, inside="profiles") for name in profiles.values}
    return parts.get(profile or "", Layer())


def _base(layer: Layer, problems: Problems) -> Layer:
    """The experiment that a study starts from, inlined or in another file."""
    base = layer.values.get("base")
    if isinstance(base, str):
        where = f"{layer.origin(('base',))}: base: "
        return problems.read(lambda: read_yaml(find_file(base, ("configs",))), origin=where)
    if not isinstance(base, dict):
        problems.is_complete = False  # its problem is one of the study
    return layer.part("base")


def _split(over: Layer, problems: Problems) -> tuple[Layer, Layer]:
    """(overrides of the study, of the experiment); a key that neither has is a problem."""
    keys = sorted(STUDY_KEYS | set(ExperimentConfig.model_fields))
    heads = {key: key.split(".")[0] for key in over.values}
    unknown = [key for key, head in heads.items() if head not in keys and key not in MOVED_KEYS]
    for key in unknown:
        hint = elsewhere(key, ExperimentConfig) or suggest(heads[key], keys)
        message = f"is not a key of a study or an experiment{hint}, got {short(over.values[key])}"
        problems.lines.append(format_error(over.origin((key,)), (key,), message))
    of_study = {key for key, head in heads.items() if head in STUDY_KEYS}
    return over.only(of_study), over.without(*of_study, *unknown)


def _read(source: Source, kind: Kind, problems: Problems) -> Layer:
    """The file of this name or path, or settings that Python code passed."""
    if isinstance(source, str):
        return problems.read(lambda: read_yaml(find_file(source, (kind,))))
    return Layer(json.loads(json.dumps(dict(source))), {(): "given settings"})


def _experiment_layers(name: Source, profile: str | None, overrides: Iterable[str], problems: Problems) -> list[Layer]:
    """The file of an experiment and its overrides, the strongest last."""
    base = _read(name, "configs", problems)
    shared, own = _profile(profile, problems), _own_profile(base, profile, problems)
    over = problems.read(lambda: read_overrides(overrides))
    return [base.without("profiles"), problems.block(shared, "overrides"), own, over]


def _checked_experiment(layers: Sequence[Layer], problems: Problems) -> ExperimentConfig:
    return problems.settled(problems.check(ExperimentConfig, _merged(layers, ExperimentConfig)))


@dataclass(frozen=True)
class _StudyLayers:
    """The merged settings of a study, and the layers of its experiment, the strongest last."""

    study: Layer
    experiment: list[Layer]


def _study_layers(name: Source, profile: str | None, overrides: Iterable[str], problems: Problems) -> _StudyLayers:
    written = _read(name, "studies", problems)
    shared, own = _profile(profile, problems), _own_profile(written, profile, problems)
    over = problems.read(lambda: read_overrides(overrides))
    of_study, of_experiment = _split(over, problems)

    of_the_study = [written.without("profiles"), shared.without("overrides"), own.without("overrides"), of_study]
    study = _without_null_parameters(_merged(of_the_study, StudyConfig))
    base = _base(study, problems)
    experiment = [
        base.without("profiles"),
        study.part("overrides"),
        problems.block(shared, "overrides"),
        _own_profile(base, profile, problems),
        problems.block(own, "overrides"),
        of_experiment,
    ]
    return _StudyLayers(study, experiment)


def _checked_study(layers: _StudyLayers, problems: Problems) -> LoadedStudy:
    study = problems.check(StudyConfig, layers.study, _unknown_parameters(layers.study))
    values = STAND_IN if study is None else {key: getattr(study, key) for key in STAND_IN}
    experiment = problems.check(ExperimentConfig, _merged([*layers.experiment, Layer(values)], ExperimentConfig))
    return LoadedStudy(problems.settled(study), problems.settled(experiment))


def _plugins(layers: Iterable[Layer]) -> list[str]:
    """The plugins of the last layer that names any; values that are not text are refused later."""
    written = [layer.values["plugins"] for layer in layers if isinstance(layer.values.get("plugins"), list)]
    return [plugin for plugin in written[-1] if isinstance(plugin, str)] if written else []


def _imported(layers: Iterable[Layer], named: Sequence[str]) -> Layer:
    """Imports the plugins of the layers and of a caller, which registers their parts; the layer that names them all.

    Raises:
        ConfigError: a plugin cannot be imported.
    """
    plugins = list(dict.fromkeys([*_plugins(layers), *named]))
    load_plugins(plugins)
    return Layer({"plugins": plugins}, {("plugins",): COMMAND_LINE}) if named else Layer()


def _unknown_parameters(layer: Layer) -> dict[Place, str]:
    """The place in the study -> a line, for each hyperparameter that no experiment has as a key."""
    keys = dotted_keys(ExperimentConfig)
    space = layer.part("space").values
    lines: dict[Place, str] = {}
    for key in [key for key in space if key not in keys][:MAX_LINES]:
        message = f"is not a key of an experiment{suggest(key, keys)}, got {short(space[key])}"
        lines["space", key] = format_error(layer.origin(("space", key)), ("space", key), message)
    return lines


def _without_null_parameters(layer: Layer) -> Layer:
    """The study without hyperparameters that a profile or an override sets to null."""
    space = layer.values.get("space")
    if not isinstance(space, dict):
        return layer
    searched = {key: parameter for key, parameter in space.items() if parameter is not None}
    return replace(layer, values={**layer.values, "space": searched})


def with_settings(experiment: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """A copy of an experiment with dotted settings applied and everything checked again.

    Raises:
        ConfigError: the settings do not fit.
    """
    written = Layer(experiment.model_dump(mode="json"))
    return validate(ExperimentConfig, merge(written, Layer(dict(settings)), ExperimentConfig))


def with_overrides(experiment: ExperimentConfig, overrides: Iterable[str]) -> ExperimentConfig:
    """A copy of an experiment under `key=value` overrides of a command line, checked again.

    Another data set is shown to the model as its own one was, unless the overrides name a size, crop or resizing.

    Raises:
        ConfigError: every problem of the overrides, one line each.
    """
    return _overridden(ExperimentConfig, experiment.model_dump(mode="json"), overrides)


class _OnlyData(Settings):
    """The data set of an experiment, without the rest."""

    data: DataConfig


def data_with_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> DataConfig:
    """The data set that plain values describe, under `data.key=value` overrides of a command line.

    Raises:
        ConfigError: every problem of values and overrides, one line each.
    """
    return _overridden(_OnlyData, {"data": dict(data)}, overrides).data


def _overridden(model: type[T], values: Mapping[str, Any], overrides: Iterable[str]) -> T:
    """The values under overrides; another data set takes none of those of the one before but `VIEWS`."""
    problems = Problems()
    over = problems.read(lambda: read_overrides(overrides))
    merged, before = merge(Layer(dict(values)), over, model), values["data"]
    if isinstance(data := merged.values["data"], dict):
        data |= {key: before[key] for key in VIEWS if key in before and key not in data}
    return problems.settled(problems.check(model, merged))


def resolved_study(loaded: LoadedStudy) -> str:
    """The whole study as YAML, its experiment inlined: `attnsearch search` takes this file like any other."""
    values = loaded.study.model_dump(mode="json")
    return to_yaml({**values, "base": loaded.experiment.model_dump(mode="json"), "overrides": {}})
