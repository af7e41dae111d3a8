"""Ways to damage the database and the files of a results folder; each is repeated by its seed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attnsearch.store.layout import StudyLayout

PAGE = 4096
HUGE = "9" * 5000
SCALARS: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**40, str(2**70), 1e308, float("nan")),
    *("x", "", HUGE, "\0", "2001-99-99", "a/b", "../../x"),
)
NESTED: tuple[Any, ...] = (
    *(*SCALARS, [], {}, [1], {"a": 1}, [[[]]], "\ud800", ["\udfff"]),
    {"name": "FloatDistribution", "attributes": {}},
)
WORDS = (
    "",
    "x",
    "-1",
    "null",
    "[]",
    "{}",
    "[[]]",
    "'",
    "&a [*a]",
    "!!python/object:os.system x",
    HUGE,
    "\t",
    "2001-99-99",
)
SHAPES = ("(6, 2, 4, 5)", "(-1,)", "()", "(9999999999999, 9999999)", "(0,)", "((1,),)", "None", "(" * 200, "(6.0, 2)")
HEADERS = ("[" * 9000, "'" + "a" * 60_000, "{}", "\0", "__import__('os')")
TYPES = ("'<f4'", "'|O'", "'<f8'", "'<U9999999'", "[('a', '<f4')]", "'zz'", "3")
ATTRIBUTES = ("study_user", "study_system", "trial_user", "trial_system")
"""The tables in which Optuna keeps JSON."""

Harm = Callable[[random.Random, Path], None]


def flip_bytes(rng: random.Random, path: Path) -> None:
    """Overwrites some bytes, anywhere."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 4, 64, 500)) if content else 0):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


def cut_off(rng: random.Random, path: Path) -> None:
    """Keeps only the beginning."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(1, len(content)))])


def zero_pages(rng: random.Random, path: Path) -> None:
    """Overwrites some pages by zeros, as a lost sector is read."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        start = PAGE * rng.randrange(len(content) // PAGE + 1)
        content[start : start + PAGE] = bytes(len(content[start : start + PAGE]))
    path.write_bytes(content)


