"""What the app answers instead of a result: a status, one message, and nothing that names a file."""

from __future__ import annotations

from pathlib import Path

from seg3d.errors import Seg3dError, describe


class Refusal(Exception):  # noqa: N818  # an answer, not a failure
    """A request that is answered with an error status.

    Args:
        status: HTTP status.
        what: What is wrong, in one clause.
        got: What was found.
        expected: What should have been there.
        fix: What to do about it.
        retry_after_s: When the client may try again.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.status, self.retry_after_s = status, retry_after_s
        self.detail = describe(what, got=got, expected=expected, fix=fix)
        super().__init__(self.detail)


def told(error: Seg3dError, folder: Path) -> str:
    """A user's mistake as it is told to a client: without the paths of this machine.

    Args:
        error: The mistake.
        folder: Folder of the upload, which libraries may name in their messages.
    """
    where = None if isinstance(error.where, Path) else error.where
    text = describe(error.what, where=where, got=error.got, expected=error.expected, fix=error.fix)
    return text.replace(str(folder), "the upload")
