"""What the first process of a trial on several devices orders, and what the others do then: train and score along."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnsearch import plugins
from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import DONE, TRANSIENT, RankLost
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.score_archive import ArchiveScoring
from attnsearch.store.score_journal import ImageScore
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.parallel import Ranks, join_torchrun, leave_ranks
from attnsearch.training.trainer import fit, follow_epochs
from attnsearch.types import Spread, TrialContext, TrialResult

logger = logging.getLogger(__name__)


def fit_together(config: ExperimentConfig, context: TrialContext, *, data: DataSource, ranks: Ranks) -> TrialResult:
    """`fit` on all ranks: orders the others to train along.

    Raises:
        As `fit`, and what prevents another rank from it.
    """
    _send(ranks, config, {"do": "train"})
    return fit(config, context, data=data, ranks=ranks)


def spread_over(ranks: Ranks, config: ExperimentConfig, layout: TrialLayout) -> Spread | None:
    """Over which processes the scores of a trial's best checkpoint are measured: all ranks, a chunk each in turn."""
    return None if ranks.n_ranks == 1 else _OverRanks(ranks, config, layout)


@dataclass(frozen=True)
class _OverRanks:
    """The `Spread` over ranks of which this is the first."""

    ranks: Ranks
    config: ExperimentConfig
    layout: TrialLayout

    def __call__(
        self,
        score: Callable[[slice], list[ImageScore]],
        chunks: Sequence[slice],
        keep: Callable[[list[ImageScore]], None],
        settings: ScoreSettings,
    ) -> None:
        ranks = self.ranks
        order = {"do": "score", "directory": str(self.layout.directory), "scores": settings.model_dump_json()}
        _send(ranks, self.config, order)
        with ranks.together():
            for start in range(0, len(chunks), ranks.n_ranks):
                several = chunks[start : start + ranks.n_ranks]
                ranks.exchange([(chunk.start, chunk.stop) for chunk in several])
                for rows in ranks.exchange([vars(row) for row in score(several[0])])[: len(several)]:
                    keep([ImageScore(**row) for row in rows])
            ranks.exchange(None)


def _score_along(order: Mapping[str, Any], config: ExperimentConfig, data: DataSource, ranks: Ranks) -> None:
    """Measures the chunks that are this rank's turn."""
    layout, settings = TrialLayout(Path(order["directory"])), ScoreSettings.model_validate_json(order["scores"])
    with ranks.together(), Evaluation.open(layout.best, data, config=config) as opened:
        score = ArchiveScoring.start(opened, layout.archive("val"), settings).score
        while (several := ranks.exchange()[0]) is not None:
            own = [slice(*chunk) for chunk in several[ranks.rank : ranks.rank + 1]]
            ranks.exchange([vars(row) for chunk in own for row in score(chunk)])


def _send(ranks: Ranks, config: ExperimentConfig, order: Mapping[str, Any]) -> None:
    """Tells the other ranks what to do for a trial with these settings, and waits until they have opened its data."""
    ranks.exchange({"plugins": list(config.plugins), "settings": config.model_dump_json(), **order})
    with ranks.together():
        pass


def follow_orders(join: Callable[[], Ranks] = join_torchrun) -> int:
    """Does what the first rank orders, until that lets this one go or ends; returns the exit code.

    Signals are for the first rank, which ends all.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ranks, data = join(), None
    try:
        while (order := ranks.exchange()[0]) is not None:
            data = _obey(order, ranks, data)
    except RankLost as error:
        logger.info("%s", error)
        return TRANSIENT
    finally:
        leave_ranks()
    return DONE


def _obey(order: Mapping[str, Any], ranks: Ranks, data: DataSource | None) -> DataSource | None:
    """Trains or scores a trial along, or fails with all; returns the data set, which is kept open for the next one.

    Raises:
        RankLost: nobody is there to train with.
    """
    try:
        with ranks.together():
            plugins.load(order["plugins"])
            config = ExperimentConfig.model_validate_json(order["settings"])
            data = open_data(config.data) if data is None else data.serving(config.data)
        if order["do"] == "score":
            _score_along(order, config, data, ranks)
        else:
            follow_epochs(config, data=data, ranks=ranks)
    except RankLost:
        raise
    except Exception as error:
        logger.info("this ends here too: %s: %s", type(error).__name__, error)
    return data
