"""The page of a run: honest, worst first, harmless, in one file, legible in a frame, on a phone and without scores."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlflow
import pytest
from study import TINY, make_planar_study, make_study, result_of
from typer.testing import CliRunner

import seg3d
from seg3d.cli import app
from seg3d.errors import ConfigError, RunError
from seg3d.phantom import PhantomSpec, write_phantom_dataset
from seg3d.reporting.run_report.figures import curves_png
from seg3d.reporting.run_report.pieces import read_pieces
from seg3d.training.run_folder import RunFolder
from seg3d.verbs.report import draw_report
from seg3d.verbs.score import score_test_cases

MALICE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>'
VOID = {"meta", "img", "br", "link", "input", "hr"}
REGIONS = "data.regions=[{name: all, labels: [1, 2]}, {name: inner, labels: [2]}]"


@dataclass
class Page(HTMLParser):
    """What an HTML page holds, read by the standard library's parser."""

    source: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    text: str = ""
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        assert self._open == []  # every element is closed, in order

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts.append(data)
        elif "style" in self._open:
            self.styles.append(data)
        else:
            self.text += data
            if {"th", "td"} & set(self._open):
                self.rows[-1][-1] += data.strip()

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    @property
    def cases(self) -> list[list[str]]:
        """Rows of the table of cases: those that end with what the case was to the run."""
        return [row for row in self.rows if row[-1] in ("test", "validation", "training", "other")]


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("report"), cases=8)


@pytest.fixture(scope="module")
def tracked(study: Path) -> list[str]:
    return ["tracking.enabled=true", f"tracking.uri=sqlite:///{study.parent}/mlflow.db", "data.split.test_share=0.4"]


@pytest.fixture(scope="module")
def fresh(study: Path, tracked: list[str]) -> Path:
    """A copy of a run as training leaves it."""
    run = seg3d.train(study, tracked)
    return Path(shutil.copytree(run, study.parent / "fresh"))


@pytest.fixture(scope="module")
def run(fresh: Path, study: Path) -> Path:
    """The run itself, its test cases scored."""
    (run,) = (study.parent / "runs").iterdir()
    score_test_cases(run)
    return run


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_a_class_that_augmentation_moves_out_of_its_patches_is_told(copied: Path) -> None:
    lines = (copied / "sampling.jsonl").read_text().splitlines()
    certificate = json.loads(lines[-1])
    certificate["classes"]["blob"]["drawn_but_moved_out"] = 2
    (copied / "sampling.jsonl").write_text("\n".join([*lines[:-1], json.dumps(certificate)]) + "\n")
    words = page_of(seg3d.report(copied)).words
    assert f"blob: augmentation moved it out of 2 of the last epoch's {certificate['patches'] // 2} patches" in words


def summary_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "test" / "summary.json").read_text())
    return content


def test_training_leaves_a_report_that_says_that_nothing_was_scored(fresh: Path) -> None:
    page = page_of(fresh / "report.html")
    assert "Not evaluated" in page.words
    assert f"Best validation Dice {result_of(fresh)['best_score']:.3f}" in page.words
    assert re.search(r"seg3d predict \S*runs/tiny\S+ --split test", page.words)
    assert page.cases == []
    (curves,) = [attributes for tag, attributes in page.elements if tag == "img"]
    drawn = (fresh / "figures" / "learning_curve.png").read_bytes()
    assert dict(curves)["src"] == f"data:image/png;base64,{base64.b64encode(drawn).decode()}"


def test_an_evaluation_makes_the_report_anew_with_its_scores(run: Path) -> None:
    page, dice = page_of(run / "report.html"), summary_of(run)["foreground_dice"]
    low, high = dice["ci95"]
    assert f"Dice {dice['mean']:.3f} [{low:.3f}, {high:.3f}]" in page.words
    assert "Mean over 3 test cases" in page.words
    assert "Nothing was trained or chosen by them." in page.words
    assert sum(tag == "img" for tag, _ in page.elements) == 2  # and the contact sheet


