"""The time that a hook has before a fork."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from pyrepl_kernel.hooks import HookTimeout
from pyrepl_kernel.worker import hook_limit
from tests.worker.forks import BOUND, fork_after

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="workers are forked on Linux alone; elsewhere no hook runs"
)


def test_what_hangs_gets_an_exception_and_the_users_alarm_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hook_limit, "PATIENCE", 0.05)

    def ring(*_: object) -> None: ...

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000, 2000)
        with pytest.raises(HookTimeout, match=r"the hook did not return within 0\.05 seconds"):
            with hook_limit.limited("the hook"):
                threading.Lock().acquire() and threading.Event().wait()
        left, again = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 900 < left <= 1000 and again == 2000
        assert signal.getsignal(signal.SIGALRM) is ring
    finally:
        signal.signal(signal.SIGALRM, before)


HANGS = """
import ctypes, faulthandler, sys, time
from pyrepl_kernel.worker import hook_limit
faulthandler.enable(2)
hook_limit.PATIENCE = 0.05

def in_python():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue

def in_c():
    lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    lock(mutex)  # no signal interrupts it

with hook_limit.limited("the hook"):
    pass
time.sleep(0.2)  # nothing comes late
print("goes on", flush=True)
with hook_limit.limited("the hook"):
    globals()[sys.argv[1]]()
"""


@pytest.mark.parametrize("where", ["in_python", "in_c"])
def test_what_no_exception_ends_ends_with_its_process_and_says_where(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, where],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.stdout == "goes on\n"
    assert done.returncode == -signal.SIGABRT
    assert f"in {where}" in done.stderr


def test_a_hook_that_hangs_at_once_is_the_verdict() -> None:
    warmup = (
        "import threading\n"
        "from pyrepl_kernel import hooks\n"
        "from pyrepl_kernel.worker import hook_limit\n"
        "hook_limit.PATIENCE = 0.05\n"
        "hooks.before_fork(threading.Event().wait)"
    )
    told = fork_after(warmup)
    assert told.verdict.method == "spawn"
    assert "the before_fork hook Event.wait did not return within" in told.verdict.reason
    assert told.children == []
