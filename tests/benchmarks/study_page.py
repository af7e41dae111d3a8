"""How long a browser takes to show the page of a large study.

    PYTHONPATH=. python tests/benchmarks/study_page.py [--n-trials 5000] [--n-epochs 3] [--folder FOLDER]

Opens the page in Chromium, with an empty cache each time, from the request to the first frame in which the headline,
the table, the points of all trials and the learning curves are there; beside it the processor seconds of server and
browser together, for a machine that is not idle. Then sorts the table. A folder that was made before is used again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, sync_playwright

from tests.benchmarks.explorer import make
from tests.explorer.built import serving

STUDY = "/attention/study/here/hunt"
WATCH = """(n) => {
  const isThere = () => document.getElementById("headline")?.textContent
    && document.querySelectorAll("#table tbody tr").length === Math.min(n, 100)
    && n === document.querySelectorAll("#chart .point").length
      + Number(document.querySelector("#chart .dots")?.dataset.n)
    && document.querySelector("#curves canvas") !== null;
  const look = () => { if (isThere()) window.shownAfterMs = performance.now(); else requestAnimationFrame(look); };
  requestAnimationFrame(look);
}"""
LOADED = """() => performance.getEntriesByType("navigation").concat(performance.getEntriesByType("resource"))
  .reduce((sum, one) => sum + one.decodedBodySize, 0)"""
SORTED = """() => {
  const start = performance.now();
  document.querySelector("[data-sort=trial]").click();
  return performance.now() - start;
}"""
N_REPEATS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-trials", type=int, default=5000)
    parser.add_argument("--n-epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the study is made, or was made before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        built = make(arguments.folder or Path(temporary), arguments.n_trials, arguments.n_epochs)
        with serving(built) as served, sync_playwright() as starter:
            path = shutil.which("chromium") or starter.chromium.executable_path
            browser = starter.chromium.launch(executable_path=path, args=["--no-sandbox"])
            measure(browser, served.url.split("/attention")[0] + STUDY, arguments.n_trials)


def measure(browser: Browser, url: str, n_trials: int) -> None:
    first = opened(browser, url, n_trials)
    again = [opened(browser, url, n_trials) for _ in range(N_REPEATS)]
    print(f"{n_trials} trials, {first['megabytes']:.1f} MB")
    print(f"  first page of a fresh server: {first['seconds']:.2f} s ({first['processor_s']:.2f} cpu)")
    for name, unit in (("seconds", "s"), ("processor_s", "s cpu"), ("sorted_ms", "ms to sort the table")):
        values = [one[name] for one in again]
        print(f"  again, {len(values)} times: {min(values):.2f} {unit} at best, median {statistics.median(values):.2f}")


def opened(browser: Browser, url: str, n_trials: int) -> dict[str, Any]:
    """One visit with an empty cache."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.add_init_script(f"({WATCH})({n_trials})")
    busy = processor_s()
    page.goto(url, wait_until="commit")
    while (shown_ms := shown_after_ms(page)) is None:
        time.sleep(0.05)
    found = {"seconds": shown_ms / 1000, "processor_s": processor_s() - busy}
    found = {**found, "sorted_ms": page.evaluate(SORTED), "megabytes": page.evaluate(LOADED) / 1e6}
    context.close()
    return found


def processor_s() -> float:
    """Of this process and of all that it has started, which still run."""
    parent_of, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            words = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            parent_of[int(path.parent.name)] = int(words[1])
            used[int(path.parent.name)] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    while more := {pid for pid, parent in parent_of.items() if parent in ours} - ours:
        ours |= more
    return sum(used[pid] for pid in ours)


def shown_after_ms(page: Any) -> float | None:
    """Milliseconds from the request to the first frame that shows all; None before it."""
    try:
        shown: float | None = page.evaluate("window.shownAfterMs ?? null")
    except Error:  # the page is still to come
        return None
    return shown


if __name__ == "__main__":
    main()
