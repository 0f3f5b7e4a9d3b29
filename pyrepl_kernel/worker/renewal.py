"""What is done around a fork, so that the child is a process of its own and not half of another.

Siblings are born with the same memory: the same random numbers to come, the same semaphores, the
same directory for temporary files. What Python and the libraries see to themselves in a forked
child is left to them: ``random``, ``tempfile``'s names, ``uuid4`` and OpenSSL ask for the process
or for the system's randomness. The user's signal handlers stay.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyrepl_kernel.hooks import run_after_fork, run_before_fork
from pyrepl_kernel.worker import openmp

__all__ = ["before_fork", "remember", "renew"]

_MT19937_WORDS = 624
"""The state of numpy's global generator; drawn from the start of it once so many are used up."""


def before_fork() -> list[str]:
    """What the parent does just before a fork.

    Returns:
        What went wrong, with tracebacks; none of it is a reason not to fork.

    Raises:
        HookTimeout: A hook of the user's hangs.
    """
    from pyrepl_kernel.worker.hook_limit import limited

    problems = run_before_fork(limited)
    openmp.quiesce()
    return problems


def remember() -> dict[str, Any]:
    """What a fork is to go on with, when it continues its parent's session: see ``renew``."""
    random: Any = sys.modules.get("random")
    return {} if random is None else {"random": random.getstate()}


def renew(resume: dict[str, Any] | None = None) -> list[str]:
    """What a forked child does first.

    Args:
        resume: None for a new worker. What ``remember`` gave just before the fork, for a child that
            is to continue its parent's session: random states and event loops are then the
            parent's, and no hook is called.

    Returns:
        What went wrong, with tracebacks; the child goes on all the same.
    """
    steps: list[Callable[[], Any]] = [
        _reopen_files,
        _renew_multiprocessing,
        _forget_pool_threads,
    ]
    if resume is None:
        steps += [_forget_loops, _seed_numpy, _seed_torch]
    elif "random" in resume:
        random: Any = sys.modules["random"]
        steps.append(lambda: random.setstate(resume["random"]))
    problems = []
    for step in steps:
        try:
            step()
        except Exception:
            problems.append(f"a forked worker was not renewed:\n{traceback.format_exc()}")
    return problems if resume is not None else problems + run_after_fork()


def _reopen_files() -> None:
    """Give this process its own position in each file that is open for reading.

    A font that matplotlib has drawn with stays open, and siblings that draw would move each
    other's position in it.
    """
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        fd = int(name)
        with suppress(OSError):  # it was listdir's own, or may be read no more
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            if is_file and flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_PATH:
                own = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
                os.lseek(own, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(own, fd, os.get_inheritable(fd))
                os.close(own)


def _forget_loops() -> None:
    """Closing them would change what the parent waits for; the child makes its own."""
    events: Any = sys.modules.get("asyncio.events")
    if events is not None:
        events._set_running_loop(None)
        policy: Any = getattr(events, "_event_loop_policy", None)
        if getattr(getattr(policy, "_local", None), "_loop", None) is not None:
            policy.set_event_loop(None)
    helpers: Any = sys.modules.get("IPython.core.async_helpers")
    if helpers is not None:
        helpers._asyncio_event_loop = None


def _seed_numpy() -> None:
    random: Any = sys.modules.get("numpy.random")
    if random is None:
        return
    numpy: Any = sys.modules["numpy"]
    try:
        # The whole state at once. seed() would make as good a one, by much more of numpy's code,
        # and a fork has to copy each page that code of its parent's runs on.
        key = numpy.frombuffer(os.urandom(_MT19937_WORDS * 4), "u4")
        random.set_state(("MT19937", key, _MT19937_WORDS))
    except (TypeError, ValueError):
        # The user chose another generator for numpy's global functions.
        random.set_bit_generator(type(random.get_bit_generator())())


def _seed_torch() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.seed()  # the CPU's; torch.seed() would reach for others too


def _forget_pool_threads() -> None:
    pools: Any = sys.modules.get("concurrent.futures.thread")
    for thread in list(getattr(pools, "_threads_queues", ())):
        if not thread.is_alive():
            del pools._threads_queues[thread]


def _renew_multiprocessing() -> None:
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process._children.clear()
        # The parent removes it when it ends.
        process.current_process()._config.pop("tempdir", None)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    locks = _semaphores(util)
    util._finalizer_registry.clear()
    util._run_after_forkers()
    for lock, held in locks:
        _renew_semaphore(lock, held)


def _semaphores(util: Any) -> list[tuple[Any, int]]:
    """All locks of multiprocessing's, and how often this thread holds each."""
    synchronize: Any = sys.modules.get("multiprocessing.synchronize")
    if synchronize is None:
        return []
    return [
        (one, one._semlock._count())
        for one in list(util._afterfork_registry.values())
        if isinstance(one, synchronize.SemLock)
    ]


def _renew_semaphore(lock: Any, held: int) -> None:
    """Replace the semaphore in a lock by one of this process's own.

    Else siblings would wait for each other, and for ever when one is killed that holds it.
    tqdm makes such a lock for all of a process's progress bars.
    """
    old = lock._semlock
    # Those of the fork server's and of spawned processes are found by their names, which stay
    # until somebody removes them; from Python 3.14 on all are of that kind unless asked for.
    is_named = old.name is not None
    semaphore: Any = type(old)
    value = old.maxvalue if held else old._get_value()
    while True:
        with suppress(FileExistsError):
            new = semaphore(old.kind, value, old.maxvalue, lock._make_name(), not is_named)
            break
    lock._semlock = new
    lock._make_methods()
    if is_named:
        from multiprocessing import resource_tracker, synchronize, util

        resource_tracker.register(new.name, "semaphore")
        cleanup: Any = synchronize.SemLock._cleanup  # type: ignore[attr-defined]
        util.Finalize(lock, cleanup, (new.name,), exitpriority=0)
    for _ in range(held):
        new.acquire()
