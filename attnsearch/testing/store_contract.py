"""What every `TrialStore` promises, as tests: a test class that inherits them gives a fixture `open_store`."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from attnsearch.errors import LeaseLost
from attnsearch.store.file_records import FileRecord
from attnsearch.store.image_scores import ScoreTable, make_table
from attnsearch.store.leases import Leases
from attnsearch.store.score_journal import ImageScore
from attnsearch.store.trial_store import TrialStore
from attnsearch.types import EpochRecord, Split

CHECKPOINT = FileRecord("br_npa/trials/00007/best.safetensors", (), "", "00", 3)
MAPS = FileRecord("br_npa/trials/00007/attMaps_val.npy", (4, 3, 2, 2), "float32", "11", 2**33)

OpenStore = Callable[..., TrialStore]


class StoppedClock:
    """A clock that only a test moves; seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def epoch_record(epoch: int, split: Split = "train", loss: float = 0.5, **metrics: float) -> EpochRecord:
    """One pass over a split, with constant costs."""
    return EpochRecord(
        epoch=epoch,
        split=split,
        n_images=10,
        loss=loss,
        terms={"cross_entropy": loss},
        metrics=metrics,
        lr=0.1,
        seconds=2.0,
        images_per_s=5.0,
        peak_memory_mb=64.0 if split == "train" else 32.0,
    )


def score_table(digest: str = "d1", deletions: tuple[float, ...] = (0.25, 0.75), **about: Any) -> ScoreTable:
    """One scoring with the metrics `deletion` and `gini`, of as many images as there are values."""
    rows = [ImageScore(str(index), {"deletion": value, "gini": 0.5}, {}) for index, value in enumerate(deletions)]
    described = {"version": 1, "split": "val", "settings": {"n_steps": 2}, "checkpoint": {"epoch": 2}}
    return make_table(rows, (), {**described, "digest": digest, **about})


def _die(leases: Leases, *, epoch: int | None = None) -> int:
    """Count of stalled attempts after one more at trial 7 was killed; `epoch` is the last that it finished."""
    attempt = leases.claim(7, "w", duration_s=300)
    leases.renew(7, attempt, epoch=epoch, duration_s=300)
    return leases.take_back(7, attempt)


