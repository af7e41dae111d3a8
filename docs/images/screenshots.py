"""The images of the documentation that show the explorer, taken from the demo.

    attnsearch demo
    python docs/images/screenshots.py results/demo

Starts the dashboard on a results folder, opens the pages of one study, of one of its images and of the failures of its
best trial in the system's Chromium, and writes `study.png`, `image.png` and `failures.png` beside this script. Fails if
a page logs an error or a request fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from attnsearch.explorer.server import open_server
from attnsearch.results.reader import find_experiments

HERE = Path(__file__).parent
WIDTH_PX, STUDY_HEIGHT_PX, IMAGE_HEIGHT_PX, FAILURES_HEIGHT_PX = 1280, 1750, 1200, 1300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of one experiment")
    parser.add_argument("--study", default="first_search")
    parser.add_argument("--to", type=Path, default=HERE)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    with serving(arguments.results) as base:
        pages = addresses(base, arguments.results.resolve().name, arguments.study)
        with sync_playwright() as starter:
            path = shutil.which("chromium") or shutil.which("google-chrome") or starter.chromium.executable_path
            browser = starter.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for name, (address, height) in pages.items():
                take(browser, base + address, height, arguments.to / f"{name}.png")
            browser.close()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a dashboard in a thread."""
    one = open_server(find_experiments(folder), port=0)
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    try:
        yield one.url.split("/attention")[0]
    finally:
        one.server.shutdown()
        thread.join()
        one.server.server_close()


def addresses(base: str, experiment: str, study: str) -> dict[str, tuple[str, int]]:
    """Name -> address and height: the study, an image of its best trial with the median score, and the failures."""
    where = f"{experiment}/{study}"
    values = ask(f"{base}/attention/api/study/{where}")
    best = values["best"][0]
    ticked = "&".join(f"ticked={trial['number']}" for trial in values["trials"] if trial["maps"])
    order = "order=relevance_gain&down=1&verdict=right&metric=relevance_gain&least=0"
    grid = ask(f"{base}/attention/api/grid/{where}/{best}?split=val&{order}")
    row = grid["images"][len(grid["images"]) // 2]["row"]
    return {
        "study": (f"/attention/study/{where}?{ticked}", STUDY_HEIGHT_PX),
        "image": (f"/attention/image/{where}/{best}/{row}?split=val&contour=50", IMAGE_HEIGHT_PX),
        "failures": (f"/attention/failures/{where}/{best}", FAILURES_HEIGHT_PX),
    }


def ask(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def take(browser: Any, address: str, height: int, path: Path) -> None:
    """Writes what a page shows when it has come to rest."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": WIDTH_PX, "height": height}, color_scheme="light")
    page = context.new_page()
    page.on("console", lambda one: one.type in ("error", "warning") and problems.append(one.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("response", lambda one: one.status >= 400 and problems.append(f"{one.status}: {one.url}"))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path, animations="disabled")
    context.close()
    if problems:
        raise SystemExit("\n".join(problems))
    compress(path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def compress(path: Path) -> None:
    """In true colour and without an alpha channel, as small as PNG can."""
    with Image.open(path) as image:
        whole = image.convert("RGB")
    whole.save(path, optimize=True)


if __name__ == "__main__":
    main()
