"""NiiVue's distribution file, once it has been fetched (:mod:`seg3d.reporting.viewer.fetch`).

Source: Hanayik, Rorden et al., NiiVue (https://github.com/niivue/niivue), BSD-2-Clause.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from seg3d.errors import Seg3dError

VERSION = "0.69.0"
FILE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
HOW_TO_GET_IT = "make viewer (or: python -m seg3d.reporting.viewer.fetch), with npm and a network"
VENDORED = Path(__file__).parent / "vendor" / "niivue.umd.js"


@lru_cache(maxsize=2)
def niivue_script(path: Path = VENDORED) -> bytes | None:
    """NiiVue's distribution file; ``None`` where it has not been fetched.

    Raises:
        Seg3dError: It is there with another content than the pinned one.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    refuse_other(content, FILE_SHA256, path)
    return content


def refuse_other(content: bytes, wanted: str, where: object) -> None:
    """Refuse a content that is not the pinned one.

    Raises:
        Seg3dError: Its SHA-256 is another one than ``wanted``.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise Seg3dError(
            "the viewer has another content than the one this version was tested with",
            where=where,
            got=f"SHA-256 {found}",
            expected=wanted,
            fix="Delete it and fetch it anew; do not use it.",
        )
