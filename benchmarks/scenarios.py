"""What is measured: a table of scenarios, each a function from a kernel to a number.

To add one, write the function and its line in ``SCENARIOS``. It returns seconds or bytes, raises
``KernelFault`` when the kernel's answer is not what it has to be, and checks long answers after
the clock has stopped.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .clients import QUIET_LIMIT, Content, Exchange, Kernel
from .errors import KernelFault
from .memory import resting_pss

CELLS = 100
QUESTIONS = 30
QUEUED = 500
LINES = 200_000
BULK_CHARACTERS = 50_000_000
DISPLAYS = 2_000
IMAGES = 200
IMAGE_BYTES = 1_000_000
INTERRUPT_LIMIT = 20.0

LIBRARIES = "import pandas, numpy, matplotlib.pyplot"


class Unit(StrEnum):
    """What a scenario's numbers count."""

    SECONDS = "s"
    BYTES = "B"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table.

    Attributes:
        name: what the command line calls it.
        summary: what the number is, in a line.
        measure: takes the measurement. Its kernel is idle with iopub subscribed when ``keeps``,
            and not started yet otherwise.
        keeps: one kernel serves all rounds; otherwise each measurement has its own.
        prepare: a cell that a kept kernel runs once, before the first round.
        unit: what the number counts.
    """

    name: str
    summary: str
    measure: Callable[[Kernel], float]
    keeps: bool = True
    prepare: str = "pass"
    unit: Unit = Unit.SECONDS


def start_reply(kernel: Kernel) -> float:
    """From the launch to the first kernel_info reply."""
    began = time.perf_counter()
    kernel.start()
    kernel.info()
    return time.perf_counter() - began


def start_result(kernel: Kernel) -> float:
    """From the launch to the first result of ``1+1``."""
    began = time.perf_counter()
    kernel.start()
    _evaluate(kernel, "1+1", "1+1", "2")
    return time.perf_counter() - began


def _evaluate(kernel: Kernel, cell: str, expression: str, expected: str) -> None:
    """Runs a cell on a kernel that is still starting, and checks an expression's value after it.

    The value comes with the reply, as a user expression: iopub drops what it has before the
    subscription got through, so an execute_result would now and then be lost.
    """
    exchange = kernel.ask(
        lambda client: client.execute(cell, user_expressions={"value": expression})
    )
    kernel.replied(exchange, "the reply of the first cell")
    value = exchange.require_ok().get("user_expressions", {}).get("value", {})
    if value.get("data", {}).get("text/plain") != expected:
        raise KernelFault(f"{expression} gave {value!r}, not {expected}")


def pass_cell(kernel: Kernel) -> float:
    """Round trip of ``pass``."""
    return statistics.median(kernel.cell("pass").round_trip for _ in range(CELLS))


def print_cell(kernel: Kernel) -> float:
    """Round trip of ``print(1)``."""
    times = []
    for _ in range(CELLS):
        exchange = kernel.cell("print(1)")
        if (text := "".join(exchange.text)) != "1\n":
            raise KernelFault(f"print(1) printed {text!r}")
        times.append(exchange.round_trip)
    return statistics.median(times)


def queued(kernel: Kernel) -> float:
    """From the first of many requests, sent at once, to the last reply and the last idle."""
    cells = [kernel.ask(lambda client: client.execute("pass")) for _ in range(QUEUED)]
    try:
        kernel.wait(lambda: kernel.unfinished == 0, "replies and idle statuses", quiet=QUIET_LIMIT)
    except KernelFault as fault:
        replies = sum(cell.reply is not None for cell in cells)
        idles = sum(cell.idle_at > 0 for cell in cells)
        raise KernelFault(f"{fault}; of {QUEUED}, {replies} and {idles} came") from None
    counts = [cell.require_ok().get("execution_count") for cell in cells]
    if counts != list(range(counts[0] or 0, (counts[0] or 0) + QUEUED)):
        raise KernelFault(f"execution counts are not in order: {counts[:5]} ...")
    return max(cell.round_trip + cell.sent_at for cell in cells) - cells[0].sent_at


def lines(kernel: Kernel) -> float:
    """Many short lines, until idle, all of them there."""
    exchange = kernel.cell(f"for i in range({LINES}): print(i)", describe=_lines_lost)
    received = "".join(exchange.text)
    if received != "".join(f"{i}\n" for i in range(LINES)):
        raise KernelFault(_lines_lost(exchange))
    return exchange.round_trip


def _lines_lost(exchange: Exchange) -> str:
    count = "".join(exchange.text).count("\n")
    return f"{count:,} of {LINES:,} lines arrived" + (" but not as printed" * (count == LINES))


def bulk(kernel: Kernel) -> float:
    """One large print, until idle."""
    exchange = kernel.cell(f"print('x' * {BULK_CHARACTERS})", describe=_bulk_lost)
    if sum(map(len, exchange.text)) != BULK_CHARACTERS + 1:
        raise KernelFault(_bulk_lost(exchange))
    return exchange.round_trip


def _bulk_lost(exchange: Exchange) -> str:
    return f"{sum(map(len, exchange.text)):,} of {BULK_CHARACTERS + 1:,} characters arrived"


def displays(kernel: Kernel) -> float:
    """Many small displays, until idle, in order."""
    received: list[str] = []

    def keep(bundle: Content) -> None:
        received.append(bundle.get("text/html", ""))

    exchange = kernel.cell(
        f"for i in range({DISPLAYS}): display(HTML(f'<b>{{i}}</b>'))",
        on_display=keep,
        describe=lambda _: f"{len(received):,} of {DISPLAYS:,} displays arrived",
    )
    if received != [f"<b>{i}</b>" for i in range(DISPLAYS)]:
        raise KernelFault(f"{len(received):,} of {DISPLAYS:,} displays arrived, or in wrong order")
    return exchange.round_trip


def images(kernel: Kernel) -> float:
    """Many large displays, until idle; only their lengths are kept."""
    expected = 4 * -(-IMAGE_BYTES // 3)  # base64: four characters for each three bytes begun
    lengths: list[int] = []

    def keep(bundle: Content) -> None:
        lengths.append(len(bundle.get("image/png", "").strip()))

    exchange = kernel.cell(
        f"for _ in range({IMAGES}): display({{'image/png': png}}, raw=True)",
        on_display=keep,
        describe=lambda _: f"{len(lengths)} of {IMAGES} images arrived",
    )
    if lengths != [expected] * IMAGES:
        raise KernelFault(f"{len(lengths)} of {IMAGES} images arrived, or not whole")
    return exchange.round_trip


def complete(kernel: Kernel) -> float:
    """From complete_request to its reply, the kernel being idle."""
    return _ask_often(
        kernel,
        lambda: kernel.ask(lambda client: client.complete("os.path.joi")),
        lambda reply: any(match.endswith("join") for match in reply["matches"]),
    )


def inspect(kernel: Kernel) -> float:
    """From inspect_request to its reply, the kernel being idle."""
    return _ask_often(
        kernel,
        lambda: kernel.ask(lambda client: client.inspect("os.path.join")),
        lambda reply: reply["found"] and "join" in reply["data"]["text/plain"],
    )


def _ask_often(
    kernel: Kernel, ask: Callable[[], Exchange], is_right: Callable[[Content], bool]
) -> float:
    times = []
    for _ in range(QUESTIONS):
        exchange = ask()
        # The idle status is waited for, so that the next question meets an idle kernel.
        kernel.done(exchange, "the reply and the idle status")
        if not is_right(reply := exchange.require_ok()):
            raise KernelFault(f"wrong reply: {str(reply)[:200]}")
        times.append(exchange.replied_at - exchange.sent_at)
    return statistics.median(times)


def interrupt_sleep(kernel: Kernel) -> float:
    """From the interrupt to the reply, the cell being in ``time.sleep``."""
    return _interrupt(kernel, "time.sleep(60)")


def interrupt_loop(kernel: Kernel) -> float:
    """From the interrupt to the reply, the cell being in a loop of Python."""
    return _interrupt(kernel, "while True: pass")


def _interrupt(kernel: Kernel, busy: str) -> float:
    exchange = kernel.ask(lambda client: client.execute(f"print('in', flush=True)\n{busy}"))
    kernel.wait(lambda: bool(exchange.text), "the cell to begin", INTERRUPT_LIMIT)
    # From the print to the statement after it: microseconds, which nothing outside can see.
    time.sleep(0.1)
    began = time.perf_counter()
    kernel.interrupt()
    kernel.replied(exchange, "the interrupted cell", INTERRUPT_LIMIT)
    reply = exchange.reply or {}
    # KeyboardInterrupt in most kernels; async-kernel has a KernelInterrupt.
    if reply.get("status") != "error" or not str(reply.get("ename")).endswith("Interrupt"):
        raise KernelFault(f"not the error of an interrupt: {str(reply)[:200]}")
    kernel.done(exchange, "the idle status", INTERRUPT_LIMIT)
    return exchange.replied_at - began


def restart(kernel: Kernel) -> float:
    """From the restart to the result of the libraries' import in a fresh namespace."""
    kernel.cell("sentinel = 1")
    began = time.perf_counter()
    kernel.restart()
    _evaluate(
        kernel, LIBRARIES, "('sentinel' in globals(), 'pandas' in globals())", "(False, True)"
    )
    taken = time.perf_counter() - began
    kernel.subscribe()
    return taken


