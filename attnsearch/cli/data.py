"""Commands on data sets: `data make`, `check`, `organize` and `cache`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import print_json, print_line, print_table, print_written, size
from attnsearch.cli._data_card import print_numbers, print_problems, write_card
from attnsearch.cli._options import AsJson, Overrides
from attnsearch.errors import DONE, MISUSED, ConfigError

if TYPE_CHECKING:
    from attnsearch.config.data import DataConfig, SyntheticData


def data_settings(data: str, overrides: Iterable[str]) -> DataConfig:
    """What a config says, or what a folder looks like.

    Args:
        data: a config, a folder, or the first of the overrides, which then describe the whole data set.
    Raises:
        ConfigError: a wrong setting.
        DataError: the folder holds several data sets.
    """
    from attnsearch.config.load import data_with_overrides, load_experiment
    from attnsearch.config.yaml_reader import list_names
    from attnsearch.data.detection import detected_name

    if "=" in data and not Path(data).exists():
        return data_with_overrides({}, [data, *overrides])
    if data in list_names("configs") or data.endswith((".yaml", ".yml")):
        return load_experiment(data, overrides=overrides).data
    return data_with_overrides({"name": detected_name(Path(data)), "root": data}, overrides)


def synthetic_settings(overrides: Iterable[str]) -> SyntheticData:
    """The synthetic data set under `data.key=value` overrides.

    Raises:
        ConfigError: a wrong setting, or another data set.
    """
    from attnsearch.config.data import SyntheticData
    from attnsearch.config.load import data_with_overrides

    data = data_with_overrides({"name": "synthetic"}, overrides)
    if not isinstance(data, SyntheticData):
        raise ConfigError(f"command line: data.name: only synthetic data can be drawn, got {data.name!r}; leave it out")
    return data


app = typer.Typer(help="Make, check and organize data sets, and manage the cache of decoded images.")

Target = Annotated[Path, typer.Argument(help="A new folder.")]


@app.command()
def make(target: Target, overrides: Overrides = None) -> None:
    """Draw the synthetic birds into a folder, as JPEG files with masks of the parts that tell classes apart."""
    from attnsearch.data.synthetic.dataset import make_synthetic

    make_synthetic(synthetic_settings(overrides or ()), target)
    print_line(f"made {target}; use it with data.name=folder data.root={target}")


@app.command()
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A data folder, or a file of configs/ by its bare name; else settings name it all."
        ),
    ],
    overrides: Overrides = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the card with a contact sheet as one page.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Open every image, show what the data set holds, and list everything that is wrong with it."""
    from attnsearch.data.check import check_data

    found = check_data(data_settings(data, overrides or ()))
    if html is not None:
        write_card(found, html)
    if as_json:
        numbers = [counted.values() for counted in (found.identities, found.card) if counted]
        for values in [*numbers, *map(vars, found.problems)]:
            print_json(values)
    else:
        print_numbers(found)
        print_problems(found.problems)
        if html is not None:
            print_written(html)
    return MISUSED if any(problem.is_error for problem in found.problems) else DONE


@app.command()
def organize(
    source: Annotated[Path, typer.Argument(help="The CUB_200_2011 folder as it is downloaded.")],
    target: Target,
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies.")] = False,
) -> None:
    """Sort CUB-200-2011 into train and test folders of class folders."""
    from attnsearch.data.cub import organize_cub

    print_line(f"{organize_cub(source, target, link=link)} images in {target}")


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything; it is made again when needed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show or clear the decoded images and synthetic birds."""
    from attnsearch.data.built_folders import cache_dir, clear_cache, list_caches

    if clear:
        print_line(f"{size(clear_cache())} freed in {cache_dir()}")
        return
    entries = list_caches()
    if as_json:
        for entry in entries:
            print_json({"kind": entry.kind, "path": entry.path, "bytes": entry.n_bytes, **entry.about})
        return
    rows = [(entry.kind, size(entry.n_bytes), str(entry.about.get("root", "-")), entry.path.name) for entry in entries]
    print_table(("kind", "size", "made from", "name"), rows, title=str(cache_dir()))