def test_cases_stand_worst_first(run: Path) -> None:
    expected = sorted(
        (metrics["Dice"], row["case"], label)
        for row in summary_of(run)["metric_per_case"]
        for label, metrics in row["metrics"].items()
    )
    found = page_of(run / "report.html").cases
    assert [row[0] for row in found] == [case for _, case, _ in expected]
    assert [row[2] for row in found] == [f"{dice:.3f}" for dice, _, _ in expected]
    dice, worst, _ = expected[0]
    assert f"Worst: {worst} {dice:.3f}" in page_of(run / "report.html").words


def test_the_page_asks_nothing_of_a_network(run: Path) -> None:
    page = page_of(run / "report.html")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert "href" not in attributes or not re.match(r"[a-z]+:|//", str(attributes["href"]))
        assert "srcset" not in attributes
    assert all("url(" not in style and "@import" not in style for style in page.styles)
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert "viewport" in {a.get("name") for _, a in page.elements}


def test_the_page_tells_all_that_identifies_the_run(run: Path) -> None:
    words, result = page_of(run / "report.html").words, result_of(run)
    for key in ("identity_sha256", "config_sha256", "data_sha256", "split_sha256", "weights_sha256", "trace_sha256"):
        assert result[key] in words
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"]["version"] in words
    assert environment["code"]["modules_sha256"] in words
    assert " ".join((run / "config.yaml").read_text().split()) in words
    assert re.search(r"seg3d verify \S+", words)


def test_names_in_the_data_are_harmless(copied: Path) -> None:
    """Of a case, a label, an image file and the study."""
    summary = summary_of(copied)
    summary["metric_per_case"][0]["case"] = MALICE
    summary["per_label"]["1"]["name"] = MALICE
    (copied / "test" / "summary.json").write_text(json.dumps(summary))
    manifest = json.loads((copied / "run.json").read_text())
    manifest["config"]["name"] = MALICE
    (copied / "run.json").write_text(json.dumps(manifest))
    (copied / "config.yaml").write_text(f"# </code></pre>{MALICE}\n" + (copied / "config.yaml").read_text())
    page = page_of(seg3d.report(copied))
    own = (files("seg3d.reporting.run_report") / "templates" / "report.js").read_text()
    assert page.scripts == [own]
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(str(a["src"]).startswith("data:") for _, a in page.elements if "src" in a)
    assert MALICE in {row[0] for row in page.cases}
    assert MALICE in {row[1] for row in page.cases}


def test_cases_are_linked_to_their_viewer_pages_where_these_are(copied: Path, tmp_path: Path) -> None:
    summary = summary_of(copied)
    summary["metric_per_case"][0]["case"] = "a #1?"
    (copied / "test" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "viewer").mkdir()
    (tmp_path / "viewer" / "a #1?.html").write_text("")
    page = page_of(seg3d.report(copied, tmp_path / "page.html"))
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {"viewer/a%20%231%3F.html"}


def test_lines_of_labels_have_colours_of_their_own(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("seg3d.reporting.run_report.figures.png_bytes", lambda figure: drawn.append(figure) or b"")
    labels = {f"val_dice_{name}": 0.5 for name in "abcdef"}
    rows = [{"epoch": 0.0, "train_loss": 1.0, "val_dice": 0.5, **labels}]
    curves_png(replace(read_pieces(RunFolder(copied)), rows=rows))
    colours = [line.get_color() for line in drawn[0].axes[1].lines if line.get_color() != "black"]  # black: the best
    assert len(colours) == len(set(colours)) == 7


def test_a_million_steps_are_told_to_the_last_one(copied: Path) -> None:
    header, *rows = (copied / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("step")
    cells = rows[-1].split(",")
    cells[place] = "1234567"
    (copied / "metrics.csv").write_text("\n".join([header, *rows[:-1], ",".join(cells)]) + "\n")
    page = page_of(seg3d.report(copied))
    assert "steps1234567" in page.words
    assert any("1234567" in row for row in page.rows)


def stop(run: Path, steps: int) -> None:
    """Make a run look as if it was killed in its second epoch."""
    (run / "result.json").unlink()
    for name, kept in (("metrics.csv", 2), ("sampling.jsonl", 1), ("trace.jsonl", 5 + steps)):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[:kept]))


