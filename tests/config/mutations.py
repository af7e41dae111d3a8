"""Damaged configs, studies, profiles and overrides, out of a seed; and what the loader says to them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.config.base import dotted_keys
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import is_study, load_experiment, load_study, resolved_study, with_overrides
from attnsearch.config.study import StudyConfig
from attnsearch.errors import ConfigError, DataError
from attnsearch.search.space import extreme_experiments

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_bytes() for kind in ("configs", "studies")
           for path in sorted((ROOT / kind).rglob("*.yaml"))}  # fmt: skip
STUDIES, CONFIGS, PROFILES = (
    [name for name in SOURCES if Path(name).parent.as_posix() == kind]
    for kind in ("studies", "configs", "configs/profiles")
)
KEYS = [*dotted_keys(ExperimentConfig), *dotted_keys(StudyConfig), "profiles", "profiles.demo", "enqueue.0", "lr"]
KEYS += [f"space.{key}{end}" for key in dotted_keys(ExperimentConfig) for end in ("", ".low", ".choices", ".when")]
ODD_KEYS = ("", ".", "a..b", "space.", "space.x", "<<", "? [a]", "*a", "&a b", "!!int x", '"\\0"', "é", "a" * 3000)
DEEP = ("a." * 3000 + "b", "{a: " * 150, "[" * 3000, "- " * 3000, "? " * 300, "[" * 99 + "]" * 99, "{" * 2000)
SCALARS = (
    *("", "~", "null", "true", "yes", "0", "-0", "1", "-1", "007", "0x1F", "0b", "-_", "1_000", "1e3", "1e999"),
    *("-.inf", ".nan", "1e-320", "9" * 5000, "0x" + "f" * 5000, "1." + "9" * 5000, str(2**63), "2001-99-99"),
    *("2001-12-31", "=", "<<", '"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', '"\\xZZ"', "'", '"', "a\tb", "é\u2028\ufeff"),
    *("x" * 5000, "%YAML 1.1", "@x", "`", "!!int abc", "!!float x", "!!bool yes", "!!str 3", "!!null x", "! 3"),
    *("!!binary YWJj", "!!timestamp 1", "!foo x", "!!python/object:os.system x", "&a 1", "*a", "*unknown"),
    *("|\n  x", ">-\n x", "# x", "--- x", "...", "x\n---\ny", "$HOME", "../x", "/dev/zero", "study:x"),
)
BLOCKS = (
    *("[]", "{}", "[[]]", "{a: 1}", "{a: {b: 1}, a.b: 2}", "{a: 1, a: 2}", "{[1]: 2}", "{? a: b}", "{: 1}"),
    *("{null: 1}", "!!omap [a: 1]", "!!set {a, b}", "&a [*a]", "&a {b: *a}", "{<<: 3}", "{<<: {a: 1}}", "{<<: *a}"),
    *("{<<: [{name: cnn}, 3], x: 1}", "{a: &a {lr: 1}, b: {<<: *a, lr: 2}}", "{name: cnn}", "{name: [1]}"),
    *("{name: {name: x}}", "{kind: int}", "{kind: float, low: -1e308, high: 1e308}", "{a.a.a.a: {a.a.a: 1}}"),
    *("{kind: float, low: 0, high: 1e300, step: 1e-300}", "{kind: choice, choices: [[1]]}", "[{a: 1}, {b.c: {d: 1}}]"),
    *("{kind: int, low: -9223372036854775807, high: 9223372036854775807}", "{kind: int, low: 1, high: 3}"),
    *("{kind: int, low: 1, high: 2, when: {seed: []}}", "{kind: choice, choices: [1, true, 1.0, '1', null]}"),
    *("{kind: choice, choices: [], when: {x: [1]}}", "{" + "a." * 60 + "a: {" + "a." * 60 + "a: 1}}"),
    "&a [1,2,3,4,5,6,7,8,9]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c]",
    "[" + "1, " * 12_000 + "1]",
    "{" + ", ".join(f"k{index}: {index}" for index in range(2_000)) + "}",
)
VALUES = (*SCALARS, *BLOCKS, *DEEP)
TOKEN = re.compile(rb"[A-Za-z0-9_.\-]+|[^\sA-Za-z0-9_.\-]|\s+")


@dataclass(frozen=True)
class Case:
    """One command: files by their names, and its words."""

    verb: str
    name: str
    profile: str | None
    overrides: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]


def cases(seed: int, n_cases: int) -> Iterator[Case]:
    """Commands with one to three problems each; the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(n_cases):
        verb = rng.choice(("search", "search", "train", "evaluate"))
        name = rng.choice(STUDIES if verb == "search" else CONFIGS)
        profile = rng.choice((None, None, None, "demo", "demo", "photos", "unknown"))
        damaged = [name] * (rng.random() < 0.7) + rng.sample([*CONFIGS, *PROFILES], k=rng.choice((0, 0, 0, 1, 2)))
        files = tuple((one, _damaged(SOURCES[one], rng)) for one in dict.fromkeys(damaged))
        overrides = tuple(_override(rng) for _ in range(rng.choice((0, 0, 1, 1, 3))))
        yield Case(verb, name, profile, overrides, files)


