"""A random walk over all that can happen to a session with checkpoints, beside a model of it.

``PYREPL_STRESS=full`` walks 2,000 steps, and ``PYREPL_SEED`` chooses the walk.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from pyrepl_kernel import ExecuteMessage, OutputMessage, Session, SessionError, WorkerDied
from pyrepl_kernel.errors import CheckpointError
from pyrepl_kernel.protocol.messages import CommMessage, CompleteMessage, Message, ResultMessage
from pyrepl_kernel.session.execution import Outcome
from tests.session.support import BOUND, WORK

IS_FULL = os.environ.get("PYREPL_STRESS") == "full"
STEPS = 2000 if IS_FULL else 60
SEEDS = [int(os.environ["PYREPL_SEED"])] if "PYREPL_SEED" in os.environ else [5]
NAMES = ("a", "b", "c")
AUTOMATIC = "(automatic)"
VARIABLES = tuple(f"v{number}" for number in range(6))

pytestmark = [
    pytest.mark.timeout(3600 if IS_FULL else 300),
    pytest.mark.skipif(
        sys.platform != "linux", reason="checkpoints are forks, which are for Linux; run it there"
    ),
]

WARMUP = """
import asyncio, json, os, random, signal, time
get_ipython().Completer.complete("v")  # imports what a completion needs
step = 0
def _observe():
    shell, space = get_ipython(), globals()
    defined = {n: v for n, v in space.items() if n[0] == "v" and n[1:].isdigit()}
    return json.dumps({
        "step": step,
        "defined": defined,
        "count": shell.execution_count,
        "inputs": hash(tuple(In)),
        "history": hash(tuple(shell.history_manager.input_hist_raw)),
        "random": hash(random.getstate()),
        "ticks": "ticking" in space and not ticking.done(),
        "comms": sorted(space.get("comms", ())),
        "automatic": shell.get_checkpoints().is_automatic,
    })
"""

TICK = """
async def _tick():
    while True:
        await asyncio.sleep(0.005)
ticking = asyncio.create_task(_tick())
"""

COMM = """
import comm
comms = globals().get("comms", {})
def _on_message(message):
    globals().update(message["content"]["data"])