def test_a_run_that_was_stopped_says_how_far_it_came_and_what_to_do(fresh: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(fresh, tmp_path / "run"))
    stop(run, steps=2)
    page = page_of(seg3d.report(run))
    assert "not ended" in page.words
    assert "after 1 of 2 epochs and 2 steps of the next" in page.words
    assert f"seg3d resume {run}" in page.words
    assert "verified" not in page.words.replace("not verified", "")
    assert sum(tag == "img" for tag, _ in page.elements) == 1


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_shown(copied: Path) -> None:
    for name in ("environment.json", "data.json", "metrics.csv", "config.yaml"):
        (copied / name).unlink()
    (copied / "splits.json").write_text("[torn")
    with (copied / "trace.jsonl").open("a") as file:
        file.write('{"epoch": 1, "ba')
    shutil.rmtree(copied / "checkpoints")
    page = page_of(seg3d.report(copied))
    for name in ("environment.json", "data.json", "metrics.csv", "config.yaml"):
        assert f"{name} is missing" in page.words
    for name in ("splits.json", "trace.jsonl"):
        assert f"{name} is damaged" in page.words
    assert "The checkpoints are missing" in page.words
    assert "records do not fit" in page.words
    assert f"Dice {summary_of(copied)['foreground_dice']['mean']:.3f}" in page.words
    assert "Not drawn: the scans cannot be found" in page.words  # only the config tells where they are
    assert {row[-1] for row in page.cases} == {"other"}


