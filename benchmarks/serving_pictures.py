"""Screenshots of the web app for the documentation: ``python -m benchmarks.serving_pictures RUN... --scan FILE``.

Give phantom runs and a phantom scan, such as ``demo/runs/demo-*`` and ``demo/data/imagesTr/chest_003.nii.gz`` of
``seg3d demo``. Needs Chromium, Playwright (both of the tests) and NiiVue (``make viewer``).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks.serving_load import port_of

TARGET = Path("docs/pictures")
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
DESK: Any = {"width": 1100, "height": 900}
PHONE: Any = {"width": 390, "height": 800}


def main() -> int:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--scan", required=True, type=Path)
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    TARGET.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "seg3d.cli", "serve", *map(str, chosen.runs), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        address = f"http://127.0.0.1:{port_of(server)}"
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        desk, phone = browser.new_page(viewport=DESK), browser.new_page(viewport=PHONE)
        segment(desk, address, chosen.scan)
        shoot(desk, "app_result")
        desk.goto(f"{address}/docs")
        shoot(desk, "app_api", whole=False)
        phone.goto(address)
        shoot(phone, "app_phone")
        browser.close()
        server.terminate()
    return 0


def segment(page: Page, address: str, scan: Path) -> None:
    """Have a scan segmented and wait for the viewer."""
    page.set_default_timeout(600_000)
    page.goto(address)
    page.locator("#drop input[type=file]").first.set_input_files(scan)
    page.get_by_role("button", name="Segment").click()
    page.locator("#result").wait_for()
    page.frame_locator("#viewer").locator("html[data-ready]").wait_for(state="attached")
    page.wait_for_timeout(1000)


def shoot(page: Page, name: str, *, whole: bool = True) -> None:
    """One screenshot."""
    page.screenshot(path=TARGET / f"{name}.png", full_page=whole)
    print(TARGET / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
