"""What goes wrong through data or settings, told so that a user can mend it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


class Seg3dError(Exception):
    """A user's mistake: shown as one message without traceback, exit code 2.

    Args:
        what: What is wrong, in one clause.
        where: File, case or key it concerns.
        got: What was found.
        expected: What should have been there.
        fix: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        super().__init__(describe(what, where=where, got=got, expected=expected, fix=fix))


class ConfigError(Seg3dError):
    """A config file, key or override that cannot be used."""


class DataError(Seg3dError):
    """A scan, label map or dataset that cannot be used."""


class StoreError(Seg3dError):
    """An HDF5 volume store that cannot be read or written."""


class RunError(Seg3dError):
    """A run folder that cannot be used."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with a dataset or config; ``note`` faults are allowed but told.

    ``kind`` is a short stable identifier (``"shape_mismatch"``), meant for machines.
    """

    where: str
    kind: str
    what: str
    got: str = ""
    expected: str = ""
    fix: str = ""
    note: bool = False

    def __str__(self) -> str:
        return describe(
            self.what,
            where=self.where,
            got=self.got or None,
            expected=self.expected or None,
            fix=self.fix or None,
        )


class FaultsError(Seg3dError):
    """Several faults at once, all listed in one message."""

    def __init__(self, title: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n  - ".join([title, *(str(fault) for fault in self.faults)]))


def describe(
    what: str,
    *,
    where: object = None,
    got: object = None,
    expected: object = None,
    fix: str | None = None,
) -> str:
    """One message: where, what, got, expected, what to do."""
    message = f"{where}: {what}" if where is not None else what
    details = [f"{name} {value}" for name, value in (("got", got), ("expected", expected)) if value is not None]
    if details:
        message += f" ({', '.join(details)})"
    return f"{message}. {fix}" if fix else message


def told_in(traceback: str) -> str | None:
    r"""What an error of this package says at the end of a traceback of another process; ``None`` if none does.

    Example:
        >>> told_in("Traceback:\n  File 'a.py'\nseg3d.errors.StoreError: a.h5: it was replaced\n")
        'a.h5: it was replaced'
    """
    _, *found = re.split(r"^seg3d\.errors\.\w+: ", traceback, flags=re.MULTILINE)
    # what went wrong on top of it, as in taking the training down, is not what a user can mend
    return found[-1].partition("\n\nDuring handling of")[0].strip() if found else None