def edited(path: Path, *keys: Any, to: Any) -> None:
    """Replace one value of a JSON document, or the last line of one per line."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    value = holder = json.loads(lines[-1])
    for key in keys[:-1]:
        holder = holder[key]
    if keys:
        holder[keys[-1]] = to
    path.write_text("\n".join([*lines[:-1], json.dumps(value if keys else to)]) + "\n")


def test_documents_of_another_shape_are_damaged_and_the_rest_is_shown(copied: Path) -> None:
    edited(copied / "result.json", to=[])
    edited(copied / "splits.json", "val", to=3)
    edited(copied / "environment.json", "torch", to="2.0")
    edited(copied / "data.json", "cases", to=None)
    edited(copied / "model.json", "labels", to=["blob"])
    edited(copied / "run.json", "config", "train", to=["fast"])
    edited(copied / "sampling.jsonl", "classes", to=[1])
    (copied / "verified.jsonl").write_text('"yes"\n')
    (copied / "resumed.jsonl").write_text('{"changed": 1}\n')
    page = page_of(seg3d.report(copied))
    for name in ("splits", "environment", "data", "model", "run"):
        assert f"{name}.json is damaged: " in page.words
    for name in ("sampling", "verified", "resumed"):
        assert f"{name}.jsonl is damaged: " in page.words
    assert "result.json is damaged: Input should be a valid dictionary" in page.words
    assert "environment.json is damaged: torch: Input should be a valid dictionary" in page.words
    assert "not ended" in page.words
    assert f"Dice {summary_of(copied)['foreground_dice']['mean']:.3f}" in page.words


@pytest.mark.parametrize(
    ("name", "keys", "to", "got"),
    [
        ("test/summary.json", (), [], "valid dictionary"),
        ("test/summary.json", ("metric_per_case", 0, "metrics"), 3, "metric_per_case.0.metrics: "),
        ("test/summary.json", ("metric_per_case", 0, "metrics", "1"), {}, "metric_per_case.0.metrics.1.Dice: "),
        ("test/summary.json", ("per_label", "1", "IoU"), None, "per_label.1.IoU: "),
        ("test/summary.json", ("per_label",), {}, "labels of the cases"),
        ("test/summary.json", ("foreground_dice", "n"), "many", "foreground_dice.n: "),
        ("evaluations.jsonl", ("summary",), 1, "summary: "),
        ("evaluations.jsonl", (), "none", "valid dictionary"),
    ],
)
def test_scores_of_another_shape_are_an_error_that_names_the_file(
    copied: Path, name: str, keys: tuple[Any, ...], to: Any, got: str
) -> None:
    edited(copied / name, *keys, to=to)
    with pytest.raises(RunError) as error:
        seg3d.report(copied)
    assert str(copied / name) in str(error.value)
    assert got in str(error.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        seg3d.report(tmp_path)


@pytest.mark.parametrize("output", ["summary.json", "."])
def test_a_report_is_written_to_an_html_file_only(run: Path, tmp_path: Path, output: str) -> None:
    with pytest.raises(ConfigError, match="HTML file"):
        seg3d.report(run, tmp_path / output)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_none_are_refused(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["report", str(run), "--scores", str(run / "result.json"), "--output", str(tmp_path / "a.html")]
    )
    assert isinstance(done.exception, RunError)
    assert "no summary of scores" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_scores_on_cases_that_the_run_has_learnt_from_are_a_failure(run: Path, study: Path, tmp_path: Path) -> None:
    seg3d.predict(run, output=tmp_path / "train", split="train")
    told: list[str] = []
    scores = tmp_path / "scores.json"
    kept = Path(shutil.copytree(run, tmp_path / "run"))
    seg3d.evaluate(tmp_path / "train", study, scores, subset=True, run=kept, tell=told.append)
    assert told == [f"report: {kept / 'report.html'}"]
    page = page_of(kept / "report.html")
    assert "failure 3 of 3 scored cases were trained on: these scores flatter." in page.words
    assert "Nothing was trained or chosen" not in page.words
    # both evaluations are there: the one asked for is shown
    page = page_of(seg3d.report(kept, scores=kept / "test" / "summary.json"))
    assert "trained on" not in page.words


def test_scores_of_another_run_that_were_written_over_its_own_are_not_shown(
    run: Path, study: Path, tmp_path: Path
) -> None:
    shutil.copytree(run / "test", tmp_path / "answers")
    kept = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("test")))
    scores = tmp_path / "scores.json"
    seg3d.evaluate(tmp_path / "answers", study, scores, subset=True, run=kept)
    assert str(scores) in page_of(seg3d.report(kept)).words
    scores.write_text(scores.read_text().replace('"n": 3', '"n": 4'))  # as another evaluation with this --output does
    words = page_of(seg3d.report(kept)).words
    assert "Not evaluated" in words
    assert f"{scores} was written anew" in words
    assert "Mean over 4" in page_of(seg3d.report(kept, scores=scores)).words  # when asked for


def test_scores_of_another_run_that_are_asked_for_are_a_failure(run: Path, study: Path, tmp_path: Path) -> None:
    answers = Path(shutil.copytree(run / "test", tmp_path / "answers"))
    scores = tmp_path / "scores.json"
    seg3d.evaluate(answers, study, scores, subset=True, report=False)
    assert "other weights" not in page_of(seg3d.report(run, tmp_path / "a.html", scores=scores)).words
    edited(answers / "predictions.json", "weights", to="0" * 64)
    words = page_of(seg3d.report(run, tmp_path / "a.html", scores=scores)).words
    assert "failure The scores are of other weights than those that the run predicts with now." in words


def test_what_was_learnt_from_under_another_name_is_a_failure(copied: Path) -> None:
    assert "Nothing was trained or chosen by them." in page_of(seg3d.report(copied)).words
    summary = summary_of(copied)
    known = {"kind": "trained_on", "text": "1 of 3 cases were trained on: these scores flatter"}  # by its bytes
    (copied / "test" / "summary.json").write_text(json.dumps(summary | {"warnings": [known]}))
    words = page_of(seg3d.report(copied)).words
    assert "failure 1 of 3 cases were trained on: these scores flatter." in words
    assert "Nothing was trained or chosen" not in words
    (copied / "test" / "summary.json").write_text(json.dumps(summary))
    edited(copied / "data.json", "shared_images", to=["a (train) and b (test)"])
    words = page_of(seg3d.report(copied)).words
    assert "The same image is in different parts of the split: a (train) and b (test); scores flatter." in words
    assert "Nothing was trained or chosen" not in words


def test_predictions_find_their_run_by_its_weights(run: Path, study: Path) -> None:
    answers = study.parent / "answers"
    shutil.copytree(run / "test", answers)
    told: list[str] = []
    seg3d.evaluate(answers, study, study.parent / "found.json", subset=True, tell=told.append)
    assert told == [f"report: {run / 'report.html'}"]
    manifest = json.loads((answers / "predictions.json").read_text())
    (answers / "predictions.json").write_text(json.dumps(manifest | {"weights": "0" * 64}))
    seg3d.evaluate(answers, study, study.parent / "found.json", subset=True, tell=told.append)
    assert len(told) == 1


def test_mlflow_has_the_report_with_the_scores(run: Path, tracked: list[str], tmp_path: Path) -> None:
    client = mlflow.MlflowClient(tracked[1].partition("=")[2])
    record = json.loads((run / "tracking.json").read_text())["run_id"]
    path = client.download_artifacts(record, "report.html", str(tmp_path))
    assert "Mean over 3 test cases" in page_of(Path(path)).words
    assert client.get_run(record).info.status == "FINISHED"


def test_a_report_that_fails_is_told_and_nothing_else_fails(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("seg3d.verbs.report.write_run_report", fail)
    told: list[str] = []
    assert not draw_report(RunFolder(copied), told.append)
    assert len(told) == 1
    assert "the report could not be made" in told[0]


def verified(run: Path, **record: Any) -> str:
    with (run / "verified.jsonl").open("a") as file:
        file.write(json.dumps({"identical": True, "steps": 8, "epochs": 2, **record}) + "\n")
    return page_of(seg3d.report(run)).words


def test_the_badge_says_what_verifying_found(fresh: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(fresh, tmp_path / "run"))
    assert seg3d.verify(run, epochs=1, tell=lambda _: None).identical
    assert "verified: 1 of 2 epochs" in page_of(run / "report.html").words  # which was there, and is made anew
    assert "verified: 1 of 2 epochs" in verified(run, trace_sha256="of another training")
    last = result_of(run)["trace_sha256"]
    assert "Computed again, all 2 epochs had the same bits." in verified(run, trace_sha256=last)
    assert "not have the same bits" in verified(run, trace_sha256=last, identical=False)
    assert "not have the same bits" in verified(run, trace_sha256=last, epochs=1)  # which leaves the second one open
    assert "Computed again, all 2 epochs had the same bits." in verified(run, trace_sha256=last)


def test_a_result_that_is_not_that_of_the_trace_is_told(copied: Path) -> None:
    (copied / "result.json").write_text(json.dumps(result_of(copied) | {"trace_sha256": "0" * 64}))
    assert "records do not fit" in page_of(seg3d.report(copied)).words


@pytest.mark.slow
def test_a_run_of_pictures_has_no_millilitres(tmp_path: Path) -> None:
    run = seg3d.train(make_planar_study(tmp_path, "pictures"), ["train.max_epochs=1"])
    score_test_cases(run)
    page = page_of(run / "report.html")
    assert "HD95 px" in page.words
    assert not {"HD95 mm", "Volume mL"} & {cell for row in page.rows for cell in row}
    assert len(page.cases) == 1
    assert sum(tag == "img" for tag, _ in page.elements) == 2


@pytest.mark.slow
def test_a_run_of_regions_is_judged_by_its_regions(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path / "data", PhantomSpec(cases=5, kind="hippocampus", shape=(24, 24, 24)))
    (tmp_path / "tiny.yaml").write_text(TINY.format(folder=tmp_path))
    run = seg3d.train(tmp_path / "tiny.yaml", [REGIONS, "train.max_epochs=1"])
    summary = score_test_cases(run)
    page = page_of(run / "report.html")
    assert f"Dice {summary['regions']['foreground_dice']['mean']:.3f}" in page.words
    assert {"all", "inner"} <= {row[1] for row in page.cases}
    assert "all = 1 + 2, inner = 2" in page.words
    assert sum(tag == "img" for tag, _ in page.elements) == 2


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def view(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A phone's page, and what its console says."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on(
        "request", lambda request: None if request.url[:5] in ("file:", "data:", "blob:") else told.append(request.url)
    )
    yield page, told
    context.close()


def column(page: Any, number: int) -> list[str]:
    cells = page.locator(f"#cases tbody tr > :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_the_report_opens_on_a_phone_and_sorts(view: tuple[Any, list[str]], run: Path) -> None:
    page, told = view
    page.goto((run / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dice = column(page, 3)
    assert dice == sorted(dice)
    assert len(set(dice)) > 2
    heading = page.get_by_role("button", name="Dice", exact=True)
    heading.click()
    assert column(page, 3) == sorted(dice, reverse=True)
    page.get_by_role("button", name="Case", exact=True).click()
    assert column(page, 1) == sorted(column(page, 1))
    assert page.locator("#cases [aria-sort]").inner_text().startswith("Case")
    assert told == []


def test_undefined_scores_stay_last_and_infinite_ones_are_largest(view: tuple[Any, list[str]], copied: Path) -> None:
    summary, (page, told) = summary_of(copied), view
    first, second, third = summary["metric_per_case"]
    for row, distance in ((first, None), (second, "inf"), (third, 7.0)):
        row["metrics"] = {"1": row["metrics"]["1"] | {"HD95_mm": distance}}
    (copied / "test" / "summary.json").write_text(json.dumps(summary))
    page.goto(seg3d.report(copied).as_uri())
    heading = page.get_by_role("button", name="HD95 mm")
    heading.click()
    assert column(page, 5) == ["7.0", "∞", "–"]
    heading.click()
    assert column(page, 5) == ["∞", "7.0", "–"]
    assert told == []


def test_the_report_works_in_the_sandboxed_frame_of_a_tracking_server(
    view: tuple[Any, list[str]], copied: Path, tmp_path: Path
) -> None:
    """As MLflow shows it: a blob in a frame that may run scripts and nothing else."""
    page, told = view
    (tmp_path / "viewer").mkdir()
    for case in summary_of(copied)["metric_per_case"]:
        (tmp_path / "viewer" / f"{case['case']}.html").write_text("")
    content = seg3d.report(copied, tmp_path / "report.html").read_text()
    assert 'href="viewer/' in content
    outer = tmp_path / "outer.html"
    outer.write_text("<!doctype html><title>frame</title>")
    page.goto(outer.as_uri())
    page.evaluate(
        """content => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.style = "width: 380px; height: 700px";
            frame.src = URL.createObjectURL(new Blob([content], { type: "text/html" }));
            document.body.append(frame);
        }""",
        content,
    )
    frame = page.frame_locator("iframe")
    frame.locator("#cases tbody tr").first.wait_for()
    before = column(frame, 3)
    frame.get_by_role("button", name="Dice", exact=True).click()
    assert column(frame, 3) == before[::-1]
    assert frame.locator("th.case a").count() == 0  # the pages beside it are not there
    assert frame.locator("img.curves").evaluate("image => image.naturalWidth") > 300
    assert told == []