def swap_pages(rng: random.Random, path: Path) -> None:
    """Exchanges two pages."""
    content = bytearray(path.read_bytes())
    first, second = (PAGE * rng.randrange(len(content) // PAGE) for _ in range(2))
    one, other = content[first : first + PAGE], content[second : second + PAGE]
    content[first : first + PAGE], content[second : second + PAGE] = other, one
    path.write_bytes(content)


def set_values(rng: random.Random, path: Path) -> None:
    """Puts values of a wrong type, range or length into one column, past its constraints."""
    with opened(path) as db:
        table, columns = rng.choice(tables(db))
        _drop_constraints(db, table)
        value = rng.choice((*SCALARS, b"\xff\xfe\x00"))
        text = "CAST(? AS TEXT)" if isinstance(value, bytes) and rng.random() < 0.5 else "?"
        rows = rng.choice(("", f" WHERE rowid = (SELECT min(rowid) FROM {table})", " WHERE rowid % 2"))
        db.execute(f'UPDATE {table} SET "{rng.choice(columns)}" = {text}{rows}', (value,))


def set_json(rng: random.Random, path: Path) -> None:
    """Replaces one JSON text of Optuna's attributes and distributions by another, or by none."""
    places = [(f"{kind}_attributes", column) for kind in ATTRIBUTES for column in ("value_json", "value_json", "key")]
    table, column = rng.choice([*places, *[("trial_params", "distribution_json")] * 3])
    text = rng.choice((json.dumps(rng.choice(NESTED)), "{", "[" * 5000, "NaN", "1" * 5000))
    with opened(path) as db:
        _drop_constraints(db, table)
        keys = [row[0] for row in db.execute(f"SELECT rowid FROM {table}")]
        if keys:
            db.execute(f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', (text, rng.choice(keys)))


def drop(rng: random.Random, path: Path) -> None:
    """Removes a table, a column or some rows."""
    with opened(path) as db:
        table, columns = rng.choice(tables(db))
        kind = rng.randrange(3)
        _drop_constraints(db, table)
        if kind == 0:
            db.execute(f"DROP TABLE {table}")
        elif kind == 1 and len(columns) > 1:
            db.execute(f'ALTER TABLE {table} DROP COLUMN "{rng.choice(columns)}"')
        else:
            db.execute(f"DELETE FROM {table} WHERE rowid % {rng.randint(1, 3)} = 0")


def double_rows(rng: random.Random, path: Path) -> None:
    """Has every row of one table twice."""
    with opened(path) as db:
        table, _ = rng.choice(tables(db))
        _drop_constraints(db, table)
        db.execute(f"INSERT INTO {table} SELECT * FROM {table}")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, and what was changed in it committed."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        yield db
        db.commit()


def tables(db: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """Every table with its columns."""
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return [(name, [row[1] for row in db.execute(f"PRAGMA table_info({name})")]) for name in names]


def _drop_constraints(db: sqlite3.Connection, table: str) -> None:
    """Makes the table again without types, keys and NOT NULL, so that anything can stand in it."""
    columns = ", ".join(f'"{row[1]}"' for row in db.execute(f"PRAGMA table_info({table})"))
    db.execute(f"CREATE TABLE plain ({columns})")
    db.execute(f"INSERT INTO plain SELECT * FROM {table}")
    db.execute(f"DROP TABLE {table}")
    db.execute(f"ALTER TABLE plain RENAME TO {table}")


DATABASE_HARMS: tuple[Harm, ...] = (
    *(flip_bytes, cut_off, zero_pages, swap_pages, drop, double_rows),
    *(set_values,) * 4,
    *(set_json,) * 4,
)

CONTENTS = (
    *(b"", b"\0" * 300, b"\xff\xfe\x80", b"[" * 50_000, b"<html>404</html>", b"3", b"null", b"{}\n", b"a,b\n1\n"),
    *(b"PK\x03\x04" + bytes(60), b"\x93NUMPY", b"epoch\n", b"- 1\n"),
)


def replace_content(rng: random.Random, path: Path) -> None:
    """Writes something else altogether, or puts a folder or a dead link in place of the file."""
    kind = rng.randrange(len(CONTENTS) + 2)
    if kind < len(CONTENTS):
        path.write_bytes(CONTENTS[kind])
        return
    path.unlink()
    if kind == len(CONTENTS):
        path.mkdir()
    else:
        path.symlink_to(path)


def remove(_: random.Random, path: Path) -> None:
    path.unlink()


def change_json(rng: random.Random, path: Path) -> None:
    """Replaces one value, key or element, at any depth."""
    about = json.loads(path.read_text(encoding="utf-8"))
    places = list(_places(about))
    holder, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = rng.choice(NESTED)
    path.write_text(json.dumps(about), encoding="utf-8")


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in list(pairs):
        yield node, key
        yield from _places(inner)


def change_csv(rng: random.Random, path: Path) -> None:
    """Changes, adds or removes a cell, a row or a column."""
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[row]))
    kind = rng.randrange(5)
    if kind < 2:
        rows[row][column] = rng.choice((*map(str, SCALARS), "x" * 200_000, '"', "../../x", "-99", "\n\n"))
    elif kind == 2:
        rows[row].append("1")
    elif kind == 3:
        rows = [rows[0], *rows[2:]] if rng.random() < 0.5 else [*rows, rows[-1]]
    else:
        rows = [one[:column] + one[column + 1 :] for one in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def change_npy_header(rng: random.Random, path: Path) -> None:
    """Another header before the same numbers: a wrong shape, a wrong type, or no header at all."""
    content = path.read_bytes()
    (length,) = struct.unpack("<H", content[8:10])
    order = rng.choice(("False", "True", "7"))
    whole = f"{{'descr': {rng.choice(TYPES)}, 'fortran_order': {order}, 'shape': {rng.choice(SHAPES)}, }}"
    header = rng.choice((whole, whole, whole[: len(whole) // 2], *HEADERS)).encode()
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    is_first = version == b"\x01\x00"
    size = struct.pack("<H", len(header)) if is_first else struct.pack("<I", rng.choice((len(header), 2**32 - 1)))
    path.write_bytes(content[:6] + version + size + header + content[10 + length :])


def change_safetensors_header(rng: random.Random, path: Path) -> None:
    """Another length of the header, another place of a tensor, or other metadata."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    holder, key = rng.choice(list(_places(header)))
    holder[key] = rng.choice((*NESTED, [0, 2**60], [-1, 4], [2**40, 2**40], "F64"))
    text = json.dumps(header).encode()
    said = rng.choice((len(text), len(text), len(text), 2**63, 0, 2**40))
    path.write_bytes(said.to_bytes(8, "little") + text + content[8 + length :])


def change_lines(rng: random.Random, path: Path) -> None:
    """Changes, doubles or removes a line of a text file such as YAML."""
    lines = path.read_text(encoding="utf-8").splitlines()
    row = rng.randrange(len(lines))
    name = lines[row].partition(":")[0]
    changed = (lines[row] * 2, f"{name}: {rng.choice(WORDS)}", f"  {lines[row]}", f"{lines[row]}\n{lines[row]}")
    lines[row] = rng.choice(("", *changed))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


BY_KIND: dict[str, Harm] = {
    ".json": change_json,
    ".csv": change_csv,
    ".npy": change_npy_header,
    ".safetensors": change_safetensors_header,
    ".yaml": change_lines,
    ".jpg": flip_bytes,
}


def harm_results(kind: str, seed: int, layout: StudyLayout) -> str:
    """Damages the database of results or one of their files, most often in the way of its kind.

    Args:
        kind: `databases` or `files`.
    Returns:
        What was done.
    """
    rng = random.Random(f"{kind} {seed}")
    if kind == "databases":
        path, harm = layout.database, rng.choice(DATABASE_HARMS)
    else:
        path = rng.choice(files_to_harm(layout.root))
        harm = rng.choice((*(BY_KIND[path.suffix],) * 4, flip_bytes, cut_off, replace_content, remove))
    harm(rng, path)
    return f"{harm.__name__} {path.name}"


def files_to_harm(root: Path) -> list[Path]:
    """The files below a results folder that a harm is known for, in a fixed order."""
    return sorted(path for path in root.rglob("*") if path.suffix in BY_KIND and path.is_file())


def copy_of(root: Path, target: Path) -> Path:
    """A copy of the results to damage."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(root, target))