def _damaged(text: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice(MUTATIONS)(text, rng)
    return text


def _bytes(text: bytes, rng: random.Random) -> bytes:
    """Changes, drops or adds a few bytes."""
    start, n_bytes = rng.randrange(len(text) + 1), rng.choice((0, 1, 1, 2, 8, 60))
    new = rng.choice(
        (b"", rng.randbytes(rng.choice((1, 4))), rng.choice((b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\t")))
    )
    return text[:start] + new + text[start + n_bytes :]


def _lines(text: bytes, rng: random.Random) -> bytes:
    """Drops, doubles, moves, indents or joins a line, or takes one from another file."""
    lines = text.split(b"\n")
    index, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    foreign = rng.choice(SOURCES[rng.choice(list(SOURCES))].split(b"\n"))
    changed = rng.choice(
        ([], [lines[index]] * 2, [lines[other]], [b"  " + lines[index]], [lines[index].strip()], [foreign])
    )
    return b"\n".join([*lines[:index], *changed, *lines[index + 1 :]])


def _tokens(text: bytes, rng: random.Random) -> bytes:
    """Drops, swaps or replaces a word or sign."""
    tokens = TOKEN.findall(text) or [b""]
    index, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    nasty = rng.choice((*VALUES, *ODD_KEYS)).encode("utf-8", "surrogatepass")
    tokens[index] = rng.choice((b"", tokens[other], nasty, rng.choice(KEYS).encode(), b"&a " + tokens[index], b"*a"))
    return b"".join(tokens)


def _values(text: bytes, rng: random.Random) -> bytes:
    """Puts a value where another one stands."""
    places = [found.end() for found in re.finditer(rb":\s", text)]
    if not places:
        return text
    start = rng.choice(places)
    end = text.find(b"\n", start) if rng.random() < 0.7 else start
    return text[:start] + rng.choice(VALUES).encode("utf-8", "surrogatepass") + text[end if end >= 0 else len(text) :]


def _added(text: bytes, rng: random.Random) -> bytes:
    """Adds a key."""
    key = rng.choice(KEYS) if rng.random() < 0.8 else rng.choice(ODD_KEYS)
    return text + f"\n{key}: {rng.choice(VALUES)}\n".encode("utf-8", "surrogatepass")


MUTATIONS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _bytes,
    _lines,
    _tokens,
    _tokens,
    _values,
    _values,
    _added,
)


def _override(rng: random.Random) -> str:
    key = rng.choice(KEYS) if rng.random() < 0.8 else rng.choice((*ODD_KEYS, *DEEP))
    text = key + rng.choice(("=", "=", "=", "=", "=", "", "==", " = ")) + rng.choice(VALUES)
    if rng.random() < 0.2:
        start = rng.randrange(len(text) + 1)
        text = text[:start] + rng.choice(("", "\udcff", "\0", ".", "=", "\n")) + text[start + 1 :]
    return text


def put(case: Case, folder: Path) -> None:
    """Writes the files of a case beside the sound ones; `folder` is where the commands are to run."""
    for name, content in {**SOURCES, **dict(case.files)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def is_accepted(case: Case) -> bool:
    """Whether the loader takes a case, by the functions that the commands call; what it takes, it writes and reads."""
    try:
        if case.verb == "search":
            _search(case)
        elif case.verb == "train":
            load_experiment(case.name, profile=case.profile, overrides=case.overrides)
        else:
            with_overrides(load_experiment(case.name), case.overrides)
    except (ConfigError, DataError) as error:
        str(error).encode()  # what cannot be printed would end in a traceback
        return False
    return True


def _search(case: Case) -> None:
    is_study(Path(case.name))
    loaded = load_study(case.name, profile=case.profile, overrides=case.overrides)
    extreme_experiments(loaded)
    written = Path("resolved.yaml")
    written.write_text(resolved_study(loaded), encoding="utf-8")
    again = load_study(str(written))
    assert (again.study.space, again.experiment) == (loaded.study.space, loaded.experiment)
