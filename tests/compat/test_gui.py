"""`%gui`: the event loops of toolkits, and of the user's own, run between cells."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.compat.support import check, run
from tests.e2e.support import Client, Outcome, running_kernel

_MINE = """
from ipykernel.eventloops import register_integration
import os, select, threading, zmq
rounds, done = [], []
wake, waker = os.pipe()
@register_integration("mine")
def loop_mine(kernel):
    messages = kernel.shell_stream.getsockopt(zmq.FD)
    rounds.append(threading.current_thread() is threading.main_thread())
    while not kernel.shell_stream.flush(limit=1):
        if wake in select.select([messages, wake], [], [])[0]:
            done.append(os.read(wake, 1))
@loop_mine.exit
def _(kernel):
    print("the loop's exit hook")
"""


@pytest.fixture
def fresh() -> Iterator[Client]:
    """A front end of a kernel of the test's own: what a GUI has been on in is no more as before."""
    with running_kernel() as kernel:
        yield kernel.client()


def stderr(outcome: Outcome) -> str:
    """What a cell has printed to stderr."""
    return "".join(
        message["content"]["text"]
        for message in outcome.messages
        if message["msg_type"] == "stream" and message["content"]["name"] == "stderr"
    )


def until(client: Client, code: str) -> None:
    """Run a cell again and again until it gives True; the event loop runs in between."""
    for _ in range(500):
        if run(client, code).result == "True":
            return
    pytest.fail(f"never true: {code}")


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Kernels that begin here have other variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield


# ------------------------------------------------------------------ the user's own


def test_a_loop_of_the_users_own(fresh: Client) -> None:
    """L5: `register_integration`; it waits in the main thread, and gives way to each message."""
    run(fresh, _MINE)
    run(fresh, "%gui mine")
    # A cell that has come before the loop was entered runs without a round.
    until(fresh, "any(rounds)")
    check(fresh, "all(rounds) and get_ipython().active_eventloop == 'mine'")
    run(fresh, "threading.Timer(0.01, os.write, (waker, b'x')).start()")
    until(fresh, "done == [b'x']")
    run(fresh, "%gui")
    run(fresh, "count = len(rounds)")
    check(fresh, "len(rounds) == count and get_ipython().kernel.eventloop is None")


def test_the_loop_waits_and_asyncio_goes_on_within(fresh: Client) -> None:
    """L5: the toolkit is called once for each wait, and does not spin in it either."""
    run(fresh, _MINE)
    run(
        fresh,
        """
import asyncio, time
flushes, ended = [], None
stream = get_ipython().kernel.shell_stream
flush = stream.flush
stream.flush = lambda *a, **k: (flushes.append(1), flush(*a, **k))[1]
async def task():
    global ended
    await asyncio.sleep(0.5)
    ended = len(rounds), len(flushes)
    print("the task has ended")
""",
    )
    run(fresh, "%gui mine")
    msg_id = fresh.execute("job = asyncio.ensure_future(task()); began = len(rounds)")
    fresh.wait_printed(msg_id)  # nothing is asked of the kernel meanwhile
    check(fresh, "ended[0] == began + 1 and len(flushes) < 50")


def test_asyncio_goes_on_while_a_loop_runs(fresh: Client) -> None:
    """L5: tasks that sleep, that are ready at once, and that a thread wakes."""
    run(fresh, _MINE)
    run(
        fresh,
        """
import asyncio, time
log, ended = [], threading.Event()
async def task():
    await asyncio.sleep(0.02)
    log.append("slept")
    for _ in range(3):
        await asyncio.sleep(0)
    log.append("ready")
    await asyncio.to_thread(time.sleep, 0.01)
    log.append("woken")
    os.write(waker, b"x")
job = asyncio.ensure_future(task())
""",
    )
    run(fresh, "%gui mine")
    # No message comes to the worker: whatever happens now happens within the loop's one wait.
    until(fresh, "done == [b'x']")
    check(fresh, "log == ['slept', 'ready', 'woken'] and job.done()")


def test_a_loop_that_returns_at_once(fresh: Client) -> None:
    """L5: one that only looks at its events, and leaves the waiting to the kernel."""
    code = _MINE.replace("while not", "if not").replace("[], [])", "[], [], 0)")
    run(fresh, code)
    run(fresh, "%gui mine")
    run(fresh, "os.write(waker, b'x')")
    until(fresh, "done == [b'x']")


def test_a_loop_that_fails(fresh: Client) -> None:
    """L5: it is switched off, and the next cell says why."""
    run(fresh, _MINE.replace("messages =", "1 / 0 #"))
    run(fresh, "%gui mine")
    # A cell that is there already goes before the loop.
    said = next(filter(None, (stderr(run(fresh, "1")) for _ in range(500))))
    assert "ZeroDivisionError" in said and "is off now" in said
    check(fresh, "get_ipython().kernel.eventloop is None")
    assert not stderr(run(fresh, "1"))


