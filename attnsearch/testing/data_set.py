"""What every data set must do, as a suite that tests subclass."""

from __future__ import annotations

import pytest

from attnsearch import plugins
from attnsearch.config.images import DataSettings
from attnsearch.data.fixed_rows import fixed_queries
from attnsearch.data.images import decode_resized
from attnsearch.data.listing import Listing, list_images
from attnsearch.data.tables import build_tables
from attnsearch.geometry import Resizing


class DataSetContract:
    """Subclass it as `TestMine` with a fixture `settings` that returns those of a small, whole data set."""

    @pytest.fixture
    def settings(self) -> DataSettings:
        """The settings of a small data set without problems."""
        raise NotImplementedError("give this suite a fixture `settings`")

    @pytest.fixture
    def listing(self, settings: DataSettings) -> Listing:
        """Its images."""
        return list_images(settings)

    def test_its_settings_are_registered_and_survive_a_file(self, settings: DataSettings) -> None:
        registered = plugins.find("dataset", settings.name).settings
        assert registered is type(settings)
        assert registered.model_validate_json(settings.model_dump_json()) == settings

    def test_images_are_sorted_by_class_and_then_by_name(self, listing: Listing) -> None:
        """Identities by their names; classes in the order of the labels."""
        is_reid = listing.match_rule is not None
        names = sorted({image.class_name for image in listing.images}) if is_reid else listing.class_names
        order = {name: label for label, name in enumerate(names)}
        for split in ("train", "val", "test"):
            labels = [order[image.class_name] for image in listing.images if image.split == split]
            assert labels == sorted(labels)
        assert len(set(listing.class_names)) == len(listing.class_names) >= 2

    def test_there_are_no_problems(self, listing: Listing) -> None:
        """Errors; a part of a published data set is a warning in re-identification."""
        is_reid = listing.match_rule is not None
        assert [problem for problem in listing.problems if problem.is_error or not is_reid] == []
        assert any(image.split == "train" for image in listing.images)

    def test_ids_are_unique_relative_paths(self, listing: Listing) -> None:
        ids = [image.image_id for image in listing.images]
        assert len(set(ids)) == len(ids)
        assert not [name for name in ids if name.startswith("/") or ".." in name.split("/") or "\\" in name]

    def test_listing_twice_gives_the_same(self, settings: DataSettings, listing: Listing) -> None:
        again = list_images(settings)
        assert [image.image_id for image in again.images] == [image.image_id for image in listing.images]
        assert again.class_names == listing.class_names

    def test_every_image_and_mask_can_be_read(self, listing: Listing) -> None:
        for image in listing.images:
            pixels, size_hw = decode_resized(image.path, Resizing((8, 8), "squash"))
            assert pixels.shape == (8, 8, 3)
            assert min(size_hw) > 0
            assert image.mask_path is None or image.mask_path.is_file()

    def test_tables_have_training_and_validation_images_of_every_class(self, settings: DataSettings) -> None:
        """In re-identification, of every identity of the split."""
        tables = build_tables(settings)
        for table in tables.present():
            assert set(table.labels.tolist()) == set(range(len(table.class_names)))
            assert table.match_rule is not None or table.class_names == tables.class_names
        assert not set(tables.train.image_ids) & set(tables.val.image_ids)

    def test_its_task_is_that_of_its_listing(self, settings: DataSettings, listing: Listing) -> None:
        assert settings.task == ("classification" if listing.match_rule is None else "reid")

    def test_identities_are_held_out_and_can_be_found(self, settings: DataSettings, listing: Listing) -> None:
        """In re-identification: training sees no other split's identities, and some queries have a match."""
        if listing.match_rule is None:
            pytest.skip("classes and no identities")
        train, *others = build_tables(settings).present()
        assert train.is_query is None
        for table in others:
            assert not set(train.class_names) & set(table.class_names)
            assert fixed_queries(table, None)
            assert set(table.removal_keys.tolist()) <= set(range(len(table.camera_names) or len(table)))
