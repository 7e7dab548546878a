"""The plan of an audit: which runs of a study are made, under which set-up and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seg3d.atomic import write_json
from seg3d.digest import sha256_json
from seg3d.errors import ConfigError, RunError
from seg3d.keyed import derived_seed
from seg3d.training.run_folder import RunFolder, read_json

SETUPS = ("random", "seeded", "deterministic")
VARY = ("nothing", "seed")
_FILE = "audit-plan.json"


@dataclass(frozen=True)
class Cell:
    """One run of an audit.

    Attributes:
        setup: ``"random"``, ``"seeded"`` or ``"deterministic"``.
        number: Run of this set-up, from 1.
        seed: Its seed; a random run draws its own.
    """

    setup: str
    number: int
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        return f"{self.setup}-{self.number:02d}"


@dataclass(frozen=True)
class AuditPlan:
    """All runs of an audit.

    Attributes:
        config: The study's config; set-up and seed are those of the cells.
        setups: Set-ups, in the order asked for.
        runs: Runs of each set-up.
        vary: ``"nothing"``: all seeded and deterministic runs share one seed, so that what differs is not the seed;
            ``"seed"``: every run has its own.
        seed: Seed that the others are derived from; it also splits the cases, so that all runs have the same test
            cases.
    """

    config: Mapping[str, Any]
    setups: tuple[str, ...]
    runs: int
    vary: str
    seed: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The runs: first of every set-up, then the second, so that an audit that is stopped is balanced."""
        return tuple(Cell(setup, n, self._seed(n)) for n in range(1, self.runs + 1) for setup in self.setups)

    @property
    def digest(self) -> str:
        """SHA-256 of the plan."""
        return sha256_json(asdict(self))

    def shard(self, index: int, of: int) -> tuple[Cell, ...]:
        """Every n-th cell, for a scheduler that spreads the work: ``index`` is 1 to ``of``."""
        return self.cells[index - 1 :: of]

    def _seed(self, number: int) -> int:
        return self.seed if self.vary == "nothing" else derived_seed(self.seed, "audit", number)


def make_plan(config: Mapping[str, Any], setups: Sequence[str], runs: int, vary: str, seed: int) -> AuditPlan:
    """The plan of an audit.

    Raises:
        ConfigError: A set-up is unknown or named twice, or there are fewer than two runs.
    """
    unknown = [setup for setup in setups if setup not in SETUPS]
    if unknown or not setups or len(set(setups)) < len(setups):
        raise ConfigError(
            "unknown set-up" if unknown else "set-ups are named once each",
            where="--setups",
            got=", ".join(unknown or setups) or "none",
            expected=", ".join(SETUPS),
        )
    if runs < 2:
        raise ConfigError("a spread needs at least two runs", where="--runs", got=runs, expected="2 or more")
    if vary not in VARY:
        raise ConfigError("unknown choice", where="--vary", got=vary, expected=" or ".join(VARY))
    return AuditPlan(config, tuple(setups), runs, vary, seed)


def parse_shard(text: str | None) -> tuple[int, int]:
    """Index and number of shards of ``"2/5"``; ``None`` is the only shard.

    Raises:
        ConfigError: It is not of that form, or out of range.
    """
    if text is None:
        return 1, 1
    index, slash, of = text.partition("/")
    if slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of):
        return int(index), int(of)
    raise ConfigError("a shard is i/n with i from 1 to n", where="--shard", got=text, expected="for example 2/5")


@dataclass(frozen=True)
class AuditFolder:
    """Where an audit lies: its plan, a run folder for each cell, and what is collected from them."""

    path: Path

    @property
    def cells(self) -> Path:
        """Folder of the run folders."""
        return self.path / "cells"

    @property
    def plan_file(self) -> Path:
        """The plan."""
        return self.path / _FILE

    @property
    def result(self) -> Path:
        """What was found."""
        return self.path / "audit.json"

    @property
    def report(self) -> Path:
        """The page that shows it."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.path / "figures"

    def run(self, cell: Cell) -> RunFolder:
        """The run folder of a cell, which may not be there yet."""
        return RunFolder(self.cells / cell.name)

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell is trained, and its test cases are predicted and scored."""
        return self.run(cell).result.exists() and self.run(cell).test_scores.exists()

    def write_plan(self, plan: AuditPlan) -> None:
        """Keep the plan, or check that it is the one that is kept already.

        Raises:
            RunError: The folder belongs to another plan.
        """
        content = asdict(plan) | {"setups": list(plan.setups), "digest": plan.digest}
        if self.plan_file.exists() and read_json(self.plan_file)["digest"] != plan.digest:
            raise RunError(
                "the folder holds an audit of another plan",
                where=self.path,
                fix="Repeat the command that began it, or give another --output.",
            )
        write_json(self.plan_file, content)

    def read_plan(self) -> AuditPlan:
        """The plan that was kept.

        Raises:
            RunError: There is none, or it is damaged.
        """
        content = read_json(self.plan_file)
        digest = content.pop("digest", None)
        plan = AuditPlan(**{**content, "setups": tuple(content["setups"])})
        if plan.digest != digest:
            raise RunError("the plan of the audit was changed", where=self.plan_file, fix="Begin another audit.")
        return plan
