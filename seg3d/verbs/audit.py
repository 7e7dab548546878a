"""``seg3d audit``: the same study several times in several set-ups, and how far the results spread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seg3d.atomic import exclusive
from seg3d.auditing.plan import AuditFolder, AuditPlan, Cell, make_plan, parse_shard
from seg3d.build import training as build
from seg3d.config import Config, as_config
from seg3d.errors import ConfigError, Seg3dError
from seg3d.training.run_folder import read_json
from seg3d.verbs.audit_collect import collect
from seg3d.verbs.prepare import prepare
from seg3d.verbs.resume import resume
from seg3d.verbs.score import score_test_cases
from seg3d.verbs.train import say, train

EXECUTORS = ("local", "slurm")
_WEEK_MINUTES = 7 * 24 * 60
_POLL_SECONDS = 0.5


def audit(
    config: Config | Path | str,
    overrides: Sequence[str] = (),
    *,
    runs: int = 10,
    setups: Sequence[str] = ("random", "seeded", "deterministic"),
    vary: str = "nothing",
    jobs: int = 1,
    shard: str | None = None,
    executor: str = "local",
    output: Path | str | None = None,
    tell: Callable[[str], None] = say,
) -> Path:
    """The folder of an audit: what is missing of its runs is made, and all of them are compared.

    Each run is made in a process of its own, in a run folder of its own. A second call does only what is missing.

    Args:
        config: A config or the path of one.
        overrides: ``path=value`` settings.
        runs: Runs of each set-up.
        setups: ``"random"``, ``"seeded"``, ``"deterministic"``.
        vary: ``"nothing"``: all but the random runs share one seed; ``"seed"``: each run has its own.
        jobs: Runs made at the same time.
        shard: ``"i/n"``: make every n-th run only; results are compared by the call that finds all runs done.
        executor: ``"local"`` or ``"slurm"``.
        output: The folder; by default one in ``output_dir`` that is named by the plan.
        tell: Called with a line of progress.

    Raises:
        ConfigError: A set-up is unknown, runs are fewer than two, or the shard is out of range.
        Seg3dError: A run failed.
    """
    index, of = parse_shard(shard)
    if executor not in EXECUTORS:
        raise ConfigError("unknown executor", where="--executor", got=executor, expected=" or ".join(EXECUTORS))
    chosen = as_config(config, overrides)
    given = None if output is None else AuditFolder(Path(output))
    if given is not None and given.plan_file.exists() and chosen.reproducibility.threads is None:
        # however many runs are made at a time now: another number of threads would be another audit
        chosen = _with_threads(chosen, given.read_plan().config["reproducibility"]["threads"])
    plan = plan_audit(chosen, runs, setups, vary, jobs)
    study = Config.model_validate(plan.config)
    folder = given or AuditFolder(Path(study.output_dir) / f"audit-{study.name}-{plan.digest[:8]}")
    _refuse_without_test_cases(study)
    folder.path.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.path, wait=True):  # several shards may begin at once
        folder.write_plan(plan)
        if study.tracking.enabled:
            _start_parent(study, folder)
    missing = [cell for cell in plan.shard(index, of) if not folder.is_done(cell)]
    tell(f"{len(plan.shard(index, of)) - len(missing)} of {len(plan.shard(index, of))} runs are done already")
    _execute(folder, missing, jobs, executor, tell)
    undone = [cell.name for cell in plan.cells if not folder.is_done(cell)]
    if undone:
        tell(f"{len(undone)} runs of other shards are not done yet: {', '.join(undone[:6])}")
    else:
        tell(collect(folder)["verdict"])
    return folder.path


def plan_audit(config: Config, runs: int, setups: Sequence[str], vary: str, jobs: int) -> AuditPlan:
    """The plan of an audit: one split for all runs, and a number of threads that lets them run side by side.

    Raises:
        ConfigError: A set-up is unknown, or runs are fewer than two.
    """
    if jobs < 1:
        raise ConfigError("at least one run is made at a time", where="--jobs", got=jobs)
    threads = config.reproducibility.threads or max(1, (os.cpu_count() or 1) // jobs)
    study = _with_threads(build.fix_split(config), threads)
    return make_plan(study.model_dump(mode="json"), setups, runs, vary, config.seed)


def _with_threads(config: Config, threads: int) -> Config:
    chosen = config.reproducibility.model_copy(update={"threads": threads})
    return config.model_copy(update={"reproducibility": chosen})


def _refuse_without_test_cases(study: Config) -> None:
    """Prepare the data; raise where nothing would be left to score."""
    store = prepare(study)
    if not build.build_split(study, store.labelled, store.groups).test:
        raise ConfigError(
            "an audit needs test cases", where="data.split", fix="Set data.split.test_share, or kind kfold."
        )


def run_cell(audit_folder: Path, cell: Cell, devices: str | None) -> str | None:
    """Why a run of an audit could not be made, ``None`` when it was: errors do not cross processes well.

    Args:
        audit_folder: The audit.
        cell: Which run.
        devices: GPUs to see, as ``CUDA_VISIBLE_DEVICES``, or ``"all"``: submitit hides them from local jobs. ``None``:
            those that the scheduler gave.
    """
    if devices == "all":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    elif devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    try:
        _make_run(AuditFolder(audit_folder), cell)
    except Seg3dError as error:
        return str(error)
    return None


def _make_run(folder: AuditFolder, cell: Cell) -> None:
    """Train, predict and score one run, from where an earlier call was stopped."""
    study = Config.model_validate(folder.read_plan().config)
    run = folder.run(cell)
    if (run.path / "run.json").exists():
        resume(run.path, tell=_silent)
    else:
        settings = [f"seed={cell.seed}", f"reproducibility.mode={cell.setup}", "train.progress=false"]
        train(as_config(study, settings), folder=run.path, tell=_silent, tags=_tags(folder, cell))
    score_test_cases(run.path)


def _execute(folder: AuditFolder, cells: Sequence[Cell], jobs: int, executor: str, tell: Callable[[str], None]) -> None:
    """Make runs, each in a process or Slurm job of its own; the first failure is raised after all have ended."""
    if not cells:
        return
    import submitit

    try:
        pool = submitit.AutoExecutor(folder.path / "jobs", cluster=executor)
        pool.update_parameters(timeout_min=_WEEK_MINUTES, name="seg3d-audit")
    except RuntimeError as error:  # submitit's word for a cluster that is not there
        what = "this executor cannot be used here"
        raise ConfigError(what, where="--executor", got=executor, fix=str(error)) from error
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all") if executor == "local" else None
    waiting = list(cells)
    running: dict[str, Any] = {}
    failures: dict[str, str] = {}
    while waiting or running:
        # a Slurm cluster queues by itself
        while waiting and (executor == "slurm" or len(running) < jobs):
            cell = waiting.pop(0)
            running[cell.name] = pool.submit(run_cell, folder.path, cell, devices)
        for name, job in list(running.items()):
            if job.done():
                del running[name]
                _tell_end(name, job, failures, tell)
        time.sleep(_POLL_SECONDS)
    if failures:
        name, reason = next(iter(failures.items()))
        raise Seg3dError(
            f"{len(failures)} of {len(cells)} runs failed; {name}: {reason}",
            where=folder.path,
            fix="Repair the cause and repeat the command: it goes on with what is missing.",
        )


def _tell_end(name: str, job: Any, failures: dict[str, str], tell: Callable[[str], None]) -> None:
    crash = job.exception()
    wrong = job.result() if crash is None else f"it crashed, see {job.paths.stderr}"
    if wrong is None:
        tell(f"{name}: done")
    else:
        failures[name] = wrong
        tell(f"{name}: FAILED, {wrong}")


def _start_parent(study: Config, folder: AuditFolder) -> None:
    """The MLflow run above those of the cells; it also makes the database, before several processes want to."""
    from seg3d.atomic import write_json
    from seg3d.training.tracking import start_tracking

    path = folder.path / "tracking.json"
    if path.exists():
        return
    experiment = study.tracking.experiment or study.name
    tracker = start_tracking(study.tracking.uri, experiment, folder.path.name, {}, {"audit": folder.path.name})
    tracker.end()
    write_json(path, {"run_id": tracker.run_id})


def _tags(folder: AuditFolder, cell: Cell) -> Mapping[str, str]:
    path = folder.path / "tracking.json"
    tags = {"audit": folder.path.name, "setup": cell.setup, "run": str(cell.number)}
    return tags | ({"mlflow.parentRunId": read_json(path)["run_id"]} if path.exists() else {})


def _silent(_: str) -> None:
    """Runs side by side would mix their lines; each has its metrics in its folder."""
