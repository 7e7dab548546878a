"""All subjects, or some: ``python -m benchmarks.peers [--subjects 1,2] [--repeats 3] [--quick]``."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.peers.harness import ROOT, Job, Settings, interleaved
from benchmarks.peers.report import MACHINE, write_report
from benchmarks.peers.results import Row, read_rows, replace_cases, rows_of, version_of, write_rows
from benchmarks.table import describe_machine

SUBJECTS = {
    1: "prediction",
    2: "supply",
    3: "training_step",
    4: "accuracy",
    5: "preparing",
    6: "start_up",
    7: "limit",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", default=",".join(map(str, SUBJECTS)), help="numbers, separated by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", metavar="PATTERN", help="found in 'case | tool' of what is measured")
    parser.add_argument("--quick", action="store_true", help="tiny inputs: shows that everything runs")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real scans")
    parser.add_argument("--work", type=Path, help="where inputs may lie while it runs; a few GB")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "benchmark.md")
    parser.add_argument("--report-only", action="store_true", help="write the page from the results that there are")
    options = parser.parse_args()
    for number in [] if options.report_only else sorted(int(n) for n in options.subjects.split(",")):
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            settings = Settings(Path(folder), options.data.resolve(), options.quick)
            new = measure_subject(number, settings, options.repeats, re.compile(options.only))
        if new:
            write_rows(options.results, replace_cases(read_rows(options.results), new))
    options.report.write_text(write_report(read_rows(options.results)))
    print(options.results, options.report, sep="\n")


def measure_subject(number: int, settings: Settings, repeats: int, only: re.Pattern[str]) -> list[Row]:
    """The rows of a subject, with one that says where and when; none where nothing could be measured."""
    subject = import_module(f"benchmarks.peers.subjects.{SUBJECTS[number]}")
    print(f"\n{subject.NAME}", flush=True)
    jobs: list[Job] = [job for job in subject.jobs(settings) if only.search(f"{job.case} | {job.name}")]
    measured = interleaved(jobs, repeats, tell=lambda line: print(line, flush=True))
    found = [row for job, measures in zip(jobs, measured, strict=True) for row in rows_of(subject.NAME, job, measures)]
    return [machine_row(subject.NAME, settings.quick), *found] if found else []


def machine_row(subject: str, quick: bool) -> Row:
    """What processor it was, and when."""
    text = describe_machine(["torch", "numpy"]) + (", quick: tiny inputs, no measurement" if quick else "")
    threads = float(os.cpu_count() or 1)
    return Row(subject, text, "seg3d", version_of("seg3d"), MACHINE, threads, threads, threads, "threads")


if __name__ == "__main__":
    main()
