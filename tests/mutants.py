"""Files with damaged headers, for tests that no reader may crash, hang or allocate over them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\xc0\x7f",
    b"99999",
    b"-1 ",
)
PIECES = st.one_of(
    st.sampled_from(EXTREMES),
    st.binary(min_size=1, max_size=6),
    st.text("0123456789 .-:\n", max_size=9).map(str.encode),
)
KINDS = ("over", "over", "over", "in", "out")
PLACES = st.sampled_from(range(1000))  # unlike numbers these are not drawn near 0 above all
MUTATIONS = st.lists(st.tuples(PLACES, PIECES, st.sampled_from(KINDS)), min_size=1, max_size=4)
ARGUMENTS = {"changes": MUTATIONS, "cut": st.sampled_from([1.0, 1.0, 0.99, 0.5]), "packed": st.booleans()}
PLAIN = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def mutated(base: bytes, header: int, changes: list[tuple[int, bytes, str]], cut: float) -> bytes:
    """The file with bytes of its header, after the first, overwritten, put in or left out, and its end cut off."""
    raw = bytearray(base)
    for thousandth, piece, kind in changes:
        place = 9 + thousandth * (header - 9) // 1000
        end = place if kind == "in" else place + len(piece)
        raw[place:end] = b"" if kind == "out" else piece
    if base.startswith(b"\x89PNG"):  # else most end at the check sum
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw[: max(1, int(len(raw) * cut))])


def fuzz(check: Callable[[bytes, bool], Any], base: bytes, header: int, examples: int) -> None:
    """Check as many mutants of a file, the same ones each time.

    Args:
        check: Called with a damaged file and whether to compress it.
        base: The sound file.
        header: How many of its first bytes are header.
        examples: How many mutants.
    """
    run = given(**ARGUMENTS)(lambda changes, cut, packed: check(mutated(base, header, changes, cut), packed))
    settings(PLAIN, max_examples=examples)(run)()
