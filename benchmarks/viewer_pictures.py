"""Screenshots of viewer pages for the documentation: ``python -m benchmarks.viewer_pictures``.

Phantoms only. Needs Chromium, Playwright (both of the tests) and NiiVue (``make viewer``).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from scipy import ndimage

from seg3d.phantom import PhantomSpec, make_phantom
from seg3d.reporting.viewer import viewer_page
from seg3d.volume import Volume

TARGET = Path("docs/pictures")
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
SIZE = {"width": 1400, "height": 820}
PHONE = {"width": 420, "height": 900}


def chest() -> dict[str, Any]:
    """A chest CT, a prediction that is off, and how unsure it is."""
    image, label, _ = make_phantom(PhantomSpec(kind="chest_ct"), 0)
    soft = ndimage.gaussian_filter((np.roll(label.data[0], (1, 1), (0, 2)) > 0).astype(np.float32), 1.2)
    certain = np.clip(soft, 1e-6, 1 - 1e-6)
    entropy = -(certain * np.log(certain) + (1 - certain) * np.log(1 - certain))
    entropy[soft < 1e-3] = 0
    maps = {"prediction": (soft > 0.45).astype(np.uint8), "uncertainty": entropy.astype(np.float32)}
    overlays = {name: Volume(data[None], image.grid) for name, data in maps.items()}
    return {"image": image, "labels": label, "names": {1: "tumour"}, **overlays}


def cells() -> dict[str, Any]:
    """A picture and a prediction that has grown."""
    image, label, _ = make_phantom(PhantomSpec(kind="cells", shape=(220, 150, 1)), 7)
    grown = ndimage.grey_dilation(label.data[0], (3, 3, 1))
    return {
        "image": image, "labels": label, "prediction": Volume(grown[None], label.grid), "names": {1: "cell"},
        "picture": True,
    }  # fmt: skip


def shoot(browser: Browser, page: str, name: str, choices: Mapping[str, str], size: Mapping[str, int] = SIZE) -> None:
    """One screenshot of a page after some choices: value by name of radio buttons."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.html"
        path.write_text(page, encoding="utf-8")
        tab = browser.new_page(viewport={"width": size["width"], "height": size["height"]})
        tab.set_default_timeout(180_000)
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        for control, value in choices.items():
            tab.check(f"#{control}" if value == "on" else f"input[name={control}][value={value}]")
        tab.wait_for_timeout(500)
        tab.screenshot(path=TARGET / f"{name}.png")
        tab.close()
    print(TARGET / f"{name}.png")


def main() -> int:
    """Write all pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    TARGET.mkdir(parents=True, exist_ok=True)
    scan, picture = chest(), cells()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = viewer_page("phantom chest", **scan)
        shoot(browser, page, "viewer_errors", {"map": "errors"})
        shoot(browser, page, "viewer_uncertainty", {"outline": "on", "heat": "uncertainty"})
        shoot(browser, page, "viewer_phone", {}, PHONE)
        shoot(browser, viewer_page("phantom cells", **picture), "viewer_picture", {"map": "errors"})
        shoot(browser, viewer_page("phantom chest", **scan, niivue=False), "viewer_slices", {"map": "errors"})
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
