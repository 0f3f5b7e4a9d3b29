"""Prepares the memory of a process for its forks, so that they share as much of it as they can.

A fork shares each page with its parent until one of them writes to it, and then has a copy of its
own. Reference counts lie next to what they count, so a fork writes wherever it looks; that stays.
What it writes without need is what this is about:

- **Holes.** After a warmup thousands of blocks are free here and there on pages that are in use.
  New objects would be put there, one page copied for a few bytes each. Here the holes are filled,
  and a fork's objects come to lie side by side on pages of their own.
- **The cache of attributes.** Each look-up that is new replaces an entry, and lets go of a name
  that is somewhere else in memory. An empty cache has no names to let go of.
- **The garbage collector** writes to each object that it looks at. It is told to leave alone what
  is there (``gc.freeze``).
- **Imports** that each worker does sooner or later are done before the fork.
- **Free memory** that C's heap keeps for later is shared like any other. What comes to lie there
  next, an array of 20 MB perhaps, would first have 5,000 pages copied whose contents nobody wants.
  The system takes it back before a checkpoint, and gives it out again empty.
"""

from __future__ import annotations

import gc
import importlib
import mmap
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["PageCost", "give_back_free_memory", "share_memory"]

_NEEDED_BY_ALL = ("IPython.core.logger", "ctypes", "sqlite3")
"""Imported with the first cell, or when a worker is idle after it."""

_POOL = 16 << 10  # bytes that Python's allocator divides into blocks of one size
_POOL_HEADER = 48
_ALIGNMENT = 16
_LARGEST = 512  # bytes of a block; what is larger comes from malloc
_BYTES_HEADER = sys.getsizeof(b"")
_ADDRESS = 32  # what an address as a Python number takes
_MOST = 8 << 20  # bytes of one size; more holes than that are left

_HEAP_SIZES = (*(1 << n for n in range(15, 9, -1)), *range(496, 31, -16))
_HEAP_HEADER = 8
_IN_ROW = 4  # blocks side by side that are no chance

_fillings: list[Any] = []

_PROBES = 64  # pages


class PageCost:
    """What this process pays for a page that it shares with a fork and changes.

    A microsecond on most machines, several in a virtual one: measured with the first fork.

    Attributes:
        seconds: For each page; 0 until it was measured.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._pages: mmap.mmap | None = None

    def prepare(self) -> None:
        """A fork is about to be made."""
        if not self.seconds:
            self._pages = mmap.mmap(-1, _PROBES * mmap.PAGESIZE, mmap.MAP_PRIVATE)
            self._write(self._pages, 1)

    def measure(self) -> None:
        """The fork is there, and lives."""
        pages, self._pages = self._pages, None
        if pages is not None:
            began = time.perf_counter()
            self._write(pages, 2)
            self.seconds = (time.perf_counter() - began) / _PROBES
            pages.close()

    @staticmethod
    def _write(pages: mmap.mmap, value: int) -> None:
        for at in range(0, _PROBES * mmap.PAGESIZE, mmap.PAGESIZE):
            pages[at] = value


def give_back_free_memory() -> None:
    """Give the system all whole pages that C's heap keeps for later, where it can do so."""
    try:
        import ctypes

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):
        return  # not glibc
    trim(0)


def share_memory() -> None:
    """Make ready for forks; to be called when all that they are to share is there."""
    for name in _NEEDED_BY_ALL:
        with suppress(ImportError):  # Python may have been built without it
            importlib.import_module(name)
    _forget_attributes()  # here for the holes that it leaves, and once more for what comes between
    gc.unfreeze()
    gc.collect()
    _fill_heap()
    _fill_pools()
    _forget_attributes()
    gc.freeze()


def _forget_attributes() -> None:
    clear: Callable[[], None] = getattr(
        sys, "_clear_internal_caches", getattr(sys, "_clear_type_cache", lambda: None)
    )
    clear()


def _fill_heap() -> None:
    """Allocate from C's heap, the large first, until it gives blocks that lie side by side."""
    try:
        import ctypes

        malloc = ctypes.CDLL(None).malloc
    except (ImportError, OSError, AttributeError):
        return
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    left = _MOST
    for size in _HEAP_SIZES:
        in_row = last = 0
        while in_row < _IN_ROW and left > 0:
            left -= size
            address = malloc(size - _HEAP_HEADER) or 0  # kept for good
            in_row = in_row + 1 if address == last + size else 0
            last = address


def _fill_pools() -> None:
    """Allocate blocks of each size until all pools that were in use are full."""
    for size in range(_ALIGNMENT, _LARGEST + 1, _ALIGNMENT):
        filling = _fill(size)
        if filling is None:
            return  # another allocator is at work, as PYTHONMALLOC can have it
        _fillings.append(filling)


def _fill(size: int) -> list[Any] | None:
    """What fills the holes of one size; None when it cannot be seen that they are full.

    They are when all blocks of one pool have been handed out in a row: one that was empty is taken
    only when no other has room. That one is left to the forks, its first block first.
    """
    make = _maker(size)
    in_pool = (_POOL - _POOL_HEADER) // size
    if size == _ADDRESS:
        in_pool = in_pool // 2 - 1  # an address takes a block as well, between two others
    filling: list[Any] = []
    in_row = pool = 0
    while in_row < in_pool:
        if len(filling) * size > _MOST:
            return None
        block = make()
        filling.append(block)
        address = id(block)
        if size == _ADDRESS:
            filling.append(address)
        in_row = in_row + 1 if address // _POOL == pool else 1
        pool = address // _POOL
    del block
    first = len(filling) - (in_pool if size != _ADDRESS else 2 * in_pool)
    last_pool = sorted(filling[first:], key=id)
    del filling[first:]
    while last_pool:
        last_pool.pop()  # what is freed last is handed out first
    return filling


def _maker(size: int) -> Callable[[], object]:
    """Makes objects that each take one block of a size, and that hold nothing else."""
    if size == _ALIGNMENT:
        return object
    if size == _ADDRESS:
        return lambda: len(_fillings) + 0.5
    return lambda: bytes(size - _BYTES_HEADER)