def test_an_interrupt_and_comms_with_a_loop(fresh: Client) -> None:
    """L5: a cell is interrupted as ever, one between cells hits nobody, and comms are served."""
    run(fresh, _MINE)
    run(fresh, "%gui mine")
    assert fresh.interrupt()["content"]["status"] == "ok"
    check(fresh, "True")
    msg_id = fresh.execute("print('begun', flush=True)\nwhile True: pass")
    fresh.wait_printed(msg_id)
    fresh.interrupt()
    assert fresh.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    run(
        fresh,
        "got = []\n"
        "def opened(comm, message): comm.on_msg(lambda m: got.append(m['content']['data']))\n"
        "get_ipython().kernel.comm_manager.register_target('t', opened)",
    )
    fresh.send("comm_open", {"comm_id": "c", "target_name": "t", "data": {}})
    fresh.send("comm_msg", {"comm_id": "c", "data": {"x": 1}})
    check(fresh, "got == [{'x': 1}]")


def test_no_checkpoint_once_a_loop_was_on(fresh: Client) -> None:
    """L5: a fork would share windows and connections; it is refused with the reason."""
    if sys.platform != "linux":
        pytest.skip("checkpoints need Linux")
    run(fresh, _MINE)
    run(fresh, "%gui mine")
    assert "event loop of a GUI" in stderr(fresh.run("%checkpoint x"))
    run(fresh, "%gui")
    assert "event loop of a GUI" in stderr(fresh.run("%checkpoint x"))


def test_what_cannot_be_switched_on(fresh: Client) -> None:
    """L5: another one beside one that is on; one that is not there; GTK's."""
    run(fresh, _MINE)
    said = stderr(run(fresh, "%gui nothing"))
    assert "no event loop for 'nothing'" in said and "mine" in said
    assert "waits for no message" in stderr(run(fresh, "%gui gtk3"))
    run(fresh, "%gui mine")
    assert "only one; switch it off with %gui" in stderr(run(fresh, "%gui osx"))
    check(fresh, "get_ipython().active_eventloop == 'mine'")
    check(fresh, "len(rounds) > 0")


def test_a_toolkit_without_a_display() -> None:
    """L5: it says so, where Qt would end the process."""
    with environment(DISPLAY=None, WAYLAND_DISPLAY=None, QT_QPA_PLATFORM=None):
        with running_kernel() as kernel:
            client = kernel.client()
            for gui in ("tk", "qt"):
                said = stderr(run(client, f"%gui {gui}"))
                assert f"%gui {gui}: " in said and any(
                    word in said for word in ("xvfb-run", "tkinter", "no Qt binding")
                )
            check(client, "get_ipython().kernel.eventloop is None")


# ------------------------------------------------------------------------ toolkits


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display without a screen."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed; install your system's package 'xvfb' (make xvfb)")
    reading, writing = os.pipe()
    with open(reading) as answer:
        command = ["Xvfb", "-displayfd", str(writing), "-nolisten", "tcp"]
        server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        try:
            number = answer.readline().strip()
            assert number, f"Xvfb has ended with status {server.wait(10)}"
            yield f":{number}"
        finally:
            server.terminate()
            server.wait(10)


def test_tk(display: str) -> None:
    """L5: `%gui tk` and `%matplotlib tk`: timers and windows are served between cells."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter; install python3-tk")
    with environment(DISPLAY=display, MPLBACKEND=None), running_kernel() as kernel:
        client = kernel.client()
        run(client, "%gui tk")
        run(
            client,
            """
import tkinter
root = tkinter.Tk()
ticks = []
def tick():
    ticks.append(root.winfo_ismapped())
    root.after(1, tick)
tick()
""",
        )
        until(client, "len(ticks) > 5 and ticks[-1] == 1")
        run(client, "root.destroy()")
        run(client, "%gui")
        run(client, "%matplotlib tk")
        run(client, "import matplotlib.pyplot as plt\nfigure = plt.figure(); plt.show()")
        until(client, "bool(figure.canvas.get_tk_widget().winfo_ismapped())")


def test_qt() -> None:
    """L5: `%gui qt`."""
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("PySide6 is not installed: pip install PySide6-Essentials to run this")
    with environment(QT_QPA_PLATFORM="offscreen"), running_kernel() as kernel:
        client = kernel.client()
        assert not stderr(run(client, "%gui qt"))
        run(
            client,
            """
from PySide6.QtCore import QTimer
ticks = []
timer = QTimer()
timer.timeout.connect(lambda: ticks.append(1))
timer.start(1)
""",
        )
        until(client, "len(ticks) > 5")
        run(client, "%gui")
        run(client, "count = len(ticks)")
        check(client, "len(ticks) == count")