comms["c"] = comm.create_comm(target_name="t", comm_id="c", data={})
comms["c"].on_msg(_on_message)
"""

State = dict[str, Any]


class Walk:
    """A session, and a model of what it should hold.

    Args:
        seed: Of the random numbers that choose each step.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.mark = uuid.uuid4().hex
        # Hashes of strings are to be the same in each worker.
        env = {"PYREPL_WALK": self.mark, "PYTHONHASHSEED": "0"}
        self.session = Session(warmup_code=WARMUP, env=env)
        self.step = 0
        self.state: State = {}
        self.states: dict[int, list[State]] = {}  # step → those that it was seen in
        self.named: dict[str, State] = {}
        self.is_kept = False  # whether the worker must have kept by itself where it is now
        self.log: list[str] = []

    # ------------------------------------------------------------- observing

    async def observe(self) -> State:
        """What the session holds."""
        message = ExecuteMessage("print(_observe())", store_history=False)
        outcome = await self.run(message)
        state: State = json.loads(outcome.stdout)
        return state

    async def run(self, code: str | ExecuteMessage) -> Outcome:
        async with asyncio.timeout(BOUND):
            return await self.session.run(code)

    async def agree(self, **changes: Any) -> None:
        """See that the session holds what the model does, after changes."""
        seen = await self.observe()
        self.is_kept = self.is_kept and not changes
        for name in ("step", "defined", "comms", "ticks", "automatic"):
            expected = changes.get(name, self.state[name])
            assert seen[name] == expected, (name, seen[name], expected)
        self.state = seen
        self.states.setdefault(seen["step"], []).append(seen)

    def pass_through(self, **variables: Any) -> None:
        """Take note of a state in which the session is for a moment, and may be kept."""
        state = {**self.state, "step": self.step}
        state["defined"] = {**state["defined"], **variables}
        for name in ("count", "inputs", "history", "random"):
            del state[name]
        self.states.setdefault(self.step, []).append(state)

    async def begin(self) -> None:
        """Take note of a session that has just started."""
        self.state = await self.observe()
        assert self.state["step"] == 0 and not self.state["defined"]
        self.states = {0: [self.state]}
        self.named = {}
        self.is_kept = False

    # ----------------------------------------------------------------- steps

    def assignment(self) -> tuple[str, dict[str, Any]]:
        """A line that changes a variable, and what is defined after it."""
        defined = dict(self.state["defined"])
        name = self.random.choice(VARIABLES)
        if name in defined and self.random.random() < 0.3:
            del defined[name]
            return f"del {name}", defined
        defined[name] = self.step
        return f"{name} = {self.step}; random.random()", defined

    async def do_run(self) -> None:
        line, defined = self.assignment()
        code, changes = f"step = {self.step}\n{line}\n", {}
        kind = self.random.choice(["", "", "fails", "awaits", "prints", "ticks", "works"])
        code += {
            "fails": "1 / 0",
            "awaits": "await asyncio.sleep(0.001)",
            "prints": "print('x' * 300_000)",
            "ticks": TICK,
            "works": WORK,
        }.get(kind, "")
        if kind == "ticks":
            changes["ticks"] = True
        outcome = await self.run(code)
        assert outcome.is_ok is (kind != "fails"), outcome
        await self.agree(step=self.step, defined=defined, **changes)
        self.is_kept = kind == "works" and self.state["automatic"]

    async def do_many(self) -> None:
        """Several cells at once; the one in the middle may go back."""
        lines = [f"step = {self.step}", "v0 = 'first'", "v1 = 'second'"]
        name = self.random.choice([*self.named, ""])
        if name:
            lines[1] = f"%rollback {name}"
            state = self.named[name]
            self.pass_through()
        else:
            state = {**self.state, "step": self.step}
            self.pass_through()
            state["defined"] = {**state["defined"], "v0": "first"}
            self.pass_through(v0="first")
        outcomes = await asyncio.gather(*(self.run(line) for line in lines))
        assert all(outcome.is_ok for outcome in outcomes), outcomes
        expected = {**state["defined"], "v1": "second"}
        self.state = state
        await self.agree(defined=expected)

    async def do_checkpoint(self) -> None:
        name = self.random.choice(NAMES)
        if self.random.random() < 0.5:
            taking = asyncio.create_task(self.session.checkpoint(name))
            if self.random.random() < 0.5:
                # What comes while it is taken is no part of it.
                await asyncio.sleep(0)
                line, defined = self.assignment()
                was = self.state
                running = asyncio.create_task(self.run(f"step = {self.step}\n{line}"))
                await asyncio.gather(taking, running)
                self.named[name] = was
                await self.agree(step=self.step, defined=defined)
                return
            checkpoint = await taking
            assert checkpoint.left == []
        else:
            line, defined = self.assignment()
            outcome = await self.run(f"step = {self.step}\n{line}\n%checkpoint {name}")
            assert outcome.stdout.endswith("is taken when this cell ends.\n"), outcome
            await self.agree(step=self.step, defined=defined)
        self.named[name] = self.state

    async def do_rollback(self) -> None:
        name = self.random.choice([*NAMES, ""])
        if len(self.session.checkpoints) == 0 or (name and name not in self.named):
            with pytest.raises(CheckpointError, match="there is no checkpoint"):
                await self.session.rollback(name)
            return await self.agree()
        kind = self.random.choice(["host", "cell", "output"])
        if kind == "host":
            await self.session.rollback(name)
        else:
            noise = "print('x' * 3_000_000)\n" if kind == "output" else ""
            outcome = await self.run(f"{noise}v0 = 'gone'\n%rollback {name}")
            assert "Back to " in outcome.stdout, outcome
            if not name:  # the worker may have taken one by itself before the cell
                said = re.search(r"Back to (?:checkpoint '(.)'|the automatic)", outcome.stdout)
                assert said, outcome
                name = said[1] or AUTOMATIC
        await self.is_back(name)

    async def is_back(self, name: str) -> None:
        """See that the session is where a checkpoint was; automatic ones have no name."""
        seen = await self.observe()
        name = name or self.session.checkpoints.find().name or AUTOMATIC
        if name != AUTOMATIC:
            # What it does not do by itself is not the same: a checkpoint that a cell takes is of
            # before the observation.
            assert seen == self.named[name], (seen, self.named[name])
        else:
            known = self.states[seen["step"]]
            assert any(state.items() <= seen.items() for state in known), (seen, known)
            assert not self.is_kept or seen["step"] == self.state["step"], (seen, self.state)
        self.state = seen
        self.is_kept = False

    async def do_crash(self) -> None:
        code, number, exit_code = self.random.choice(
            [
                ("os.kill(os.getpid(), signal.SIGKILL)", signal.SIGKILL, None),
                ("os.kill(os.getpid(), signal.SIGSEGV)", signal.SIGSEGV, None),
                ("os._exit(7)", None, 7),
            ]
        )
        with pytest.raises(WorkerDied) as caught:
            await self.run(f"step = {self.step}\nv0 = 'lost'\n{code}")
        assert (caught.value.signal, caught.value.exit_code) == (number, exit_code)
        if len(self.session.checkpoints) == 0:
            await self.session.restart()
            return await self.begin()
        latest = self.session.checkpoints.find()
        await self.session.rollback()
        await self.is_back(latest.name)

    async def do_interrupt(self) -> None:
        line, defined = self.assignment()
        if self.random.random() < 0.2:
            await self.session.interrupt()  # nothing runs
            return await self.agree()
        wait = self.random.choice(["while True: pass", "time.sleep(60)", "await asyncio.sleep(60)"])
        running = self.session.execute(f"step = {self.step}\n{line}\nprint('in')\n{wait}")
        async with asyncio.timeout(BOUND):
            messages: list[Message] = [await anext(running)]
            assert isinstance(messages[0], OutputMessage)
            await self.session.interrupt()
            messages += [message async for message in running]
        assert isinstance(messages[-1], ResultMessage)
        assert messages[-1].ename in ("KeyboardInterrupt", "CancelledError"), messages[-1]
        await self.agree(step=self.step, defined=defined)

    async def do_interrupt_at_once(self) -> None:
        """While the worker may be taking an automatic checkpoint."""
        running = asyncio.create_task(self.run("time.sleep(60)"))
        await asyncio.sleep(0)
        await self.session.interrupt()
        outcome = await running
        assert outcome.error is not None and outcome.error.ename == "KeyboardInterrupt", outcome
        await self.agree()

    async def do_restart(self) -> None:
        await self.session.restart()
        assert len(self.session.checkpoints) == 0
        await self.begin()

    async def do_complete(self) -> None:
        reply = await self.session.request(CompleteMessage("v", 1))
        found = {name for name in reply.content["matches"] if name in VARIABLES}
        assert found == set(self.state["defined"]), (found, self.state)

    async def do_open_comm(self) -> None:
        await self.run(f"step = {self.step}\n{COMM}")
        await self.agree(step=self.step, comms=["c"])

    async def do_comm(self) -> None:
        line, defined = self.assignment()
        name = line.split()[0]
        if name == "del":
            return
        ended = asyncio.get_running_loop().create_future()
        message = CommMessage("msg", "c", data={name: self.step, "step": self.step})
        self.session.submit(message, lambda message: None, ended.set_result)
        async with asyncio.timeout(BOUND):
            result = await ended
        assert isinstance(result, ResultMessage), result
        if self.state["comms"]:
            await self.agree(step=self.step, defined=defined)
        else:
            await self.agree()

    async def do_transaction(self) -> None:
        line, defined = self.assignment()
        code = f"%%transaction\nstep = {self.step}\n{line}\n"
        if self.random.random() < 0.5:
            outcome = await self.run(code)
            assert outcome.is_ok, outcome
            return await self.agree(step=self.step, defined=defined)
        outcome = await self.run(code + "1 / 0")
        assert outcome.error is not None and outcome.error.ename == "ZeroDivisionError"
        assert "is undone" in outcome.stdout, outcome
        before = self.state
        await self.agree()
        assert self.state == before

    async def do_automatic(self) -> None:
        word = self.random.choice(["on", "off", "on"])
        outcome = await self.run(f"step = {self.step}\n%autocheckpoint {word}")
        assert outcome.stdout == outcome.stderr == "", outcome
        await self.agree(step=self.step, automatic=word == "on")

    # ------------------------------------------------------------------ walking

    def steps(self) -> dict[Callable[[], Awaitable[None]], int]:
        """Each kind of step, and how often it is taken."""
        return {
            self.do_run: 8,
            self.do_many: 2,
            self.do_checkpoint: 5,
            self.do_rollback: 5,
            self.do_crash: 3,
            self.do_interrupt: 3,
            self.do_interrupt_at_once: 1,
            self.do_restart: 1,
            self.do_complete: 2,
            self.do_open_comm: 1,
            self.do_comm: 3,
            self.do_transaction: 3,
            self.do_automatic: 3,
        }

    async def walk(self, number: int) -> None:
        """Take so many steps."""
        await self.session.start()
        try:
            await self.begin()
            kinds = self.steps()
            for self.step in range(1, number + 1):
                [step] = self.random.choices(list(kinds), list(kinds.values()))
                self.log.append(f"{self.step} {step.__name__}")
                async with asyncio.timeout(3 * BOUND):
                    await step()
                if self.step % 50 == 0:
                    # The worker, its checkpoints, and the one that it comes from.
                    await self.count_processes(len(self.session.checkpoints) + 2)
        finally:
            await self.session.shutdown()
        await self.count_processes(0)

    async def count_processes(self, most: int) -> None:
        """See that there are not more processes; those that were told to end may take a moment."""
        found = self.processes()
        with suppress(TimeoutError):
            async with asyncio.timeout(BOUND):
                while len(found) > most:
                    await asyncio.sleep(0.01)
                    found = self.processes()
        assert len(found) <= most, found

    def processes(self) -> list[str]:
        """Those of this walk."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("PYREPL_WALK") == self.mark:
                    found.append(f"{process.pid} {process.name()}")
        return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_model_and_the_session_never_disagree(seed: int) -> None:
    walk = Walk(seed)
    try:
        await walk.walk(STEPS)
    except BaseException:
        print(f"PYREPL_SEED={seed}; the last steps:", *walk.log[-12:], sep="\n  ")
        raise


async def test_shutting_down_a_session_whose_worker_has_died_leaves_no_checkpoint() -> None:
    async with Session() as session:
        pid = (await session.checkpoint("a")).pid
        with pytest.raises(SessionError):
            await session.run("import os; os._exit(1)")
        assert psutil.pid_exists(pid)
    assert len(session.checkpoints) == 0
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(BOUND)
