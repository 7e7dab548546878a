"""Screenshots of a run's report for the documentation: ``python -m benchmarks.report_pictures RUN``.

Give a phantom run that was scored, such as ``demo/runs/demo-*`` of ``seg3d demo``. Needs Chromium and Playwright, both
of the tests.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

import seg3d

TARGET = Path("docs/pictures")
DESK: Any = {"width": 1000, "height": 1080}
PHONE: Any = {"width": 390, "height": 800}


def main() -> int:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = seg3d.report(chosen.run, Path(folder) / "report.html").as_uri()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        desk, phone = browser.new_page(viewport=DESK), browser.new_page(viewport=PHONE)
        for page in (desk, phone):
            page.goto(address)
        shoot(desk, "report_verdict")
        desk.evaluate("document.getElementById('cases').scrollIntoView()")
        shoot(desk, "report_cases")
        shoot(phone, "report_phone")
        browser.close()
    return 0


def shoot(page: Page, name: str) -> None:
    """One screenshot."""
    page.screenshot(path=TARGET / f"{name}.png")
    print(TARGET / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
