"""A headless Chromium of the system, driven by Playwright; tests skip where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# WebGL2 computed by the processor, so that pages are tested where there is no graphics card
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
# a script for a page: the browser seems to have no WebGL2
NO_WEBGL2 = """
const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === "webgl2" ? null : real.call(this, kind, ...more);
};
"""
PATIENCE_MS = 120_000


def chromium_path() -> str:
    """Chromium's executable, or a skip."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; it is closed when the block ends."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")
    path = chromium_path()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *WEBGL])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, size: tuple[int, int] = (640, 480), script: str = "") -> Iterator[Any]:
    """A page opened from its file, without a network; what its console says in anger fails the test."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True)
    context.add_init_script(script)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if _is_remote(request.url) else None)
    try:
        page.goto(path.as_uri())
        yield page
        assert faults == []
    finally:
        context.close()


def _is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "about:"))
