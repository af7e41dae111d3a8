"""What every store does with a trial of another study."""

from __future__ import annotations

import math

from attnsearch.store.trial_store import TrialStore
from attnsearch.testing.store_contract import OpenStore, epoch_record, score_table


class CopyContract:
    """Tests of `write_copy`."""

    def test_copy_has_the_epochs_and_scores_of_a_trial_of_another_study(
        self, store: TrialStore, open_store: OpenStore
    ) -> None:
        other = open_store("another study")
        records = [epoch_record(1, "val", accuracy=1 / 3), epoch_record(2, "val", accuracy=math.nan)]
        other.write_epochs(7, records, attempt=None)
        other.write_epochs(8, [epoch_record(1)], attempt=None)
        for digest in ("d1", "d2"):
            other.write_scores(7, score_table(digest), attempt=None)
        scores = other.read_scores()
        for _ in range(2):  # a second time changes nothing
            store.write_copy(3, other.read_epochs([7]), scores)
        epochs = store.read_epochs()
        assert epochs["trial"].tolist() == [3, 3]
        assert epochs.drop(columns="trial").equals(other.read_epochs([7]).drop(columns="trial"))
        copied = store.read_scores()
        assert set(copied["trial"]) == {3}
        assert copied.drop(columns="trial").equals(scores.drop(columns="trial"))
