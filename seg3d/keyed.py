"""Keyed random generators: the only source of randomness.

A generator is named by what it is for, ``keyed(seed, "patch", epoch, case_id, draw)``, so a random choice
depends on its name alone and never on how many choices were made before it, in which process, or when.
"""

from __future__ import annotations

import hashlib

import numpy as np

Key = str | int


def keyed(seed: int, *key: Key) -> np.random.Generator:
    """A generator whose stream is a pure function of ``seed`` and ``key``.

    Args:
        seed: The run's seed.
        key: What the numbers are for: strings and integers. ``1`` and ``"1"`` are different keys, and so
            are ``("ab", "c")`` and ``("a", "bc")``.

    Raises:
        TypeError: A part of the key is neither ``str`` nor ``int``.

    Source: Philox4x64-10, Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    return np.random.Generator(np.random.Philox(key=_philox_key(seed, key)))


def derived_seed(seed: int, *key: Key) -> int:
    """A 63-bit seed for a library that insists on a state of its own."""
    return int(keyed(seed, *key).integers(2**63))


def _philox_key(seed: int, key: tuple[Key, ...]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    digest = hashlib.blake2b(digest_size=16)
    for part in (seed, *key):
        # numpy integers are welcome, booleans and floats are slips
        if isinstance(part, bool) or not isinstance(part, (str, int, np.integer)):
            raise TypeError(f"a key is made of str and int, got {type(part).__name__}: {part!r}")
        text = f"s{part}" if isinstance(part, str) else f"i{int(part)}"
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return np.frombuffer(digest.digest(), dtype="<u8").astype(np.uint64)
