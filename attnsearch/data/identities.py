"""Validation of re-identification: identities held out of train, and queries among their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from attnsearch.data.hold_out import HoldOut, hash_text
from attnsearch.data.listing import MATCH_UNDER, ListedImage
from attnsearch.errors import DataError
from attnsearch.types import MatchRule, Split

LEAST_IDENTITIES = 2
"""Identities that train and validation need at least."""


def by_identity(images: Iterable[ListedImage]) -> dict[str, list[ListedImage]]:
    """The images of each identity, in their order."""
    members: dict[str, list[ListedImage]] = defaultdict(list)
    for image in images:
        members[image.class_name].append(image)
    return dict(members)


def can_match(members: Sequence[ListedImage], rule: MatchRule) -> bool:
    """Whether images of one identity are matches of each other: they come from two cameras, groups or contents."""
    return len({image.removal_key(rule) for image in members}) > 1


def hold_out_identities(
    images: Sequence[ListedImage], rule: MatchRule, settings: HoldOut, *, to: Split = "val"
) -> tuple[ListedImage, ...]:
    """Moves a fraction of train's identities to another split, each with all of its images, at least two and never all.

    A hash of seed and name orders the identities, so that the choice is the same on every machine. Those without two
    images that match stay in train, where they can be learned from and not be tested. Identities that near-duplicates
    connect go together or stay.

    Raises:
        DataError: too few identities can be held out.
    """
    members = by_identity(image for image in images if image.split == "train")
    ranked = sorted(members, key=settings.rank)
    connected = _connected(members, settings)
    matched = {name for name in members if can_match(members[name], rule)}
    usable = [name for name in ranked if connected[name] <= matched]
    n_wanted = max(LEAST_IDENTITIES, round(len(members) * settings.fraction))
    n_held = min(n_wanted, len(members) - LEAST_IDENTITIES)
    held = _first(usable, connected, n_held)
    if len(usable) < n_held or min(n_held, len(held)) < LEAST_IDENTITIES:
        raise DataError(
            f"train has {len(members)} identities, of which {len(usable)} have {MATCH_UNDER[rule]}; {n_wanted} of them "
            f"must be held out for {to} and {LEAST_IDENTITIES} be left; add identities, change data.{to}_share, or "
            f"give a {to} split"
        )
    is_held = [image.split == "train" and image.class_name in held for image in images]
    return tuple(replace(image, split=to) if moves else image for image, moves in zip(images, is_held, strict=True))


def _first(names: Iterable[str], connected: Mapping[str, frozenset[str]], n_held: int) -> frozenset[str]:
    """The first identities with those that they are connected with, as long as there are no more than so many."""
    held: frozenset[str] = frozenset()
    for name in names:
        if len(held | connected[name]) <= n_held:
            held |= connected[name]
    return held


def _connected(members: Mapping[str, Sequence[ListedImage]], settings: HoldOut) -> dict[str, frozenset[str]]:
    """Identity -> those that near-duplicates connect it with, itself included."""
    of_group: dict[int | str, set[str]] = defaultdict(set)
    for name, images in members.items():
        for image in images:
            of_group[settings.group_of(image)].add(name)
    connected = {name: frozenset({name}) for name in members}
    for names in of_group.values():
        joined = frozenset().union(*(connected[name] for name in names))
        if len(joined) > 1:
            connected |= dict.fromkeys(joined, joined)
    return connected


def choose_queries(
    images: Sequence[ListedImage], rule: MatchRule, *, split: Split, seed: int
) -> tuple[ListedImage, ...]:
    """Marks queries among the images of a split that has none; the others are its gallery.

    Each camera (or group) of an identity gives one query, chosen by a hash of seed and id, as long as it keeps an image
    in the gallery; an identity whose cameras have one image each gives one query. Every query has a match.
    """
    of_split = [image for image in images if image.split == split]
    if any(image.is_query for image in of_split):
        return tuple(images)
    queries = {
        image.image_id
        for members in by_identity(of_split).values()
        if can_match(members, rule)
        for image in _queries_of(members, rule, seed)
    }
    return tuple(
        replace(image, is_query=True) if image.split == split and image.image_id in queries else image
        for image in images
    )


def _queries_of(members: Sequence[ListedImage], rule: MatchRule, seed: int) -> list[ListedImage]:
    """The queries among the images of one identity."""
    ranked = sorted(members, key=lambda image: hash_text(f"{seed}\n{image.image_id}"))
    of_key: dict[str, list[ListedImage]] = defaultdict(list)
    for image in ranked:
        of_key[image.removal_key(rule)].append(image)
    return [of_one[0] for of_one in of_key.values() if len(of_one) > 1] or ranked[:1]
