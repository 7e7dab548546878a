"""Getting NiiVue: ``python -m seg3d.reporting.viewer.fetch``, once, with npm and a network.

NiiVue's distribution file is 2.3 MB of somebody else's code, so it is not in the repository. It is taken from the
package of one version whose SHA-256 is known, and laid where pages and wheels find it. Nothing imports this module.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from seg3d.atomic import atomic_path
from seg3d.errors import Seg3dError
from seg3d.reporting.viewer.niivue import FILE_SHA256, VENDORED, VERSION, niivue_script, refuse_other

PACKAGE = "@niivue/niivue"
PACKAGE_SHA256 = "6e9a6a471b428eb3b258a0086beca9187d95e43a781a39e8a519c6da246af485"
_MEMBER = "package/dist/niivue.umd.js"
_PATIENCE_S = 120


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
        refuse_other(packed[0].read_bytes(), PACKAGE_SHA256, f"{PACKAGE}@{VERSION}")
        with tarfile.open(packed[0]) as package:
            member = package.extractfile(_MEMBER)
            content = b"" if member is None else member.read()
    refuse_other(content, FILE_SHA256, _MEMBER)
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


if __name__ == "__main__":
    sys.exit(main())
