"""Stops the threads of GNU OpenMP, which a fork does not survive.

libgomp keeps its threads between parallel regions and does not notice a fork: the child waits for
threads that it does not have. OpenMP 5 has a call that ends them; the next parallel region makes
new ones. A wheel often brings a copy of its own, so there may be several libraries to call.
"""

from __future__ import annotations

import os
import re

__all__ = ["is_libgomp", "libgomp_images", "quiesce"]

_LIBGOMP = re.compile(r"libgomp[-.\w]*\.so[.\d]*$")
_SOFT = 1  # omp_pause_soft: threads end, settings stay

_pause_of: dict[str, object] = {}


def is_libgomp(path: str) -> bool:
    """Whether a file is GNU OpenMP's library, under the names that wheels give it too."""
    return _LIBGOMP.match(os.path.basename(path)) is not None


def libgomp_images() -> list[str]:
    """The copies of libgomp that this process has loaded."""
    if not os.path.exists("/proc/self/maps"):
        return []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        paths = {line.split(None, 5)[5].rstrip("\n") for line in maps if "libgomp" in line}
    return sorted(path for path in paths if is_libgomp(path))


def quiesce() -> list[str]:
    """End the threads that OpenMP keeps for this thread.

    Returns:
        The copies of libgomp that could not do so: they are older than OpenMP 5 (GCC 9), or they
        are at work in a parallel region.
    """
    failed = []
    for path in libgomp_images():
        pause = _pause(path)
        if pause is None or pause(_SOFT) != 0:  # type: ignore[operator]
            failed.append(path)
    return failed


def _pause(path: str) -> object:
    if path not in _pause_of:
        import ctypes

        try:
            # It is loaded, so this only finds it; a copy that was moved away is not loaded anew.
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
            function = library.omp_pause_resource_all
            function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
            _pause_of[path] = function
        except (OSError, AttributeError):
            _pause_of[path] = None
    return _pause_of[path]
