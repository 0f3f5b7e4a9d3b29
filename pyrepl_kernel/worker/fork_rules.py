"""What speaks against forking a process, library by library and thing by thing.

Nothing here imports a library: one that the user's code has not loaded is not in use.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyrepl_kernel.worker.observation import (
    Glance,
    Thread,
    children,
    glance,
    native_threads,
    shared_memory,
)
from pyrepl_kernel.worker.openmp import is_libgomp
from pyrepl_kernel.worker.watch import Evidence, Watch

__all__ = [
    "Finding",
    "has_openmp_threads",
    "look",
    "look_at_states",
    "look_for_checkpoint",
    "states",
]


@dataclass(frozen=True)
class Finding:
    """Something that a fork would break.

    Attributes:
        what: A clause: what it is, and what would come of it.
        remedy: What to do instead of having it in the warmup; completes "or ...".
        evidence: By which its line in the warmup is found.
        rank: What is only a part of something else, by coming with the same line, ranks higher.
    """

    what: str
    remedy: str
    evidence: tuple[Evidence, ...]
    rank: int


@dataclass(frozen=True)
class _Library:
    name: str
    pattern: re.Pattern[str]
    what: str
    remedy: str


def _library(name: str, pattern: str, what: str, remedy: str = "") -> _Library:
    return _Library(name, re.compile(pattern), what, remedy or f"only import {name} in the warmup")


_LIBRARIES = (
    _library("CUDA", r"/libcuda|/libnvidia", "CUDA is initialised, and a fork cannot use the GPU"),
    _library(
        "polars",
        r"/_?polars",
        "polars has been used: its threads do not survive a fork, and its next query would hang",
    ),
    _library(
        "duckdb",
        r"/_?duckdb",
        "a duckdb connection is open: a fork has none of its threads, and closing it there crashes",
        "close the connection in the warmup",
    ),
    _library(
        "PyTorch",
        r"/torch/|/libtorch|/libc10",
        "PyTorch has been used: its threads do not survive a fork, and its next call may hang",
    ),
    _library(
        "JAX", r"/jaxlib/|/libjax|xla", "JAX has been used: its threads do not survive a fork"
    ),
    _library(
        "TensorFlow",
        r"/tensorflow/|/libtensorflow",
        "TensorFlow has been used: its threads do not survive a fork",
    ),
    _library(
        "OpenMP",
        r"/lib(iomp5|omp)[-.]",
        "the OpenMP library {library} has threads, which do not survive a fork",
        "only import what uses it in the warmup",
    ),
)

# They take care of forks themselves, by handlers that pthread_atfork calls: OpenBLAS, Arrow,
# scipy's Fourier transforms, numba's work queue, jemalloc.
_HARMLESS = re.compile(r"lib(scipy_)?openblas|/libarrow|/pypocketfft\.|/workqueue\.")
_HARMLESS_NAMES = frozenset({"jemalloc_bg_thd", "polars-ooc-clea"})

# Descriptors without a position or a partner that processes could take from each other.
_HARMLESS_TARGETS = re.compile(r"/(dev/(null|zero|u?random|full|tty|pts/|shm/)|proc/|sys/|memfd:)")
_GPU = re.compile(r"/dev/(nvidia|kfd|dri/)")


def states() -> set[str]:
    """What libraries say of themselves that a fork would break. Takes microseconds."""
    modules = sys.modules
    found = set()
    with suppress(Exception):  # half-imported modules, and other versions' internals
        if getattr(modules.get("jax._src.xla_bridge"), "_backends", None):
            found.add("jax")
    with suppress(Exception):
        cuda: Any = modules.get("torch.cuda")
        if cuda is not None and cuda.is_initialized():
            found.add("torch.cuda")
    if getattr(modules.get("pyrepl_kernel.worker.gui"), "has_been_on", False):
        found.add("gui")
    parallel = modules.get("numba.np.ufunc.parallel")
    if getattr(parallel, "_threading_layer", None) == "omp":
        found.add("numba")
    if any(not loop.is_closed() for loop in _loops()):
        found.add("loop")
    if any(not task.done() for task in _tasks()):
        found.add("tasks")
    return found | _names_of_instances()


_STATES = {
    "jax": (
        "JAX has been used: its backend's threads do not survive a fork",
        "only import JAX in the warmup",
    ),
    "torch.cuda": (
        "PyTorch has initialised CUDA, and a fork cannot use the GPU",
        "move nothing to the GPU in the warmup",
    ),
    "numba": (
        "numba has run parallel code on its omp layer, which ends a fork that does so again",
        "leave NUMBA_THREADING_LAYER unset, so that a layer is used that can be forked",
    ),
    "gui": (
        "the event loop of a GUI has been switched on (%gui), and a fork would share its windows",
        "leave %gui to the first cell",
    ),
    "loop": (
        "an asyncio event loop is open, and forks would take each other's events",
        "use asyncio.run(), which closes its loop",
    ),
    "tasks": (
        "an asyncio task has not ended, and would in no fork",
        "await it",
    ),
}


def look(watch: Watch) -> list[Finding]:
    """Everything that speaks against a fork, the most telling first."""
    found = [
        *look_at_states(),
        *_look_at_native_threads(watch),
        *_look_at_python_threads(watch),
        *_look_at_children(watch),
        *_look_at_objects(),
        *_look_at_descriptors(watch),
        *_look_at_memory(),
    ]
    return sorted(found, key=lambda finding: finding.rank)


def look_for_checkpoint(
    our_threads: Collection[int],
    our_descriptors: Collection[int],
    our_files: str,
    our_children: Collection[int],
) -> tuple[list[str], list[str]]:
    """What speaks against a frozen fork of a worker in use, and what it would not bring back.

    Args:
        our_threads: Numbers of threads that are none of the user's, and made anew.
        our_descriptors: Likewise, descriptors.
        our_files: What paths of files that are none of the user's begin with.
        our_children: Likewise, child processes.
    """
    watch = Watch()
    now = watch.before
    watch.before = Glance(
        frozenset(our_threads),
        frozenset(
            one
            for one in now.descriptors
            if one[0] in our_descriptors or one[1].startswith(our_files)
        ),
        frozenset(our_children),
    )
    in_the_way = [
        # The worker's own loop is renewed in the fork, and its tasks go on.
        *(one for one in look_at_states() if one.evidence[0][1] not in ("loop", "tasks")),
        *_look_at_native_threads(watch),
        *_look_at_python_threads(watch),
    ]
    left = [*_look_at_children(watch), *_look_at_descriptors(watch), *_look_at_memory()]
    return _clauses(in_the_way), _clauses(left)


def _clauses(findings: list[Finding]) -> list[str]:
    """What there is, without what a fork would make of it."""
    ordered = sorted(findings, key=lambda finding: finding.rank)
    return [re.split(r", (?:and|which) (?=forks|a fork)", one.what)[0] for one in ordered]


def has_openmp_threads(watch: Watch) -> bool:
    """Whether GNU OpenMP keeps threads."""
    return any(is_libgomp(thread.library) for thread in native_threads(watch.before.threads))


# ------------------------------------------------------------- threads and states


def look_at_states() -> list[Finding]:
    """What libraries say of themselves, and what asyncio has not ended."""
    return [
        Finding(*_STATES[name], evidence=(("state", name),), rank=1)
        for name in sorted(states() & _STATES.keys())
    ]


def _look_at_native_threads(watch: Watch) -> Iterator[Finding]:
    by_library: dict[_Library, list[Thread]] = {}
    unknown: dict[str, list[Thread]] = {}
    for thread in native_threads(watch.before.threads):
        if _is_harmless(thread):
            continue
        library = next((one for one in _LIBRARIES if one.pattern.search(thread.library)), None)
        if library is not None:
            by_library.setdefault(library, []).append(thread)
        elif not is_libgomp(thread.library):
            unknown.setdefault(thread.library, []).append(thread)
    for library, threads in by_library.items():
        what = library.what.format(library=os.path.basename(threads[0].library))
        yield Finding(what, library.remedy, _evidence(threads), 0)
    for path, threads in unknown.items():
        name = os.path.basename(path)
        owner = f"threads of {name}" if path and not _is_python(name) else "threads of C code"
        yield Finding(
            f"{owner} run ({', '.join(sorted({thread.name for thread in threads}))}), "
            "and threads do not survive a fork",
            "only import what starts them in the warmup",
            _evidence(threads),
            3,
        )


def _is_harmless(thread: Thread) -> bool:
    if thread.name in _HARMLESS_NAMES or _HARMLESS.search(thread.library):
        return True
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    layer = getattr(parallel, "_threading_layer", None)
    # numba ends TBB's threads before a fork; others who use TBB do not.
    return layer == "tbb" and "libtbb" in thread.library


def _is_python(name: str) -> bool:
    return name.startswith(("python", "libpython"))


def _evidence(threads: list[Thread]) -> tuple[Evidence, ...]:
    return tuple(("thread", thread.tid) for thread in threads)


def _look_at_python_threads(watch: Watch) -> Iterator[Finding]:
    main = threading.main_thread()
    threads = [
        thread
        for thread in threading.enumerate()
        if thread is not main and thread.native_id not in watch.before.threads
    ]
    pools = sys.modules.get("concurrent.futures.thread")
    of_pools = set(getattr(pools, "_threads_queues", ()))
    workers = [thread for thread in threads if thread in of_pools]
    if workers:
        yield Finding(
            f"a thread pool is alive ({_names(workers)}), and its threads do not survive a fork: "
            "what is submitted to it would wait for ever",
            "shut the executor down",
            tuple(("thread", thread.native_id) for thread in workers),
            1,
        )
    others = [thread for thread in threads if thread not in of_pools]
    if others:
        yield Finding(
            f"{_names(others)} still runs: a thread does not survive a fork, "
            "and a lock that it holds would stay locked",
            "end the thread",
            tuple(("thread", thread.native_id) for thread in others),
            2,
        )


def _names(threads: list[threading.Thread]) -> str:
    names = [repr(thread.name) for thread in threads]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"thread{'s' if len(names) > 1 else ''} {shown}"


# ------------------------------------------------- processes, files, connections


def _look_at_children(watch: Watch) -> Iterator[Finding]:
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    ours = watch.before.children | {getattr(tracker and tracker._resource_tracker, "_pid", None)}
    for pid, command in children().items():
        if pid not in ours:
            yield Finding(
                f"the child process {pid} ({command[:60]}) still runs, "
                "and a fork could neither wait for it nor be its only user",
                "end it",
                (("child", pid),),
                2,
            )


def _look_at_objects() -> Iterator[Finding]:
    found = _instances()
    connections = [one for one in found if not _is_condition(one) and _is_open(one)]
    if connections:
        remedy = "dispose of the engine" if "sqlalchemy" in sys.modules else "close it"
        yield Finding(
            "an sqlite3 connection is open, and connections must not be carried across a fork",
            f"{remedy} in the warmup",
            tuple(("state", _named(one)) for one in connections),
            2,
        )
    conditions = [one for one in found if _is_condition(one)]
    if conditions:
        yield Finding(
            "a Condition or an Event of multiprocessing's would be common to all forks",
            "make it in a cell",
            tuple(("state", _named(one)) for one in conditions),
            4,
        )


def _kinds() -> list[type]:
    sqlite: Any = sys.modules.get("sqlite3")
    synchronize: Any = sys.modules.get("multiprocessing.synchronize")
    kinds: list[type] = []
    with suppress(AttributeError):  # half imported
        if sqlite is not None:
            kinds += [sqlite.Connection, *sqlite.Connection.__subclasses__()]
        if synchronize is not None:
            kinds.append(synchronize.Condition)
    return kinds


def _instances() -> list[Any]:
    """All objects of these classes: one pass over all that the garbage collector knows."""
    kinds = _kinds()
    return [one for one in gc.get_referrers(*kinds) if type(one) in kinds] if kinds else []


_seen: tuple[int, set[str]] = (0, set())


def _names_of_instances() -> set[str]:
    """As states. Each object counts as a use of its class, so mostly there is nothing to do."""
    global _seen
    uses = sum(map(sys.getrefcount, _kinds()))
    if uses != _seen[0]:
        names = {_named(one) for one in _instances()}
        _seen = sum(map(sys.getrefcount, _kinds())), names
    return _seen[1]


def _named(one: object) -> str:
    return f"{type(one).__name__} {id(one)}"


def _is_condition(one: object) -> bool:
    return type(one).__module__ == "multiprocessing.synchronize"


def _is_open(connection: Any) -> bool:
    try:
        return connection.total_changes >= 0  # type: ignore[no-any-return]
    except Exception:
        return False  # it says so with an exception


def _look_at_descriptors(watch: Watch) -> Iterator[Finding]:
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    ours = getattr(tracker and tracker._resource_tracker, "_fd", None)
    for fd, target in sorted(glance().descriptors - watch.before.descriptors):
        if fd == ours:
            continue
        told = _of_descriptor(fd, target)
        if told is not None:
            what, remedy, rank = told
            yield Finding(what, remedy, (("descriptor", (fd, target)),), rank)


def _of_descriptor(fd: int, target: str) -> tuple[str, str, int] | None:
    if target.startswith("socket:"):
        return (
            f"a socket is open{_peer(fd)}, and forks would read each other's answers",
            "close the connection in the warmup",
            3,
        )
    if target.startswith("pipe:"):
        return f"a pipe is open (descriptor {fd}), which forks would share", "close it", 4
    if target.startswith("anon_inode:"):
        kind = target.partition(":")[2].strip("[]")
        return f"a descriptor of kind {kind} is open, which forks would share", "close it", 5
    if _GPU.match(target):
        return f"the GPU is in use ({target}), and a fork cannot use it", "use it in a cell", 0
    if _HARMLESS_TARGETS.match(target) or not _writes_at_a_position(fd):
        return None
    return (
        f"{target} is open for writing, and forks would share its position",
        "close the file",
        4,
    )


def _writes_at_a_position(fd: int) -> bool:
    """Not so a log, whose lines go to the end; and what is only read is opened anew in a fork."""
    import fcntl

    with suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        return flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND
    return False  # closed since


def _peer(fd: int) -> str:
    import socket

    with suppress(OSError, ValueError):
        with socket.socket(fileno=os.dup(fd)) as connection:
            peer = connection.getpeername()
            if isinstance(peer, tuple) and len(peer) > 1:
                return f" to {peer[0]} port {peer[1]}"
    return ""


def _look_at_memory() -> Iterator[Finding]:
    if shared_memory():
        yield Finding(
            "memory is mapped that forks would share (mmap, or multiprocessing's Value or Array)",
            "make it in a cell",
            (),
            4,
        )
    weakref: Any = sys.modules.get("weakref")
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None and weakref is not None:
        cleanup = tempfile.TemporaryDirectory._cleanup.__func__
        for info in list(weakref.finalize._registry.values()):
            if getattr(info.func, "__func__", None) is cleanup:
                yield Finding(
                    "a temporary directory would be removed by the first fork that ends",
                    "make it in a cell",
                    (),
                    4,
                )
                return


def _tasks() -> list[Any]:
    tasks: Any = sys.modules.get("asyncio.tasks")
    if tasks is None:
        return []
    if sys.version_info >= (3, 14):  # asyncio keeps them in C, and gives those of a known loop only
        return [one for one in gc.get_objects() if issubclass(type(one), tasks.Task)]
    # The former from Python 3.12 on.
    known: Any = getattr(tasks, "_scheduled_tasks", None) or getattr(tasks, "_all_tasks", ())
    return list(known)


def _loops() -> Iterator[Any]:
    """The event loops that the main thread has set up."""
    events: Any = sys.modules.get("asyncio.events")
    if events is not None:
        policy = getattr(events, "_event_loop_policy", None)
        loop = getattr(getattr(policy, "_local", None), "_loop", None)
        if loop is not None:
            yield loop
    helpers: Any = sys.modules.get("IPython.core.async_helpers")
    loop = getattr(helpers, "_asyncio_event_loop", None)
    if loop is not None:
        yield loop
