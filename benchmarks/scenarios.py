"""What is measured: a table of scenarios, each a function from a kernel to a number.

To add one, write the function and its line in ``SCENARIOS``. It returns seconds or bytes, raises
``KernelFault`` when the kernel's answer is not what it has to be, and checks long answers after
the clock has stopped.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import nbformat
from nbclient import NotebookClient

from .clients import LIBRARIES, QUIET_LIMIT, START_LIMIT, Content, Exchange, Kernel
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
BUFFERS = 10
BUFFER_BYTES = 10_000_000
ECHOES = 2_000
FURTHER = 3
INTERRUPT_LIMIT = 20.0
_AT_WORK = 1.0
"""Seconds between a cell and the restart: nobody restarts the moment that a cell has ended, and
what a kernel prepares for the next restart it may do meanwhile."""
FIRST_NOTEBOOK = 3.0
"""Seconds that a first notebook stays open."""
FUNCTIONS = 10
_FUNCTIONS = "\n".join(
    f'''def step_{number}(values, scale=1.5, *, names=("a", "b")):
    """Step {number} of a computation, which nobody calls."""
    total, seen = 0.0, {{}}
    for index, value in enumerate(values):
        if value > {number} and index % 2 == 0:
            total += value * scale
            seen[f"{{names[0]}}-{{index}}"] = [value, total]
        else:
            total -= min(value, {number}) / (1 + abs(scale))
    return {{"total": total, "seen": sorted(seen.items(), key=lambda item: item[1])}}
'''
    for number in range(FUNCTIONS)
)
HELD_SECONDS = 20
HELD_QUESTIONS = 200


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
        is_long: it takes so long that it is measured only when named.
        env: environment variables that its kernels start with.
        is_for_bare: whether bare processes can do it, written for nothing but a cell.
        rehearse: what the round does that does not count; None for the same as the others.
    """

    name: str
    summary: str
    measure: Callable[[Kernel], float]
    keeps: bool = True
    prepare: str = "pass"
    unit: Unit = Unit.SECONDS
    is_long: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    is_for_bare: bool = False
    rehearse: Callable[[Kernel], None] | None = None


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


def start_import(kernel: Kernel) -> float:
    """From the launch to the result of the libraries' import.

    Kernels that know ``PYREPL_WARMUP`` have the libraries in a template, which the rehearsal's
    kernel has left behind (see ``open_for_a_while``).
    """
    began = time.perf_counter()
    kernel.start()
    _evaluate(kernel, LIBRARIES, "'pandas' in globals()", "True")
    return time.perf_counter() - began


def open_for_a_while(kernel: Kernel) -> None:
    """A first notebook, which imports the libraries and stays open for some seconds.

    What a kernel prepares for the next one, it does when the first has nothing to do.
    """
    start_import(kernel)
    kernel.listen(FIRST_NOTEBOOK)


def notebook(kernel: Kernel) -> float:
    """A notebook of one cell through nbclient, the kernel's start and end included."""
    cells = [nbformat.v4.new_code_cell("1 + 1")]
    document = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(document, kernel_name=kernel.spec, startup_timeout=int(START_LIMIT))
    began = time.perf_counter()
    client.execute(env=kernel.env)
    taken = time.perf_counter() - began
    outputs = document.cells[0].outputs
    if len(outputs) != 1 or outputs[0].get("data", {}).get("text/plain") != "2":
        raise KernelFault(f"1 + 1 gave {outputs!r}")
    return taken


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


