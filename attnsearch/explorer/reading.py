"""Everything the pages read from, in one object: library, archives, scores, pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.explorer.library import Library
from attnsearch.explorer.maps import Archives, OpenArchive
from attnsearch.explorer.memo import Memo
from attnsearch.explorer.pictures import Pictures
from attnsearch.explorer.places import Places
from attnsearch.explorer.scores import Scores
from attnsearch.store.layout import StudyLayout


@dataclass
class Reading:
    """The readers of one server."""

    library: Library
    archives: Archives = field(default_factory=Archives)
    scores: Scores = field(default_factory=Scores)
    pictures: Pictures = field(default_factory=Pictures)
    _rows: Memo[dict[str, int]] = field(default_factory=lambda: Memo(64), repr=False)

    def __post_init__(self) -> None:
        self.places = Places(self.pictures)

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
        best = next((trial for trial in rows.trials if trial.number in rows.best), None)
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
        ids = opened.archive.image_ids
        rows = self._rows.get(id(opened), opened, lambda: {one: row for row, one in enumerate(ids)})
        if image_id not in rows:
            raise ConfigError(f"its maps have no image {image_id!r}")
        return rows[image_id]
