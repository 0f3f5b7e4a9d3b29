"""``jupyter console`` in a pseudo-terminal, as somebody types into it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pexpect
import pytest

from .notebooks import RAISES, code_cells, read
from .support import IS_OURS, KERNEL, TIMEOUT, TOUR, only_ours, wait_gone

# A pseudo-terminal is made by a fork; the child of this one executes another program at once.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*forkpty:DeprecationWarning")

CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SUBMITTED = re.escape("\x1b[?2004l")
"""What the console writes when the input was taken: all after it is output."""
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"
RUN = "\x1b\r"
"""Escape and Enter: takes the input, however many lines it has."""


def plain(text: str) -> str:
    """Text without colours and movements of the cursor."""
    return CODES.sub("", text).replace("\r\n", "\n")


def coloured(text: str) -> str:
    """A pattern for text that may change its colour anywhere."""
    return f"(?:{CODES.pattern})*".join(re.escape(character) for character in text)


class Console:
    """A console in a terminal of its own."""

    def __init__(
        self,
        cwd: Path,
        kernel: str = KERNEL,
        program: Sequence[str] = ("-m", "jupyter_console"),
        **environment: str,
    ) -> None:
        self._terminal: pexpect.spawn[str] = pexpect.spawn(
            sys.executable,
            [
                *(*program, "--kernel", kernel),
                # Else each plot opens in a viewer on the developer's desktop.
                "--ZMQTerminalInteractiveShell.image_handler=None",
            ],
            cwd=str(cwd),
            env={**self._environment(), **environment},
            encoding="utf-8",
            timeout=TIMEOUT,
            dimensions=(50, 200),
        )
        self.count = 0
        self.greeting = self.wait_prompt()

    @staticmethod
    def _environment() -> dict[str, str]:
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        if not IS_OURS:
            # ipykernel loads debugpy, which else writes to the terminal.
            environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        return environment

    def wait(self, pattern: str) -> str:
        """Wait for a pattern, and return what came before it."""
        self._terminal.expect(pattern)
        return plain(str(self._terminal.before))

    def wait_prompt(self) -> str:
        """Wait for the next prompt, and return what came before it."""
        self.count += 1
        return self.wait(coloured(f"In [{self.count}]: "))

    def type(self, text: str) -> None:
        """Send keys."""
        self._terminal.send(text)

    def enter(self, line: str) -> None:
        """Type one line and press Enter: the console asks the kernel whether it is complete."""
        self.type(line + ENTER)
        self.wait(SUBMITTED)

    def run(self, code: str) -> str:
        """Paste and run code, and return what was put out until the next prompt."""
        self.type(f"\x1b[200~{code}\x1b[201~{RUN}")
        self.wait(SUBMITTED)
        return self.wait_prompt()

    def pid(self) -> int:
        """The process that runs the code."""
        return int(self.run("import os; print(os.getpid())"))

    def wait_end(self) -> int | None:
        """Wait until the console ended, and return its exit code."""
        self.wait(pexpect.EOF)  # type: ignore[arg-type]
        self._terminal.wait()
        return self._terminal.exitstatus

    def kill(self) -> None:
        """End the console at once, as a closed terminal or a crash does."""
        self._terminal.kill(signal.SIGKILL)
        self._terminal.wait()

    def close(self) -> None:
        """Kill the console if it still runs, and close the terminal."""
        self._terminal.close(force=True)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A console that shows its first prompt."""
    console = Console(tmp_path)
    yield console
    console.close()


def test_the_banner_and_a_result(console: Console) -> None:
    assert "Jupyter console" in console.greeting
    if IS_OURS:
        assert console.greeting.startswith("Jupyter console"), "the kernel wrote to the terminal"
    assert f"Python {sys.version.split()[0]}" in console.greeting
    console.enter("1+1")
    assert "Out[1]: 2" in console.wait_prompt()


def test_prints_and_several_lines(console: Console) -> None:
    assert console.run("for word in 'ab', 'cd':\n    print(word * 2)") == "abab\ncdcd\n\n"
    console.type("if True:" + ENTER)
    console.wait(re.escape("...: "))
    console.type("print('in' + 'dented')" + ENTER + ENTER)
    console.wait(SUBMITTED)
    assert console.wait_prompt() == "indented\n\n"


def test_an_error_shows_its_traceback(console: Console) -> None:
    shown = console.run("def broken():\n    return {}['gone']\n\nbroken()")
    assert "Traceback (most recent call last)" in shown
    assert "in broken" in shown
    assert "KeyError: 'gone'" in shown
    assert console.run("print('still ' + 'here')") == "still here\n\n"