def long_cell(kernel: Kernel) -> float:
    """Round trip of a cell of many lines."""
    return statistics.median(kernel.cell(_FUNCTIONS).round_trip for _ in range(CELLS // 5))


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


def comm_buffers(kernel: Kernel) -> float:
    """A comm message with large buffers, until idle."""
    lengths: list[int] = []

    def keep(content: Content, buffers: list[bytes]) -> None:
        lengths.extend(len(memoryview(buffer)) for buffer in buffers)

    exchange = kernel.cell("comm.send({}, buffers=blocks)", on_comm=keep)
    if lengths != [BUFFER_BYTES] * BUFFERS:
        raise KernelFault(f"{len(lengths)} of {BUFFERS} buffers arrived, or not whole")
    return exchange.round_trip


def comm_echo(kernel: Kernel) -> float:
    """Comm messages sent at once, each answered by one, until the last answer and idle."""
    echoed: list[int] = []

    def keep(content: Content, buffers: list[bytes]) -> None:
        echoed.append(content["data"]["number"])

    sent = [kernel.ask_comm("bench", {"number": number}, keep) for number in range(ECHOES)]
    kernel.wait(lambda: all(x.idle_at for x in sent), "the echoes", quiet=QUIET_LIMIT)
    if echoed != list(range(ECHOES)):
        raise KernelFault(f"{len(echoed)} of {ECHOES} echoes came, or in wrong order")
    return max(x.idle_at for x in sent) - sent[0].sent_at


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


def control_while_held(kernel: Kernel) -> float:
    """The 99th percentile of control's kernel_info while C code holds the GIL.

    The questions come at even distances, whether those before are answered or not: one after the
    other, all but the first would come when the cell has ended, in a kernel that waits for it.
    """
    cell = kernel.ask(
        lambda client: client.execute(
            "import ctypes\nprint('in', flush=True)\n"
            f"ctypes.PyDLL(None).usleep({HELD_SECONDS * 1_000_000})"
        )
    )
    kernel.wait(lambda: bool(cell.text), "the cell to begin", INTERRUPT_LIMIT)
    began = time.perf_counter()
    exchanges = []
    for number in range(HELD_QUESTIONS):
        due = began + 0.95 * HELD_SECONDS * number / HELD_QUESTIONS
        kernel.listen(due - time.perf_counter())
        exchanges.append(kernel.ask_control("kernel_info_request"))
    for exchange in [*exchanges, cell]:
        kernel.done(exchange, "the reply and the idle status")
        exchange.require_ok()
    if cell.replied_at - began < 0.95 * HELD_SECONDS:
        raise KernelFault("the cell ended before the questions did")
    times = sorted(exchange.replied_at - exchange.sent_at for exchange in exchanges)
    return times[math.ceil(0.99 * len(times)) - 1]


def restart(kernel: Kernel) -> float:
    """From the restart to the result of the libraries' import in a fresh namespace."""
    return _restart(
        kernel, LIBRARIES, "('sentinel' in globals(), 'pandas' in globals())", "(False, True)"
    )


def restart_pass(kernel: Kernel) -> float:
    """From the restart to the result of a cell that does nothing, in a fresh namespace."""
    return _restart(kernel, "pass", "'sentinel' in globals()", "False")


def _restart(kernel: Kernel, cell: str, expression: str, expected: str) -> float:
    kernel.cell("sentinel = 1")
    time.sleep(_AT_WORK)
    began = time.perf_counter()
    kernel.restart()
    _evaluate(kernel, cell, expression, expected)
    taken = time.perf_counter() - began
    kernel.subscribe()
    return taken


def memory(kernel: Kernel) -> float:
    """PSS of all the kernel's processes, at rest after the first cell."""
    kernel.start()
    kernel.subscribe()
    kernel.cell("pass")
    return float(resting_pss(kernel))


def further_memory(kernel: Kernel) -> float:
    """PSS of each further kernel, all of them with the libraries imported."""
    totals = []
    kernels = [kernel]
    for number in range(FURTHER + 1):
        if number:
            kernels.append(kernel.sibling())
        kernels[-1].start()
        kernels[-1].subscribe()
        kernels[-1].cell(LIBRARIES)
        if number in (0, FURTHER):
            totals.append(resting_pss(kernel))
    return (totals[1] - totals[0]) / FURTHER


WARM = {"PYREPL_WARMUP": LIBRARIES, "PYREPL_TEMPLATE_LINGER": "60"}
_MAKE_COMM = (
    "from comm import create_comm\n"
    "comm = create_comm(target_name='bench', comm_id='bench')\n"
    "comm.on_msg(lambda message: comm.send(message['content']['data']))\n"
)
_MAKE_BLOCKS = f"import os\nblocks = [os.urandom({BUFFER_BYTES}) for _ in range({BUFFERS})]"
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
        Scenario(
            "start-warm",
            "launch → result of importing pandas, numpy, pyplot, a template being warm",
            start_import,
            keeps=False,
            env=WARM,
            rehearse=open_for_a_while,
        ),
        Scenario("notebook", "nbclient, a notebook of one cell", notebook, keeps=False),
        Scenario("pass", "round trip of a pass cell", pass_cell, is_for_bare=True),
        Scenario("print", "round trip of print(1)", print_cell),
        Scenario(
            "long",
            f"round trip of a cell of {_FUNCTIONS.count(chr(10))} lines, which defines functions",
            long_cell,
        ),
        Scenario(
            "queued",
            f"{QUEUED} cells sent at once → last reply and idle",
            queued,
            is_for_bare=True,
        ),
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
        Scenario(
            "comm-buffers",
            f"a comm message with {BUFFERS * BUFFER_BYTES // 10**6} MB of buffers → idle",
            comm_buffers,
            prepare=_MAKE_COMM + _MAKE_BLOCKS,
            is_for_bare=True,
        ),
        Scenario(
            "comm-echo", f"{ECHOES:,} comm messages and their echoes", comm_echo, prepare=_MAKE_COMM
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
        Scenario(
            "control-held",
            f"p99 of {HELD_QUESTIONS} kernel_info on control, a cell holding the GIL for "
            f"{HELD_SECONDS} s",
            control_while_held,
            is_long=True,
        ),
        Scenario("restart-pass", "restart → result of a pass cell", restart_pass),
        Scenario("memory", "PSS of all processes at rest", memory, keeps=False, unit=Unit.BYTES),
        Scenario(
            "memory-further",
            "PSS of each further kernel with pandas, numpy, pyplot",
            further_memory,
            keeps=False,
            unit=Unit.BYTES,
            env=WARM,
        ),
    )
}