def memory(kernel: Kernel) -> float:
    """PSS of all the kernel's processes, at rest after the first cell."""
    kernel.start()
    kernel.subscribe()
    kernel.cell("pass")
    return float(resting_pss(kernel))


_IMPORT_DISPLAY = "from IPython.display import HTML, display\n"
_MAKE_PNG = (
    "import base64, os\n"
    f"png = b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom({IMAGE_BYTES} - 8)\n"
    "png = base64.b64encode(png).decode()"
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("start-reply", "launch → first kernel_info reply", start_reply, keeps=False),
        Scenario("start-result", "launch → first result of 1+1", start_result, keeps=False),
        Scenario("pass", "round trip of a pass cell", pass_cell),
        Scenario("print", "round trip of print(1)", print_cell),
        Scenario("queued", f"{QUEUED} cells sent at once → last reply and idle", queued),
        Scenario("lines", f"{LINES:,} printed lines → idle", lines),
        Scenario("bulk", f"one print of {BULK_CHARACTERS // 10**6} MB → idle", bulk),
        Scenario(
            "displays", f"{DISPLAYS:,} displays of HTML → idle", displays, prepare=_IMPORT_DISPLAY
        ),
        Scenario(
            "images",
            f"{IMAGES} displays of a {IMAGE_BYTES // 10**6} MB image → idle",
            images,
            prepare=_IMPORT_DISPLAY + _MAKE_PNG,
        ),
        Scenario("complete", "complete_request → reply", complete, prepare="import os"),
        Scenario("inspect", "inspect_request → reply", inspect, prepare="import os"),
        Scenario(
            "interrupt-sleep",
            "interrupt of time.sleep → reply",
            interrupt_sleep,
            prepare="import time",
        ),
        Scenario("interrupt-loop", "interrupt of while True → reply", interrupt_loop),
        Scenario(
            "restart",
            "restart → result of importing pandas, numpy, pyplot",
            restart,
            prepare=LIBRARIES,
        ),
        Scenario("memory", "PSS of all processes at rest", memory, keeps=False, unit=Unit.BYTES),
    )
}
