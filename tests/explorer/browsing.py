"""A browser page that is watched, for the tests of the explorer."""

from __future__ import annotations

from typing import Any

import pytest

from attnsearch.explorer.server import RunningServer

N_LOOKS, LOOK_MS = 3000, 30
PHONE, DESK = (390, 844), (1360, 900)


class Watched:
    """A page that remembers what must not happen: console errors, failed and external requests."""

    def __init__(self, browser: Any, base: str, size: tuple[int, int] = DESK, density: float = 1) -> None:
        self.base = base
        self.problems: list[str] = []
        settings = {"viewport": {"width": size[0], "height": size[1]}, "device_scale_factor": density}
        self.context = browser.new_context(**settings, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15000)
        self.page.on("console", lambda one: one.type in ("error", "warning") and self.problems.append(one.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("requestfailed", self._note_failed)
        self.page.on("response", lambda one: one.status >= 400 and self.problems.append(f"{one.status}: {one.url}"))
        self.page.on("request", lambda one: self._refuse_foreign(one.url))

    def _note_failed(self, request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # that is a page that was left before all of it had come
            self.problems.append(f"failed: {request.url}, {request.failure}")

    def _refuse_foreign(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.problems.append(f"external: {url}")

    def open(self, path: str) -> Any:
        self.page.goto(self.base + path)
        self.page.wait_for_load_state("networkidle")
        return self.page

    def open_live(self, path: str) -> Any:
        """A page that asks again and again, so that its network is never idle for long."""
        self.page.goto(self.base + path)
        return self.page

    def wait(self, script: str) -> None:
        """Until an expression in the page is true; the pages forbid `eval`, which Playwright's own waiting needs."""
        from playwright.sync_api import Error

        for _ in range(N_LOOKS):
            try:
                if self.page.evaluate(script):
                    return
            except Error:  # between two pages
                self.page.wait_for_load_state()
            self.page.wait_for_timeout(LOOK_MS)
        pytest.fail(f"never became true: {script}")

    def overflow_px(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def base_of(served: RunningServer) -> str:
    """The address of the server, without the explorer's prefix."""
    return served.url.split("/attention")[0]


def violations(page: Any) -> list[str]:
    """What axe-core finds that is serious or critical, in light and in dark colours."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-core is missing: pip install .[test]"
    )
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [(scheme, one) for one in axe.Axe().run(page).response["violations"]]
    return [
        f"{scheme}: {one['id']}: {one['nodes'][0]['html']}"
        for scheme, one in found
        if one["impact"] in ("serious", "critical")
    ]