def test_input_and_getpass_are_asked_in_the_terminal(console: Console) -> None:
    console.enter("answer = input('your ' + 'name? ')")
    console.wait(re.escape("your name? "))
    console.type("Ada" + ENTER)
    console.wait_prompt()
    console.enter("import getpass; secret = getpass.getpass('your ' + 'word? ')")
    console.wait(re.escape("your word? "))
    console.type("sesame" + ENTER)
    assert "sesame" not in console.wait_prompt()
    assert console.run("print(answer, secret)") == "Ada sesame\n\n"


def test_ctrl_d_at_an_input_is_the_end_of_file(console: Console) -> None:
    console.enter("input('your ' + 'name? ')")
    console.wait(re.escape("your name? "))
    console.type(CTRL_D)
    assert "EOFError" in console.wait_prompt()


INTERRUPTS_BESIDE = """
import threading
from jupyter_console.app import ZMQTerminalIPythonApp as Application

def handle_sigint(self, *args):
    assert self.shell._executing
    threading.Thread(target=self.kernel_manager.interrupt_kernel).start()

Application.handle_sigint = handle_sigint
Application.launch_instance()
"""
"""jupyter console, with its handler of Ctrl-C in a thread of its own.

While a cell runs, the console waits in its main thread for futures that another thread is to set.
Its handler has that thread interrupt the kernel, and waits for it, in the main thread too: where
the signal came while that held the lock of the future before, each waits for the other for ever,
whatever the kernel (1 in 130 on a busy machine).
"""


def test_ctrl_c_interrupts_a_sleep(tmp_path: Path) -> None:
    console = Console(tmp_path, program=("-c", INTERRUPTS_BESIDE))
    try:
        console.enter("import time; print('a' + 'sleep', flush=True); time.sleep(60)")
        console.wait("asleep")
        console.type(CTRL_C)
        assert "KeyboardInterrupt" in console.wait_prompt()
        assert console.run("print('still ' + 'here')") == "still here\n\n"
    finally:
        console.close()


def test_ctrl_c_at_an_input_interrupts_it(console: Console) -> None:
    console.enter("input('your ' + 'name? ')")
    console.wait(re.escape("your name? "))
    console.type(CTRL_C)
    assert "KeyboardInterrupt" in console.wait_prompt()
    assert console.run("print('still ' + 'here')") == "still here\n\n"


STALLS = """
import time
from pyrepl_kernel.kernel import exchange, kernel, launch

exchange._LATEST_IDLE = 60  # where the console has to wait for the processor too
serve = kernel.Kernel._serve

def serve_late(self, handlers, channel, request):
    if request.type == "execute_request":
        time.sleep(0.3)
    serve(self, handlers, channel, request)

kernel.Kernel._serve = serve_late
launch.main()
"""
"""A kernel whose process has to wait for the processor whenever a cell comes."""


@only_ours
def test_a_stall_of_the_kernel_costs_no_question(tmp_path: Path) -> None:
    spec = {
        "argv": [sys.executable, "-P", "-c", STALLS, "-f", "{connection_file}"],
        "display_name": "stalls",
        "language": "python",
        # Which keeps the kernel's ports from those of other tests.
        "metadata": {"kernel_provisioner": {"provisioner_name": "pyrepl-provisioner"}},
    }
    folder = tmp_path / "kernels" / "stalls"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    console = Console(tmp_path, "stalls", JUPYTER_PATH=str(tmp_path))
    try:
        console.enter("answer = input('your ' + 'name? ')")
        console.wait(re.escape("your name? "))
        console.type("Ada" + ENTER)
        console.wait_prompt()
        assert console.run("print(answer)") == "Ada\n\n"
    finally:
        console.close()


def test_exit_ends_the_kernel(console: Console) -> None:
    pid = console.pid()
    console.enter("exit")
    assert console.wait_end() == 0
    assert wait_gone(pid, TIMEOUT)


def test_ctrl_d_ends_the_kernel(console: Console) -> None:
    pid = console.pid()
    console.type(CTRL_D)
    console.wait("really want to exit")
    console.type("y" + ENTER)
    assert console.wait_end() == 0
    assert wait_gone(pid, TIMEOUT)


def test_a_killed_console_leaves_no_kernel(console: Console) -> None:
    pid = console.pid()
    console.kill()
    assert wait_gone(pid, TIMEOUT)


@pytest.mark.parametrize("path", [TOUR], ids=lambda path: path.name)
def test_the_tour_runs_through(console: Console, path: Path) -> None:
    cells = code_cells(read(path))
    shown = [console.run(cell.source) for cell in cells]
    failed = ["Traceback (most recent call last)" in output for output in shown]
    assert failed == [RAISES in cell.metadata.get("tags", []) for cell in cells]
    assert console.count == len(cells) + 1
