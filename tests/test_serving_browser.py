"""The web app in a real browser, from the upload to the downloaded mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import PATIENCE_MS, chromium
from served import hand_made, live
from study import make_study

import seg3d
from seg3d.serving.access import Access
from seg3d.serving.model import load_model

TOKEN = "a-token-of-more-than-sixteen"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@contextmanager
def visited(browser: Any, address: str) -> Iterator[tuple[Any, list[str]]]:
    """The app's page, and what the browser complains of."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(address) else faults.append(request.url))
    try:
        page.goto(address)
        yield page, faults
    finally:
        context.close()


def upload(page: Any, scan: Path) -> None:
    page.locator("#drop input[type=file]").set_input_files(scan)
    page.get_by_role("button", name="Segment").click()


def cells(page: Any) -> list[str]:
    texts: list[str] = page.locator("#volumes tbody td").all_inner_texts()
    return texts


def test_from_the_upload_to_the_downloaded_mask(browser: Any, tmp_path: Path) -> None:
    config = make_study(tmp_path)
    run = seg3d.train(config, ["train.max_epochs=1"], tell=lambda _: None)
    scan = sorted((tmp_path / "data" / "imagesTr").iterdir())[0]
    (expected,) = seg3d.predict(run, [scan], tmp_path / "expected")
    with live(load_model([run]), tmp_path / "work") as address, visited(browser, address) as (page, faults):
        assert "not a medical device" in page.get_by_role("note").inner_text().lower()
        upload(page, scan)
        page.locator("#result").wait_for()
        viewer = page.frame_locator("#viewer")
        viewer.locator("html[data-ready]").wait_for(state="attached")
        assert "blob" in viewer.locator("body").inner_text()

        with page.expect_download() as download:
            page.get_by_role("link", name="Mask", exact=True).click()
        assert download.value.suggested_filename == f"{scan.name.removesuffix('.nii.gz')}_mask.nii.gz"
        assert Path(download.value.path()).read_bytes() == expected.read_bytes()

        name, volume, voxels = cells(page)
        assert name == "blob"
        assert float(volume) == pytest.approx(int(voxels.replace(",", "")) / 1000, abs=0.005)
        page.get_by_label("Threshold").first.check()
        page.locator("#threshold").fill("0.05")
        page.wait_for_function(
            "before => document.querySelectorAll('#volumes td')[2].textContent !== before", arg=voxels
        )
        assert int(cells(page)[2].replace(",", "")) > int(voxels.replace(",", ""))
        viewer.get_by_text("threshold of 0.05").first.wait_for(state="attached")

        page.get_by_role("button", name="Delete scan and results now").click()
        page.locator("#result").wait_for(state="hidden")
        page.wait_for_function("() => !document.getElementById('viewer').hasAttribute('src')")
        assert faults == []
    assert list((tmp_path / "work").iterdir()) == []


def test_a_file_that_is_no_scan_is_told_and_the_next_one_can_be_chosen(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.nii.gz").write_text("Dear Sir or Madam, " * 40)
    with live(hand_made(), tmp_path / "work") as address, visited(browser, address) as (page, _):
        upload(page, tmp_path / "letter.nii.gz")
        page.get_by_role("alert").wait_for()
        assert "not an image that can be read" in page.get_by_role("alert").inner_text()
        assert page.get_by_role("button", name="Segment").is_enabled()
        assert page.locator("#result").is_hidden()


def test_a_browser_shows_the_token_once(browser: Any, tmp_path: Path) -> None:
    guarded = live(hand_made(), tmp_path / "work", access=Access(TOKEN))
    with guarded as address, visited(browser, address) as (page, _):
        assert page.url.endswith("/login")
        page.locator("#token").fill("b-token-of-more-than-sixteen")
        page.get_by_role("button", name="Open").click()
        page.get_by_role("alert").wait_for()
        page.locator("#token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        page.get_by_role("heading", name="hand-made").wait_for()
        assert TOKEN not in page.evaluate("document.cookie")
