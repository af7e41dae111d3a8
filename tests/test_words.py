"""Texts use the words of the field: help, messages, comments, docstrings, pages, scripts and READMEs."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ODD = {
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix, or say how",
    r"whoever": "name who",
    r"lonely|kindly": "a plain sentence",
    r"(go|goes|going|went) on(?! (cuda|cpu|gpu|the (gpu|disk)))": "continues",
    r"says so|hands on": "a plain sentence",
    r"the same company|its company": "the same batch",
    r"pictures?(?![/\"])": "image",  # a path of the explorer has this name
    r"(a|the|its|their|same|this|that|each|smallest|largest) share|shares? (of|in)": "fraction",
    r"faults?(?!\.py)": "problem, error",
    r"drawn (birds?|images?|pictures?|ones)": "synthetic birds",
    r"looks? at (the )?test": "test evaluations",
    r"(axis|axes|corners?) of (the|a|its) (search )?space": "hyperparameter, range limit",
    r"kept (epochs?|checkpoints?)": "best epoch, best checkpoint",
    r"verbs?": "command",
    r"kinds? of figures?": "figure type",
    r"(goes|go|went) back to waiting": "returns to the queue",
    r"strongest cell": "pointing game: hit, miss",
    r"what accuracy costs": "accuracy-faithfulness trade-off",
    r"best stays best": "same winner on random halves",
    r"mean of classes": "balanced accuracy",
    r"one branch: combined": "combined prediction",
    r"(?<!there )is no (folder|key|valid|utf-8)|no json": "is not",
}
PATTERN = re.compile(r"\b(?:" + "|".join(f"(?P<w{n}>{word})" for n, word in enumerate(ODD)) + r")\b")
"""Of lower-case text: 20 times as fast as ignoring the case."""
KINDS = (".py", ".md", ".html", ".js", ".css", ".sh", ".yaml", ".cfg", ".toml")
LATER: tuple[str, ...] = ()
"""Files and folders whose words are still to be changed; everything else is clean."""


def texts() -> Iterator[Path]:
    """What people read, but for the changelog, which tells of old names."""
    tops = ("attnsearch", "configs", "studies", "shell", "examples", "docs")
    yield from (path for top in tops for path in sorted((ROOT / top).rglob("*")) if path.suffix in KINDS)
    yield from (
        ROOT / name
        for name in ("README.md", "results/README.md", "CONTRIBUTING.md", "mkdocs.yml", ".ci/run", "setup.cfg")
    )
    yield from sorted((ROOT / ".github").rglob("*.yml"))
    yield from (path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__).resolve())


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text): of a Python file its strings and comments, of a test no other string than docstrings."""
    content = path.read_text(encoding="utf-8")
    if not PATTERN.search(content.lower()):
        return
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    nodes = list(ast.walk(ast.parse(content)))
    if path.is_relative_to(ROOT / "tests"):
        nodes = [node.value for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno + index, line) for index, line in enumerate(node.value.splitlines()))
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def odd_words(path: Path) -> list[str]:
    place = path.relative_to(ROOT).as_posix()
    return [
        f"{place}:{number}: {match[0]!r}: write {list(ODD.values())[int((match.lastgroup or 'w0')[1:])]}"
        for number, line in lines_of(path)
        for match in PATTERN.finditer(line.lower())
    ]


def is_later(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(LATER)


def test_texts_use_the_words_of_the_field() -> None:
    read = list(texts())
    assert len(read) > 150
    assert [line for path in read if not is_later(path) for line in odd_words(path)] == []


def test_odd_words_are_found() -> None:
    for word in ("Pictures", "a share of", "goes on", "kept epoch", "mends"):
        assert PATTERN.search(f"x {word} y".lower()), word
    assert not PATTERN.search("picture_px val_share share link: shared goes on cpu")
