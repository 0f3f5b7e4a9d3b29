"""A trial fork: a child that does real work with what is loaded, and may hang or crash doing so.

parent ── fork ──▶ child      "numpy", "pandas", ... : each before its work begins
   ▲                 │
   └───── pipe ──────┘        ends without "done": what was named last has killed it
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["try_fork"]

_DONE = "done"
_FAILED = "failed:"


def try_fork(begin: Callable[[], Any], patience: float) -> str:
    """Fork, and let the child work.

    Args:
        begin: What a fork does first.
        patience: Seconds without any progress after which the child hangs.

    Returns:
        What went wrong; empty when the fork did its work.
    """
    reader, writer = os.pipe()
    pid = _fork()
    if not pid:
        _be_canary(writer, begin, patience)
    os.close(writer)
    try:
        heard, in_time = _listen(reader, patience)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = _reap(pid)
    return _judge(heard.splitlines(), in_time, status, patience)


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        # Python from 3.12 on, and JAX: that there are threads. It is what we are to find out.
        warnings.simplefilter("ignore")
        return os.fork()


def _listen(reader: int, patience: float) -> tuple[str, bool]:
    """All that the child says, and whether it never was silent for too long."""
    heard = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    deadline = time.monotonic() + patience
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return heard.decode(errors="replace"), False
        piece = os.read(reader, 65536)
        heard += piece
        # Its end can be held up by a process that the work has started, and "done" cannot.
        if not piece or heard.endswith(f"{_DONE}\n".encode()):
            return heard.decode(errors="replace"), True
        deadline = time.monotonic() + patience


def _reap(pid: int) -> int | None:
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None  # somebody has SIGCHLD ignored


def _judge(lines: list[str], in_time: bool, status: int | None, patience: float) -> str:
    if lines and lines[-1] == _DONE:
        return ""
    works = [line for line in lines if not line.startswith(_FAILED)]
    at = f"in {works[-1]}" if works else "right after the fork"
    if not in_time:
        return f"a trial fork hung {at} for {patience:g} seconds"
    failure = next((line for line in lines if line.startswith(_FAILED)), "")
    if failure:
        return f"a trial fork failed {at}: {failure.removeprefix(_FAILED)}"
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"a trial fork was killed by {signal.Signals(-code).name} {at}"
    return f"a trial fork ended {at} with exit code {code}"


# ------------------------------------------------------------------ in the child


def _be_canary(writer: int, begin: Callable[[], Any], patience: float) -> NoReturn:
    def say(text: str) -> None:
        os.write(writer, f"{text}\n".encode())

    try:
        _be_quiet(patience)
        say("its renewal and the after_fork hooks")
        begin()
        for name, work in _works():
            say(name)
            work()
        say(_DONE)
    except BaseException as error:
        with suppress(BaseException):
            text = traceback.format_exception_only(error)[-1].strip().replace("\n", " ")
            say(_FAILED + text[:500])
    finally:
        os._exit(0)


def _be_quiet(patience: float) -> None:
    """Leave nothing behind: no output, no core file, no process if the parent is killed."""
    import faulthandler
    import resource

    faulthandler.disable()  # its descriptor is the parent's
    # Killed by the operating system, which needs no cooperation of a process that hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, patience * 3 + 10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.stdout = sys.stderr = open(null, "w", encoding="utf-8")


def _works() -> Iterator[tuple[str, Callable[[], Any]]]:
    modules = sys.modules
    for needs, work in _TASKS:
        if all(name in modules and _is_whole(modules[name]) for name in needs):
            yield needs[-1] if needs else work.__name__.strip("_"), work


def _is_whole(module: Any) -> bool:
    return module is not None and not getattr(
        getattr(module, "__spec__", None), "_initializing", False
    )


def _memory() -> None:
    blocks = [bytearray(1 << n % 18) for n in range(100)]  # some by malloc, some by mmap
    del blocks


def _threads() -> None:
    import threading

    thread = threading.Thread(target=_memory)
    thread.start()
    thread.join()


def _asyncio() -> None:
    modules: Any = sys.modules["asyncio"]
    modules.run(modules.sleep(0))


def _ssl() -> None:
    ssl: Any = sys.modules["ssl"]
    ssl.RAND_bytes(8)


def _sqlite() -> None:
    sqlite: Any = sys.modules["sqlite3"]
    connection = sqlite.connect(":memory:")
    connection.execute("select 1").fetchall()
    connection.close()


def _numpy() -> None:
    numpy: Any = sys.modules["numpy"]
    square = numpy.ones((256, 256))  # BLAS divides it among threads
    assert (square @ square)[0, 0] == 256
    numpy.linalg.svd(square[:32, :32])


def _scipy() -> None:
    linalg: Any = sys.modules["scipy.linalg"]
    numpy: Any = sys.modules["numpy"]
    linalg.svd(numpy.eye(64))


def _pandas() -> None:
    pandas: Any = sys.modules["pandas"]
    frame = pandas.DataFrame({"key": [1, 2, 1] * 100, "value": range(300)})
    repr(frame.groupby("key").sum())


def _arrow() -> None:
    arrow: Any = sys.modules["pyarrow"]
    compute: Any = sys.modules["pyarrow.compute"]
    compute.sum(arrow.array(range(1000)))
    if "pyarrow.acero" in sys.modules:
        # It is divided among Arrow's threads.
        arrow.table({"key": [1, 2]}).group_by("key").aggregate([("key", "sum")])


def _kmeans() -> None:
    cluster: Any = sys.modules["sklearn.cluster"]
    numpy: Any = sys.modules["numpy"]
    # Enough rows for more than one of OpenMP's threads.
    points = numpy.arange(1200, dtype=float).reshape(600, 2)
    cluster.KMeans(2, n_init=1, max_iter=2, random_state=0).fit(points)


def _boosting() -> None:
    ensemble: Any = sys.modules["sklearn.ensemble"]
    numpy: Any = sys.modules["numpy"]
    points = numpy.arange(400, dtype=float).reshape(200, 2)
    ensemble.HistGradientBoostingRegressor(max_iter=1, max_leaf_nodes=3).fit(points, points[:, 0])


def _polars() -> None:
    polars: Any = sys.modules["polars"]
    polars.DataFrame({"key": [1, 2, 1]}).group_by("key").len()


def _duckdb() -> None:
    duckdb: Any = sys.modules["duckdb"]
    connection = duckdb.connect()
    connection.execute("select sum(range) from range(1000)").fetchall()
    connection.close()


def _torch() -> None:
    torch: Any = sys.modules["torch"]
    square = torch.ones(300, 300)
    square @ square


def _jax() -> None:
    jax: Any = sys.modules["jax"]
    jax.devices("cpu")


_TASKS: tuple[tuple[tuple[str, ...], Callable[[], Any]], ...] = (
    ((), _memory),
    ((), _threads),
    (("asyncio",), _asyncio),
    (("ssl",), _ssl),
    (("sqlite3",), _sqlite),
    (("numpy",), _numpy),
    (("numpy", "scipy.linalg"), _scipy),
    (("pandas",), _pandas),
    (("pyarrow", "pyarrow.compute"), _arrow),
    (("numpy", "sklearn.cluster"), _kmeans),
    (("numpy", "sklearn.ensemble"), _boosting),
    (("polars",), _polars),
    (("duckdb",), _duckdb),
    (("torch",), _torch),
    (("jax",), _jax),
)