class LeasesContract:
    """Tests of the leases of a store."""

    @pytest.fixture
    def clock(self) -> StoppedClock:
        return StoppedClock()

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """Opens the store of a study by its UUID, with a `clock`; all on one database, empty at first."""
        raise NotImplementedError("give this suite a fixture `open_store`")

    @pytest.fixture
    def store(self, open_store: OpenStore, clock: StoppedClock) -> TrialStore:
        return open_store("study", clock=clock)

    @pytest.fixture
    def leases(self, store: TrialStore) -> Leases:
        return store.leases

    def test_attempts_count_from_one_per_trial(self, leases: Leases) -> None:
        assert [leases.claim(7, worker, duration_s=300) for worker in "uvw"] == [1, 2, 3]
        assert leases.claim(8, "w", duration_s=300) == 1

    def test_claim_whose_answer_was_lost_is_not_a_second_attempt(self, leases: Leases) -> None:
        assert [leases.claim(7, "w", duration_s=300) for _ in range(2)] == [1, 1]
        assert leases.take_back(7) == 1

    def test_release_whose_answer_was_lost_counts_once(self, leases: Leases) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        assert [leases.release(7, attempt, stalled=True) for _ in range(2)] == [1, 1]

    def test_lease_is_found_by_its_worker_while_it_is_held(self, leases: Leases) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        lease = leases.held_by("w")
        assert lease is not None
        assert (lease.number, lease.attempt) == (7, attempt)
        leases.release(7, attempt, stalled=False)
        assert leases.held_by("w") is None

    def test_held_leases_are_those_of_the_study_that_have_not_ended(
        self, leases: Leases, open_store: OpenStore
    ) -> None:
        open_store("another study").leases.claim(5, "w", duration_s=300)
        attempts = {number: leases.claim(number, f"w{number}", duration_s=300) for number in (7, 8, 9)}
        leases.release(8, attempts[8], stalled=False)
        leases.take_back(9)
        assert [(lease.number, lease.worker) for lease in leases.held()] == [(7, "w7")]

    def test_epochs_and_stalled_trials_of_a_study_are_counted(self, leases: Leases, open_store: OpenStore) -> None:
        other = open_store("another study").leases
        other.renew(1, other.claim(1, "w", duration_s=9), epoch=50, duration_s=9)
        for number, epoch in ((3, 4), (7, 0), (8, 6)):
            attempt = leases.claim(number, "w", duration_s=300)
            leases.renew(number, attempt, epoch=epoch, duration_s=300)
            leases.release(number, attempt, stalled=True)
        assert (leases.n_epochs(), leases.n_epochs(without=8)) == (10, 4)
        assert leases.stalled() == {7: 1}

    def test_same_trial_number_of_another_study_is_another_trial(self, leases: Leases, open_store: OpenStore) -> None:
        leases.claim(7, "w", duration_s=300)
        assert open_store("another study").leases.claim(7, "w", duration_s=300) == 1

    def test_holder_passes_the_check_and_keeps_its_record(self, leases: Leases, clock: StoppedClock) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        leases.check(7, attempt)
        lease = leases.of_trial(7)
        assert lease is not None
        assert (lease.number, lease.attempt, lease.worker, lease.expires_at) == (7, 1, "w", clock.now + 300)
        assert (lease.epoch, lease.stalled, lease.state) == (0, 0, "held")

    def test_renewal_counts_from_now(self, leases: Leases, clock: StoppedClock) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        clock.now += 100
        assert leases.seconds_left(7) == 200
        leases.renew(7, attempt, duration_s=600)
        assert leases.seconds_left(7) == 600

    def test_late_worker_continues_if_nobody_took_its_trial(self, leases: Leases, clock: StoppedClock) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        clock.now += 1000
        leases.renew(7, attempt, duration_s=300)
        assert leases.seconds_left(7) == 300

    @pytest.mark.parametrize("end", ["take_back", "release", "claim"])
    def test_paused_worker_is_fenced_off(self, leases: Leases, end: str) -> None:
        stale = leases.claim(7, "paused", duration_s=300)
        if end == "take_back":
            leases.take_back(7)
        elif end == "release":
            leases.release(7, stale, stalled=False)
        else:
            leases.claim(7, "fresh", duration_s=300)

        writes: list[Callable[[], object]] = [
            lambda: leases.check(7, stale),
            lambda: leases.renew(7, stale, epoch=9, duration_s=300),
        ]
        if end != "release":  # which may be repeated
            writes.append(lambda: leases.release(7, stale, stalled=True))
        for write in writes:
            with pytest.raises(LeaseLost, match="attempt 1 at trial 7"):
                write()
        lease = leases.of_trial(7)
        assert lease is not None
        assert lease.epoch == 0

    def test_trial_never_claimed_belongs_to_nobody(self, leases: Leases) -> None:
        with pytest.raises(LeaseLost, match=r"attempt 1 at trial 7 .* belongs to nobody"):
            leases.check(7, 1)
        assert leases.of_trial(7) is None
        assert leases.seconds_left(7) == 0
        assert leases.take_back(7) == 0

    def test_attempts_without_a_new_epoch_are_counted_in_a_row(self, leases: Leases) -> None:
        assert [_die(leases), _die(leases), _die(leases)] == [1, 2, 3]

    def test_new_epoch_starts_the_count_again(self, leases: Leases) -> None:
        counts = [_die(leases), _die(leases, epoch=1), _die(leases, epoch=1), _die(leases), _die(leases, epoch=2)]
        assert counts == [1, 0, 1, 2, 0]

    def test_clean_stop_neither_counts_nor_forgives(self, leases: Leases) -> None:
        _die(leases)
        attempt = leases.claim(7, "w", duration_s=300)
        leases.release(7, attempt, stalled=False)
        assert _die(leases) == 2

    def test_clean_stop_after_a_new_epoch_starts_the_count_again(self, leases: Leases) -> None:
        _die(leases)
        attempt = leases.claim(7, "w", duration_s=300)
        leases.renew(7, attempt, epoch=4, duration_s=300)
        leases.release(7, attempt, stalled=False)
        assert _die(leases) == 1

    def test_stalled_release_counts(self, leases: Leases) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        leases.release(7, attempt, stalled=True)
        assert _die(leases) == 2

    def test_claim_over_a_silent_attempt_counts_it(self, leases: Leases) -> None:
        leases.claim(7, "killed with its supervisor", duration_s=300)
        assert _die(leases) == 2

    def test_two_supervisors_count_one_death_once(self, leases: Leases) -> None:
        attempt = leases.claim(7, "w", duration_s=300)
        assert [leases.take_back(7, attempt), leases.take_back(7, attempt)] == [1, 1]

    def test_late_supervisor_cannot_end_the_next_attempt(self, leases: Leases) -> None:
        seen_dead = leases.claim(7, "w", duration_s=300)
        leases.take_back(7, seen_dead)
        attempt = leases.claim(7, "fresh", duration_s=300)
        with pytest.raises(LeaseLost, match="belongs to attempt 2"):
            leases.take_back(7, seen_dead)
        leases.check(7, attempt)

    def test_threads_that_claim_at_once_get_different_attempts(self, leases: Leases) -> None:
        with ThreadPoolExecutor(4) as pool:
            attempts = list(pool.map(lambda name: leases.claim(7, name, duration_s=300), "abcdefgh"))
        assert sorted(attempts) == list(range(1, 9))


