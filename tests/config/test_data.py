"""What may be written under `data:`."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from attnsearch.config.data import (
    MAX_SYNTHETIC_CLASSES,
    CubData,
    DataConfig,
    FolderData,
    Market1501Data,
    Msmt17Data,
    ReidFolderData,
    SyntheticData,
    Veri776Data,
)

ADAPTER: TypeAdapter[SyntheticData | FolderData | CubData] = TypeAdapter(DataConfig)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"name": "synthetic"}', SyntheticData),
        ('{"name": "folder", "root": "x"}', FolderData),
        ('{"name": "cub", "root": "x"}', CubData),
    ],
)
def test_the_name_chooses_the_settings_class(text: str, kind: type) -> None:
    assert type(ADAPTER.validate_json(text)) is kind


def test_an_unknown_data_set_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="imagenet"):
        ADAPTER.validate_json('{"name": "imagenet"}')


def test_a_folder_needs_a_root() -> None:
    with pytest.raises(ValidationError, match="root"):
        ADAPTER.validate_json('{"name": "folder"}')


@pytest.mark.parametrize(("size", "ratio", "resized"), [(224, 0.875, 256), (448, 0.875, 512), (96, 0.875, 109)])
def test_the_resized_side_follows_from_size_and_crop_ratio(size: int, ratio: float, resized: int) -> None:
    cfg = SyntheticData(image_size_px=size, crop_ratio=ratio)
    assert (cfg.resized_hw, cfg.cached_hw) == ((resized, resized), (resized, resized))


def test_a_larger_cache_is_kept_and_a_smaller_one_refused() -> None:
    assert SyntheticData(image_size_px=96, cache_px=150).cached_hw == (150, 150)
    with pytest.raises(ValidationError, match=r"at least .* = 109, got 100"):
        SyntheticData(image_size_px=96, cache_px=100)


def test_a_square_may_be_written_either_way() -> None:
    assert ADAPTER.validate_json('{"name": "folder", "root": "x", "image_size_px": [64, 64]}').image_size_px == 64


def test_a_rectangle_has_a_size_and_a_cache_of_its_own() -> None:
    cfg = FolderData(root="x", image_size_px=(48, 32), resize="crop", crop_ratio=0.8)
    assert (cfg.image_hw, cfg.resized_hw, cfg.cached_hw, cfg.aspect) == ((48, 32), (60, 40), (60, 40), 1.5)
    assert FolderData.model_validate_json(cfg.model_dump_json()) == cfg
    with pytest.raises(ValidationError, match=r"at least .* = \(60, 40\), got 50"):
        FolderData(root="x", image_size_px=(48, 32), crop_ratio=0.8, cache_px=50)


@pytest.mark.parametrize("size", [8, (48, 8), (5000, 48)])
def test_a_size_out_of_range_is_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match=r"from 16 to 4096 pixels, got .*(8|5000)"):
        SyntheticData(image_size_px=size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scale": (0.1, 0.9)}, "resize: squash or crop and no crop_scale, got 10"),
        ({"resize": "pad", "crop_ratio": 1.0}, "resize: squash or crop and no crop_scale, got 10"),
        ({"pad_px": 32}, r"less than the sides \(48, 32\) of an image, got 32"),
    ],
)
def test_padding_goes_with_crops_of_pixels_alone(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FolderData.model_validate({"root": "x", "image_size_px": (48, 32), "pad_px": 10, **changes})


def test_settings_that_older_files_lack_are_written_only_when_they_are_set() -> None:
    assert not {"pad_px", "erase"} & FolderData(root="x").model_dump().keys()
    cfg = FolderData(root="x", pad_px=10, erase=0.5)
    assert FolderData.model_validate_json(cfg.model_dump_json()) == cfg


def test_root_expands_home_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES", "birds")
    monkeypatch.setenv("HOME", "/home/ada")
    assert FolderData(root="~/$PICTURES").root_path == Path("/home/ada/birds")


@pytest.mark.parametrize("n_parts", sorted(MAX_SYNTHETIC_CLASSES))
def test_more_classes_than_codes_are_refused(n_parts: int) -> None:
    limit = MAX_SYNTHETIC_CLASSES[n_parts]
    assert SyntheticData(n_classes=limit, n_differing_parts=n_parts).n_classes == limit
    if limit < max(MAX_SYNTHETIC_CLASSES.values()):
        with pytest.raises(ValidationError, match=rf"at most {limit} .* got {limit + 1}"):
            SyntheticData(n_classes=limit + 1, n_differing_parts=n_parts)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("c(", r"must be a regular expression, got 'c\('"),
        ("c.", r"must have one group, the camera, got 0 in 'c.'"),
        ("(c)(.)", r"must have one group, the camera, got 2"),
        ("(a+)+$", r"repeat no group, got '\(a\+\)\+\$'"),
        (r"(?:a|aa)*(b)", r"repeat no group"),
        (r".*.*.*.*(b)", r"at most 3 of"),
        (r"a?a?a?a?a?(b)", r"and 4 of"),
        ("(?x)(a+) +", r"repeat no group"),
        ("x" * 99 + "()", r"at most 100 characters"),
    ],
)
def test_patterns_that_may_take_long_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReidFolderData(root="x", camera_pattern=pattern)


@pytest.mark.parametrize(
    "pattern", [r"c(\d+)_", r"([^/]+)/", r"\w+_cam([A-Z*+]+)\.", r"(?:c|cam)(\d{1,3})", r"\)\+(c)"]
)
def test_patterns_of_cameras_are_taken(pattern: str) -> None:
    assert ReidFolderData(root="x", camera_pattern=pattern).camera_pattern == pattern


def test_identities_are_read_whole_and_without_changes_of_colour() -> None:
    for data, size_hw in ((Market1501Data, (256, 128)), (Msmt17Data, (256, 128)), (Veri776Data, (256, 256))):
        settings = data(root="x")
        assert (settings.task, settings.image_hw, settings.resized_hw) == ("reid", size_hw, size_hw)
        assert (settings.flip, settings.brightness, settings.saturation) == (0.5, 0, 0)
