"""Everything the pages read from, in one object: library, archives, scores, pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.explorer.archives import Archives, OpenArchive
from attnsearch.explorer.hits import TargetHits
from attnsearch.explorer.images import Pictures
from attnsearch.results.cache import FileCache
from attnsearch.results.reader import Results, studies_of
from attnsearch.results.trial import Scores
from attnsearch.search.trials import StudyRows, TrialRow
from attnsearch.store.layout import StudyLayout

MAX_DIGITS = 10


def _best(rows: StudyRows) -> TrialRow | None:
    """The best trial by the first objective; of a Pareto front that end."""
    front = [trial for trial in rows.trials if trial.number in rows.best and trial.values]
    sign = -1 if next(iter(rows.objectives.values()), "") == "minimize" else 1
    return max(front, key=lambda trial: sign * trial.values[0], default=None)


@dataclass(frozen=True, eq=False)
class Named:
    """One trial's archive of one split."""

    layout: StudyLayout
    number: int
    opened: OpenArchive


@dataclass
class Reading:
    """The readers of one server."""

    library: Results
    archives: Archives = field(default_factory=Archives)
    scores: Scores = field(default_factory=Scores)
    pictures: Pictures = field(default_factory=Pictures)
    pages: FileCache[dict[str, Any]] = field(default_factory=lambda: FileCache(8), repr=False)
    _rows: FileCache[dict[str, int]] = field(default_factory=lambda: FileCache(64), repr=False)

    def __post_init__(self) -> None:
        self.places = TargetHits(self.pictures)

    def studies(self) -> list[StudyLayout]:
        return self.library.studies()

    def summary(self, layout: StudyLayout) -> dict[str, Any]:
        """One row of the list of studies; one that cannot be read says why."""
        name: dict[str, Any] = {"experiment": layout.experiment, "study": layout.study}
        try:
            rows = self.library.rows(layout)
        except AttnSearchError as error:
            return {**name, "fault": str(error)}
        states = [trial.state for trial in rows.trials]
        best = _best(rows)
        return {
            **name,
            "fault": None,
            "n_trials": len(states),
            "n_running": states.count("running"),
            "n_failed": states.count("fail"),
            "objectives": list(rows.objectives),
            "values": [] if best is None else list(best.values),
            "best": None if best is None else best.number,
            "n_best": len(rows.best),
            "is_run": not layout.study_yaml.is_file(),
        }

    def row_of(self, opened: OpenArchive, image_id: str) -> int:
        """The row of an image.

        Raises:
            ConfigError: the archive has no such image.
        """
        rows = self._row_in(opened)
        if image_id not in rows:
            raise ConfigError(f"its maps have no image {image_id!r}")
        return rows[image_id]

    def _row_in(self, opened: OpenArchive) -> dict[str, int]:
        ids = opened.archive.image_ids
        return self._rows.get(id(opened), opened, lambda: {one: row for row, one in enumerate(ids)})

    def named(self, experiment: str, study: str, number: str, split: str) -> Named:
        """The archive of a trial by the words of a URL.

        Raises:
            ConfigError, StoreError: there is none, or it cannot be read.
        """
        if not (number.isascii() and number.isdecimal() and len(number) < MAX_DIGITS):
            raise ConfigError(f"a trial is named STUDY:NUMBER, got {f'{study}:{number}'!r}")
        layout = self.library.find(experiment, study)
        return Named(layout, int(number), self.archives.open(layout, int(number), split))

    def image_and_neighbours(self, first: Named | None, image_id: str) -> tuple[str, dict[str, str | None]]:
        """The image that is asked for, or the first one, and those before and after it in the order of one archive."""
        ids = () if first is None else first.opened.archive.image_ids
        image_id = image_id or (ids[0] if ids else "")
        at = self._row_in(first.opened).get(image_id) if first is not None else None
        before = ids[at - 1] if at else None
        after = ids[at + 1] if at is not None and at + 1 < len(ids) else None
        return image_id, {"previous": before, "next": after}

    def comparable(self, experiment: str) -> list[dict[str, str]]:
        """All trials of an experiment that have maps, as choices.

        Raises:
            ConfigError: no such experiment.
        """
        if experiment not in self.library.experiments:
            raise ConfigError(f"no experiment {experiment!r}")
        return [
            {"t": f"{layout.study}:{number}", "label": f"{layout.study} {number}"}
            for layout in studies_of(self.library.experiments[experiment])
            for number in self.archives.numbers(layout)
        ]