class TrialStoreContract(LeasesContract):
    """Tests of a whole store."""

    def test_study_is_changed_by_one_holder_at_a_time(self, store: TrialStore) -> None:
        entered = threading.Event()

        def enter() -> None:
            with store.exclusive():
                entered.set()

        thread = threading.Thread(target=enter)
        with store.exclusive():
            thread.start()
            assert not entered.wait(0.1)
        thread.join(60)
        assert entered.is_set()

    def test_lock_ends_with_a_block_that_fails(self, store: TrialStore) -> None:
        with pytest.raises(KeyError), store.exclusive():
            raise KeyError
        with store.exclusive():
            assert store.leases.n_epochs() == 0

    def test_store_keeps_the_time_of_its_leases(self, store: TrialStore, clock: StoppedClock) -> None:
        clock.now += 5
        assert store.now() == 1005.0
        assert not store.is_away
        assert not store.was_away_within(0)

    def test_records_come_back_as_one_row_per_epoch(self, store: TrialStore) -> None:
        train, val = epoch_record(1, loss=0.1 + 0.2, accuracy=0.25), epoch_record(1, "val", loss=1 / 3, accuracy=0.5)
        store.write_epochs(7, [train, val, epoch_record(2)], attempt=None)
        frame = store.read_epochs()
        assert frame[["trial", "epoch"]].values.tolist() == [[7, 1], [7, 2]]
        first = frame.iloc[0]
        assert (first["train/loss"], first["val/loss"]) == (0.1 + 0.2, 1 / 3)
        assert (first["train/accuracy"], first["val/accuracy"]) == (0.25, 0.5)
        assert (first["train/loss_cross_entropy"], first["train/lr"], first["val/n_images"]) == (0.1 + 0.2, 0.1, 10)
        assert frame["val/accuracy"].isna().tolist() == [False, True]

    def test_epochs_of_some_trials_are_read(self, store: TrialStore, open_store: OpenStore) -> None:
        for number in (1, 2, 3):
            store.write_epochs(number, [epoch_record(1)], attempt=None)
        open_store("another study").write_epochs(1, [epoch_record(1)], attempt=None)
        assert store.read_epochs([3, 1])["trial"].tolist() == [1, 3]
        assert store.read_epochs([9]).columns.tolist() == ["trial", "epoch"]
        assert len(store.read_epochs()) == 3

    def test_no_epoch_is_best_where_a_metric_is_nowhere_defined(self, store: TrialStore) -> None:
        store.write_epochs(7, [epoch_record(1, accuracy=0.5), epoch_record(1, "val", recall=0.5)], attempt=None)
        for numbers, missing in (([7], "val/accuracy"), ([7], "train/recall"), ([8], "val/recall"), ([], "val/recall")):
            found = store.read_best_epochs(numbers, ["train/accuracy", missing], is_higher=True)
            assert (found.n_trials, found.values.shape) == (0, (0, 2))

    def test_trials_with_more_metrics_than_others_stand_beside_them(self, store: TrialStore) -> None:
        many = {f"accuracy_{index}": index / 64 for index in range(40)}
        store.write_epochs(1, [epoch_record(epoch, accuracy=0.5) for epoch in (1, 2)], attempt=None)
        store.write_epochs(2, [replace(epoch_record(epoch), metrics=many) for epoch in (1, 2)], attempt=None)
        frame = store.read_epochs().set_index(["trial", "epoch"])
        assert len(frame.columns) == 7 + 1 + 40
        assert [frame[f"train/{name}"].iloc[3] for name in many] == list(many.values())
        assert frame["train/accuracy"].isna().tolist() == [False, False, True, True]
        store.write_epochs(2, [epoch_record(1, loss=0.25)], attempt=None)
        assert store.read_epochs([2]).dropna(axis=1)["train/loss"].tolist() == [0.25]

    def test_value_that_an_epoch_no_longer_has_is_forgotten(self, store: TrialStore) -> None:
        for accuracy in (0.5, math.nan):
            records = [epoch_record(1, accuracy=accuracy), epoch_record(2, accuracy=0.25)]
            store.write_epochs(7, records, attempt=None)
        assert store.read_epochs()["train/accuracy"].fillna(0).tolist() == [0, 0.25]

    def test_nothing_is_written_without_records(self, store: TrialStore) -> None:
        store.write_epochs(7, [], attempt=1)
        assert store.read_epochs().empty

    def test_writing_epochs_again_changes_nothing(self, store: TrialStore) -> None:
        for _ in range(2):
            store.write_epochs(7, [epoch_record(1), epoch_record(2, accuracy=0.5)], attempt=None)
        frame = store.read_epochs()
        assert frame["epoch"].tolist() == [1, 2]
        assert len(frame.columns) == 2 + 8  # loss, its term, n_images, four costs, and one metric

    def test_resumed_attempt_overwrites_and_forgets_later_epochs(self, store: TrialStore) -> None:
        store.write_epochs(7, [epoch_record(epoch, loss=0.9) for epoch in (1, 2, 3)], attempt=None)
        store.write_epochs(8, [epoch_record(3)], attempt=None)
        store.write_epochs(7, [epoch_record(1, loss=0.9), epoch_record(2, loss=0.4)], attempt=None)
        assert store.read_epochs([7])["train/loss"].tolist() == [0.9, 0.4]
        assert store.read_epochs([8])["epoch"].tolist() == [3]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-308, 0.1])
    def test_every_float_survives(self, store: TrialStore, value: float) -> None:
        store.write_epochs(7, [epoch_record(1), epoch_record(1, "val", accuracy=value)], attempt=None)
        (stored,) = store.read_epochs().get("val/accuracy", [math.nan])
        assert stored == value or (math.isnan(stored) and math.isnan(value))

    def test_stale_attempt_cannot_write(self, store: TrialStore) -> None:
        stale = store.leases.claim(7, "paused", duration_s=300)
        store.leases.take_back(7)
        attempt = store.leases.claim(7, "fresh", duration_s=300)
        store.write_epochs(7, [epoch_record(1, loss=0.4)], attempt=attempt)
        writes: list[Callable[[], object]] = [
            lambda: store.write_epochs(7, [epoch_record(1, loss=0.9)], attempt=stale),
            lambda: store.write_scores(7, score_table(), attempt=stale),
            lambda: store.write_artifacts(7, {"best": CHECKPOINT}, attempt=stale),
        ]
        for write in writes:
            with pytest.raises(LeaseLost, match=r"attempt 1 at trial 7 .* attempt 2 \(held, worker 'fresh'\)"):
                write()
        assert store.read_epochs()["train/loss"].tolist() == [0.4]
        assert store.read_scores().empty
        assert store.read_artifacts() == {}

    def test_attempt_without_any_lease_cannot_write(self, store: TrialStore) -> None:
        with pytest.raises(LeaseLost, match=r"attempt 1 at trial 7 .* belongs to nobody"):
            store.write_epochs(7, [epoch_record(1)], attempt=1)

    def test_each_score_carries_its_version_and_settings(self, store: TrialStore) -> None:
        store.write_scores(3, score_table(deletions=(0.25, math.nan)), attempt=None)
        row = store.read_scores().set_index("metric").loc["deletion"]
        assert (row["trial"], row["split"], row["value"], row["version"]) == (3, "val", 0.25, 1)
        assert (row["n_images"], row["n_undefined"], json.loads(str(row["settings"]))) == (2, 1, {"n_steps": 2})
        assert store.read_scores()["standard_error"].isna().tolist() == [True, False]  # the first is of one image

    def test_standard_error_of_a_score_stands_beside_it(self, store: TrialStore) -> None:
        store.write_scores(3, score_table(deletions=(0.25, 0.75)), attempt=None)
        errors = store.read_scores().set_index("metric")["standard_error"]
        assert errors.to_dict() == {"deletion": pytest.approx(0.25), "gini": 0.0}  # 0.5 / sqrt(2) / sqrt(2)

    def test_undefined_mean_is_nan(self, store: TrialStore) -> None:
        store.write_scores(0, score_table(deletions=(math.nan,)), attempt=None)
        values = store.read_scores().set_index("metric")["value"]
        assert math.isnan(values["deletion"])
        assert values["gini"] == 0.5

    def test_same_scoring_replaces_itself_and_another_one_stands_beside_it(self, store: TrialStore) -> None:
        for table in (score_table("d1"), score_table("d2", version=2), score_table("d1", deletions=(1.0, 1.0))):
            store.write_scores(0, table, attempt=None)
        rows = store.read_scores()
        deletion = rows[rows["metric"] == "deletion"]
        assert dict(zip(deletion["digest"], deletion["value"], strict=True)) == {"d1": 1.0, "d2": 0.5}

    def test_one_scoring_written_by_two_at_once_stands_there_once(self, store: TrialStore) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: store.write_scores(0, score_table(), attempt=None), range(16)))
        assert store.read_scores()["metric"].tolist() == ["deletion", "gini"]

    def test_scores_of_a_running_trial_join_the_metrics_of_its_best_epoch(self, store: TrialStore) -> None:
        attempt = store.leases.claim(0, "here:1:a", duration_s=100.0)
        store.write_epochs(0, [epoch_record(epoch, "val", accuracy=0.125) for epoch in (1, 2, 3)], attempt=attempt)
        for epoch in (1, 2):  # the second time, another epoch is the best
            store.write_scores(0, score_table(checkpoint={"epoch": epoch}), attempt=attempt)
        epochs = store.read_epochs().set_index("epoch")
        assert epochs["val/deletion"].dropna().to_dict() == {2: 0.5}
        assert (epochs["val/accuracy"] == 0.125).all()  # what the epoch measured itself stays

    def test_files_come_back_by_trial_and_kind(self, store: TrialStore, open_store: OpenStore) -> None:
        store.write_artifacts(7, {"maps": MAPS, "best": CHECKPOINT}, attempt=None)
        store.write_artifacts(8, {"best": CHECKPOINT}, attempt=None)
        assert store.read_artifacts() == {7: {"best": CHECKPOINT, "maps": MAPS}, 8: {"best": CHECKPOINT}}
        assert store.read_artifacts([8]) == {8: {"best": CHECKPOINT}}
        assert open_store("another study").read_artifacts() == {}

    def test_later_file_of_a_kind_replaces_the_earlier(self, store: TrialStore) -> None:
        later = FileRecord(CHECKPOINT.path, (), "", "22", 4)
        store.write_artifacts(7, {"best": CHECKPOINT}, attempt=None)
        store.write_artifacts(7, {"best": later}, attempt=None)
        assert store.read_artifacts() == {7: {"best": later}}
