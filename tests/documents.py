"""Reads the Markdown files: commands, Python examples, and the results folder's list of files."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language; an empty one means those without any."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for tag, text in found if tag == language]


def commands(path: Path) -> list[list[str]]:
    """The words of each command line, comments left out."""
    lines = [line for block in blocks(path, "") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def run_example(code: str, results: Path, experiment: str) -> None:
    """Runs a Python example on a results folder, in a folder with photos; examples speak of trial 7 of CUB."""
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("results").symlink_to(results)
        for name in ("photo.jpg", "a.jpg", "b.jpg"):
            Image.linear_gradient("L").convert("RGB").save(name)
        code = code.replace("results/CUB", f"results/{experiment}").replace("00007", "00000")
        code = code.replace("demo/first_search", f"{experiment}/br_npa_low_res")
        exec(compile(code, "example", "exec"), {})


def undocumented(results: Path, study: str, page: Path) -> list[str]:
    """Files below an experiment's folder whose name the page does not describe; two folders stand for all in them."""
    text = page.read_text(encoding="utf-8").replace("_{train,val,test}", "_test")
    patterns = (
        (re.escape(study), "<study>"),
        (r"_epoch\d+_(train|val|test)", "_epoch<E>_test"),
        (r"^resume\.\d+\.pt$", "resume.<attempt>.pt"),
        (r"^worker\d+\.log$", "worker<i>.log"),
        (r"^\d+\.npy$", "<epoch>.npy"),
        (r"^\w+\.lock$", "*.lock"),
    )
    missing = []
    for path in sorted(path for path in results.rglob("*") if path.is_file()):
        name, folders = path.name, path.relative_to(results).parts[:-1]
        for pattern, shown in patterns:
            name = re.sub(pattern, shown, name)
        if f"`{name}`" not in text and not {"artifacts", "thumbnails"} & set(folders):
            missing.append(str(path.relative_to(results)))
    return missing
