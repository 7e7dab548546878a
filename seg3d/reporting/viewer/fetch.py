"""Getting NiiVue: ``python -m seg3d.reporting.viewer.fetch``, once, with npm and a network.

NiiVue's distribution file is 2.3 MB of somebody else's code, so it is not in the repository. It is taken from the
package of one version whose SHA-256 is known, and laid where pages and wheels find it.

Source: Hanayik, Rorden et al., NiiVue (https://github.com/niivue/niivue), BSD-2-Clause.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path

from seg3d.atomic import atomic_path
from seg3d.errors import Seg3dError

PACKAGE, VERSION = "@niivue/niivue", "0.69.0"
PACKAGE_SHA256 = "6e9a6a471b428eb3b258a0086beca9187d95e43a781a39e8a519c6da246af485"
FILE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
HOW_TO_GET_IT = "make viewer (or: python -m seg3d.reporting.viewer.fetch), with npm and a network"
_MEMBER = "package/dist/niivue.umd.js"
VENDORED = Path(__file__).parent / "vendor" / "niivue.umd.js"
_PATIENCE_S = 120


@lru_cache(maxsize=2)
def niivue_script(path: Path = VENDORED) -> bytes | None:
    """NiiVue's distribution file; ``None`` where it has not been fetched.

    Raises:
        Seg3dError: It is there with another content than the pinned one.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    _refuse_other(content, FILE_SHA256, path)
    return content


def fetch_niivue(target: Path = VENDORED) -> Path:
    """``target``, holding NiiVue's distribution file of the pinned version.

    Raises:
        Seg3dError: There is no npm, no network, or the package has another content than the pinned one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Seg3dError("npm is not installed", fix="Install Node.js with npm; pages do without NiiVue until then.")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            npm,
            "pack",
            f"{PACKAGE}@{VERSION}",
            "--ignore-scripts",
            "--fetch-retries=1",
            "--fetch-timeout=20000",
        ]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Seg3dError("npm does not answer", got=f"nothing for {_PATIENCE_S} s") from error
        packed = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or not packed:
            raise Seg3dError("npm could not fetch the viewer", where=PACKAGE, got=done.stderr.strip()[-300:])
        _refuse_other(packed[0].read_bytes(), PACKAGE_SHA256, f"{PACKAGE}@{VERSION}")
        with tarfile.open(packed[0]) as package:
            member = package.extractfile(_MEMBER)
            content = b"" if member is None else member.read()
    _refuse_other(content, FILE_SHA256, _MEMBER)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target


def main() -> int:
    """Fetch it unless it is there; 1 where that is not possible."""
    try:
        if niivue_script() is None:
            fetch_niivue()
    except Seg3dError as error:
        print(f"NiiVue was not fetched: {error}", file=sys.stderr)
        return 1
    print(f"NiiVue {VERSION}: {VENDORED}")
    return 0


def _refuse_other(content: bytes, wanted: str, where: object) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise Seg3dError(
            "the viewer has another content than the one this version was tested with",
            where=where,
            got=f"SHA-256 {found}",
            expected=wanted,
            fix="Delete it and fetch it anew; do not use it.",
        )


if __name__ == "__main__":
    sys.exit(main())
