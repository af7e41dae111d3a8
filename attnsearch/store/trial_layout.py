"""Paths and file names of one trial: its own files, those of its archives and scores, and its published ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attnsearch.types import Split

RetrievalTable = Literal["rankings", "cameras", "identities", "camera_matrix", "ranked_queries", "reranked"]
TrialTable = Literal["confusion", "classes", "maps", "leakage"] | RetrievalTable
"""What the tables that are made of a trial hold."""
_RESUME = re.compile(r"resume\.(\d+)\.pt")
_FRAME = re.compile(r"([1-9]\d{0,8})\.npy")


def named_file(folder: Path, name: str, *, before: str) -> Path:
    """A file under its name, or under the one that version 0.1 gave it where only such a file is there."""
    path, old = folder / name, folder / before
    return old if old.exists() and not path.exists() else path


@dataclass(frozen=True)
class ArchivePaths:
    """Where the archive of one split lies; `images` is written last. The last three are of re-identification alone."""

    maps: Path
    norms: Path
    saliency: Path
    images: Path
    about: Path
    retrieval: Path
    features: Path
    ranks: Path

    @classmethod
    def of(cls, folder: Path, ending: str) -> ArchivePaths:
        """The files of a folder whose names end in `ending`."""
        kinds = ("attMaps", "norm", "saliency", "features", "ranks")
        maps, norms, saliency, features, ranks = (folder / f"{kind}{ending}.npy" for kind in kinds)
        images, retrieval = (folder / f"{kind}{ending}.csv" for kind in ("images", "retrieval"))
        return cls(maps, norms, saliency, images, folder / f"archive{ending}.json", retrieval, features, ranks)

    @property
    def arrays(self) -> Mapping[str, Path]:
        """Field of `AttentionArchive` -> its `.npy` file."""
        return {"maps": self.maps, "norms": self.norms, "saliency": self.saliency}

    @property
    def large(self) -> tuple[Path, ...]:
        """The files that retention may remove."""
        return (*self.arrays.values(), self.features, self.ranks)

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file, the one that makes the archive readable last."""
        return (*self.large, self.retrieval, self.about, self.images)


@dataclass(frozen=True)
class ScorePaths:
    """Where the scores of one archive's saliency lie; `about` comes last, `journal` holds what was measured so far."""

    table: Path
    curves: Path
    about: Path
    journal: Path


@dataclass(frozen=True)
class PublishedLayout:
    """The published files of one trial; `epoch` is the best one, from 1."""

    directory: Path
    study: str
    epoch: int

    def model_csv(self, split: Split) -> Path:
        """One row of scores: `model<study>_epoch<E>_<split>.csv`."""
        return self.directory / f"model{self._ending(split)}.csv"

    def archive(self, split: Split = "test") -> ArchivePaths:
        """Maps, norms and index; `split` is "val" where a data set has no test images."""
        return ArchivePaths.of(self.directory, self._ending(split))

    def _ending(self, split: Split) -> str:
        return f"{self.study}_epoch{self.epoch}_{split}"


@dataclass(frozen=True)
class ExplainedPaths:
    """A photograph that a person sent to the explorer and kept, and what the model of a trial made of it."""

    directory: Path

    def photo(self, suffix: str) -> Path:
        """The photograph as it was sent; `suffix` has its dot."""
        return self.directory / f"photo{suffix}"

    @property
    def saliency(self) -> Path:
        """(h, w) float32."""
        return self.directory / "saliency.npy"

    @property
    def maps(self) -> Path:
        """(K, h, w) float32."""
        return self.directory / "maps.npy"

    @property
    def about(self) -> Path:
        """What was predicted, and the names of the maps."""
        return self.directory / "explanation.json"


@dataclass(frozen=True)
class TrialLayout:
    """The files of one trial."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def epochs_csv(self) -> Path:
        return self.directory / "epochs.csv"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def texts(self) -> dict[str, Path]:
        """Name -> path of what people read as it is; not all of them need to exist."""
        return {path.name: path for path in (self.config, self.log)}

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return named_file(self.directory, "best.safetensors", before="kept.safetensors")

    @property
    def progress(self) -> Path:
        """How far the running epoch is; gone between epochs."""
        return self.directory / "progress.json"

    def resume(self, attempt: int) -> Path:
        """The state from which the next attempt continues; each attempt writes its own."""
        return self.directory / f"resume.{attempt}.pt"

    def resumes(self) -> dict[int, Path]:
        """Attempt -> resume checkpoint, those that exist, latest attempt first."""
        files = self.directory.iterdir() if self.directory.is_dir() else ()
        checkpoints = {int(match[1]): file for file in files if (match := _RESUME.fullmatch(file.name))}
        return dict(sorted(checkpoints.items(), reverse=True))

    @property
    def film_images(self) -> Path:
        """Which images the film strip shows."""
        return self.directory / "film" / "images.csv"

    def film_frame(self, epoch: int) -> Path:
        """Their saliency after an epoch, from 1."""
        return self.film_images.with_name(f"{epoch}.npy")

    def film_epochs(self) -> list[int]:
        """The epochs whose frames lie there, ascending."""
        folder = self.film_images.parent
        files = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(match[1]) for file in files if (match := _FRAME.fullmatch(file.name)))

    def explained(self, key: str) -> ExplainedPaths:
        """A kept photograph, by the key of its bytes."""
        return ExplainedPaths(self.directory / "explained" / key)

    def archive(self, split: Split) -> ArchivePaths:
        """Maps, norms and index of the best epoch on one split."""
        return ArchivePaths.of(self.directory, f"_{split}")

    def kept_files(self) -> list[Path]:
        """All files but those that only an unfinished trial needs."""
        unfinished = {self.progress, *self.resumes().values(), *self.directory.glob("scores_*.part")}
        return [path for path in sorted(self.directory.rglob("*")) if path.is_file() and path not in unfinished]

    def exported_arrays(self) -> list[Path]:
        """Features and ranks of re-identification, those that exist, of archives and of `attnsearch retrieval`."""
        return sorted(path for kind in ("features", "ranks") for path in self.directory.glob(f"{kind}_*.npy"))

    def scores(self, split: Split, *, is_refined: bool = False) -> ScorePaths:
        """The scores of the saliency in `archive(split)`, or those of more images that a race has measured."""
        ending = f"{split}_refined" if is_refined else split
        return ScorePaths(
            table=self.directory / f"scores_{ending}.csv",
            curves=self.directory / f"curves_{ending}.npy",
            about=self.directory / f"scores_{ending}.json",
            journal=self.directory / f"scores_{ending}.part",
        )

    def baselines_csv(self, split: Split) -> Path:
        """One row per baseline map: the means of its scores."""
        return named_file(self.directory, f"baselines_{split}.csv", before=f"references_{split}.csv")

    def table_csv(self, table: TrialTable, ending: str) -> Path:
        """A table that a command writes; `ending` is the split, and what else differs from the run."""
        return self.directory / f"{table}_{ending}.csv"

    def queries_csv(self) -> Path:
        """One row per class query of an INTR."""
        return self.directory / "queries.csv"


def is_resume_checkpoint(path: Path) -> bool:
    return _RESUME.fullmatch(path.name) is not None
