"""The names under which cells stand in tracebacks: a hash, as debuggers of front ends compute it.

Source of MurmurHash2 (32 bits): Austin Appleby, in the public domain.
"""

from __future__ import annotations

import struct

__all__ = ["CELL_HASH_SEED", "cell_hash", "murmur2"]

CELL_HASH_SEED = 0xC70F6907
"""Seed of the hash in a cell's file name."""

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(text: str, seed: int) -> int:
    """The 32-bit hash of a text's UTF-8 bytes."""
    data = text.encode("utf-8", "surrogatepass")
    length = len(data)
    h = (seed ^ length) & _MASK
    whole = length & ~3
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if tail := data[whole:]:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


def cell_hash(code: str) -> int:
    """The number that stands for a cell's source in its file name."""
    return murmur2(code, CELL_HASH_SEED)
