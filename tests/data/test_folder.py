"""Class folders and what is said when they are wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.config.data import FolderData
from attnsearch.data.folder import list_images
from attnsearch.data.tables import DataTables, build_from_listing, hash_ids
from attnsearch.errors import DataError

MakeTree = Callable[..., Path]


def tables(root: Path, **settings: object) -> DataTables:
    cfg = FolderData(root=str(root), **settings)  # type: ignore[arg-type]
    return build_from_listing(list_images(cfg), cfg)


def test_three_splits_are_read_in_class_and_name_order(small_tree: Path) -> None:
    found = tables(small_tree)
    assert found.class_names == ("crow", "wren")
    assert found.train.image_ids[4:6] == ("train/crow/4.jpg", "train/wren/0.jpg")
    assert found.train.labels.tolist() == [0] * 5 + [1] * 4
    assert found.val.image_ids == ("val/crow/0.jpg", "val/crow/1.jpg", "val/wren/0.jpg", "val/wren/1.jpg")
    assert found.test is not None
    assert found.test.paths[0] == small_tree / "test/crow/0.jpg"


def test_validation_is_another_name_of_val(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 1})
    assert tables(root).val.image_ids == ("validation/a/0.jpg", "validation/b/0.jpg")


def test_two_validation_folders_are_refused(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "validation/a": 1, "val/a": 1})
    with pytest.raises(DataError, match=r"val and .*validation are both validation splits"):
        tables(root)


def test_a_pair_of_folders_is_found_by_their_common_name(make_tree: MakeTree, tmp_path: Path) -> None:
    make_tree({"b_train/x": 4, "b_train/y": 4, "b_test/x": 1, "b_test/y": 1}, root="data")
    found = tables(tmp_path / "data" / "b", val_share=0.25)
    assert found.root == tmp_path / "data"
    assert found.test is not None
    assert found.test.image_ids == ("b_test/x/0.jpg", "b_test/y/0.jpg")
    assert (len(found.train), len(found.val)) == (6, 2)


def test_a_relative_root_gives_absolute_paths(small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_tree.parent)
    assert tables(Path("birds")).train.paths[0] == small_tree / "train/crow/0.jpg"


def test_images_are_found_in_depth_by_any_known_ending_and_hidden_files_left_out(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
    for name in ("deep/er/1.JPG", "2.tiff", "3.WebP", "notes.txt", "._4.jpg", "5.gif"):
        path = root / "train/a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    ids = [i for i in tables(root).train.image_ids if i.startswith("train/a/")]
    assert ids == ["train/a/0.jpg", "train/a/2.tiff", "train/a/3.WebP", "train/a/deep/er/1.JPG"]


def test_the_held_out_share_is_stratified_and_disjoint(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 20, "train/b": 10, "train/c": 2})
    found = tables(root, val_share=0.2)
    assert [int((found.val.labels == label).sum()) for label in range(3)] == [4, 2, 1]  # at least one of each
    assert not set(found.val.image_ids) & set(found.train.image_ids)
    assert len(found.val) + len(found.train) == 32
    assert found.test is None


def test_the_held_out_share_depends_on_the_split_seed_alone(make_tree: MakeTree) -> None:
    counts = {"train/a": 20, "train/b": 20}
    first, other = make_tree(counts, root="one"), make_tree(dict(reversed(counts.items())), root="two")
    assert tables(first).val.image_ids == tables(other).val.image_ids
    assert tables(first).val_hash == tables(other).val_hash
    assert tables(first, split_seed=2).val_hash != tables(first).val_hash


def test_the_val_hash_is_that_of_the_sorted_ids(small_tree: Path) -> None:
    found = tables(small_tree)
    # printf 'val/crow/0.jpg\nval/crow/1.jpg\nval/wren/0.jpg\nval/wren/1.jpg' | sha256sum
    assert found.val_hash == hash_ids(reversed(found.val.image_ids))
    assert found.val_hash.startswith("4209db7460f374f6")


def test_a_class_of_one_image_cannot_be_split(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 3, "train/single": 1})
    with pytest.raises(DataError, match=r"single has 1 training image \(train/single/0.jpg\)"):
        tables(root)


def test_a_data_set_without_test_says_so(make_tree: MakeTree) -> None:
    with pytest.raises(DataError, match="no test split"):
        tables(make_tree({"train/a": 2, "train/b": 2})).of("test")


def test_a_missing_root_suggests_a_near_name(small_tree: Path) -> None:
    with pytest.raises(DataError, match=r"bird does not exist; did you mean .*birds\?"):
        tables(small_tree.with_name("bird"))


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere in it does not"):
        tables(tmp_path / "nowhere" / "birds")


def test_a_root_without_train_lists_what_it_holds(make_tree: MakeTree) -> None:
    with pytest.raises(DataError, match=r"no train folder \(sub-folders: crow, test\); the layout must be one of: "):
        tables(make_tree({"crow": 1, "test/wren": 1}))


def test_the_train_folder_itself_names_the_folder_above(small_tree: Path) -> None:
    with pytest.raises(DataError, match=f"train folder itself; write the folder that holds it, {small_tree}$"):
        tables(small_tree / "train")


def test_the_layout_of_cub_is_recognised(make_tree: MakeTree) -> None:
    root = make_tree({"images": 0})
    (root / "images.txt").touch()
    with pytest.raises(DataError, match=r"data\.name=cub"):
        tables(root)


def test_all_problems_of_the_layout_are_told_at_once(make_tree: MakeTree) -> None:
    root = make_tree({"train/crow": 1, "train/wren": 0, "train/owl": 2, "test/crow": 1, "test/wren": 1, "test/emu": 1})
    with pytest.raises(DataError) as caught:
        tables(root)
    text = str(caught.value)
    assert "train/wren holds no image" in text
    assert "train and test must hold the same classes, but only in train: owl; only in test: emu" in text


@pytest.mark.parametrize(("counts", "found"), [({"train": 0}, "none"), ({"train/crow": 3}, "crow")])
def test_fewer_than_two_classes_are_refused(make_tree: MakeTree, counts: dict[str, int], found: str) -> None:
    with pytest.raises(DataError, match=f"at least 2 class folders, found {found}"):
        tables(make_tree(counts))


def test_masks_beside_the_images_are_taken_up(small_tree: Path) -> None:
    for image in list(small_tree.rglob("*.jpg")):
        mask = (small_tree / "masks" / image.relative_to(small_tree)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.touch()
    found = tables(small_tree).val.mask_paths
    assert found is not None
    assert found[0] == small_tree / "masks/val/crow/0.png"


def test_incomplete_masks_are_ignored_with_a_warning(small_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (small_tree / "masks").mkdir()
    assert tables(small_tree).val.mask_paths is None
    assert "16 of 16 masks are missing" in caplog.text
