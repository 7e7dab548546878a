"""The documentation site: built strictly, whole, from the code, and without anything from elsewhere."""

from __future__ import annotations

import html
import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import typer
from browser import chromium, opened
from mkdocs.commands.build import build
from mkdocs.config import load_config

import seg3d
from seg3d.cli import app
from seg3d.config import Config
from seg3d.config.keys import walk

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """The hook that makes pages of the reference."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it: a warning, such as a dead link, is an error."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return folder


def words(page: Path) -> str:
    """Text of a page without tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))).replace("\u200b", "")


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    reference = {Path("reference") / f"{name}.html" for name in ("commands", "config", "python")}
    built = {path.relative_to(site) for path in site.rglob("*.html")} - {Path("404.html")}
    assert built == pages | reference
    assert not (DOCS / "reference").exists()  # made anew by each build, never kept


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*?src=[\"']?([^\"' >]+)|<link\b[^>]*?href=[\"']?([^\"' >]+)"
    )
    for page in site.rglob("*.html"):
        found = [one or other for one, other in loads.findall(page.read_text(encoding="utf-8"))]
        assert found
        assert [address for address in found if re.match(r"(https?:)?//", address)] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_every_verb_is_in_the_reference_with_all_its_options(site: Path, generate: ModuleType) -> None:
    text = words(site / "reference" / "commands.html")
    names = []
    for name, command, _ in generate.commands():
        names.append(name.split()[0])
        _, found, after = text.rpartition(f"seg3d {name}¶")
        assert found, name
        section = after.partition("¶")[0]
        assert command.help.split("\n")[0] in section
        for parameter in command.params:
            option = parameter.param_type_name == "option"
            for word in (*parameter.opts, parameter.help) if option else (parameter.metavar, parameter.help):
                assert word in section, (name, word)
    assert set(names) == set(typer.main.get_command(app).commands)
    assert set(seg3d.__all__) <= set(names)


def test_every_key_of_the_schema_is_in_the_reference_with_its_meaning(site: Path) -> None:
    text = words(site / "reference" / "config.html")
    rows = {line.split("\n")[0] for line in re.split(r"\n\s*\n", text)}
    for path, field in walk(Config):
        assert path in rows, path
        assert field.description, path
        assert field.description in text, path


def test_every_verb_is_in_the_python_reference_with_its_arguments(site: Path, generate: ModuleType) -> None:
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    plain = words(site / "reference" / "python.html")
    for name in seg3d.__all__:
        assert f'id="seg3d.{name}"' in text or f"id=seg3d.{name}" in text, name
        first = (getattr(seg3d, name).__doc__ or "").split("\n")[0]
        assert re.sub(r"``?|:\w+:", "", first) in plain, name
    for path in generate.BESIDE:
        assert re.search(rf"id=\"?{re.escape(path)}\b", text), path


def test_tables_and_lists_stand_apart_as_the_site_needs() -> None:
    """A list or table directly below a paragraph is one on the repository's pages, but not on the site."""
    for page in DOCS.rglob("*.md"):
        lines, inside = page.read_text(encoding="utf-8").split("\n"), False
        for before, line in pairwise(lines):
            inside ^= before.startswith("```")
            if inside or not before.strip() or before.startswith(("```", "#")):
                continue
            if re.match(r"[-*] |\d+\. ", line):
                assert re.match(r"[-*] |\d+\. |\s", before), f"{page.name}: {line}"
            if line.startswith("|"):
                assert before.startswith("|"), f"{page.name}: {line}"


def test_links_of_the_front_page_lead_somewhere() -> None:
    """Those of the site's own pages are looked at when it is built."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name}: {target}"


def test_pictures_are_small_and_shown() -> None:
    shown = " ".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *DOCS.rglob("*.md")])
    for picture in DOCS.rglob("*.png"):
        assert picture.stat().st_size < 300_000, picture.name
        assert f"{picture.parent.name}/{picture.name}" in shown, picture.name


def test_the_site_can_be_searched_from_the_disk(site: Path) -> None:
    with chromium() as browser, opened(browser, site / "index.html", (1200, 800)) as page:
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("patch_size")
        page.locator(".md-search-result__link[href*='reference/config.html']").first.wait_for()
