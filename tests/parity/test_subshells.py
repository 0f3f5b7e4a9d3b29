"""Subshells: what they answer, alone and while the main shell is busy."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import (
    Ask,
    Create,
    Delete,
    Scenario,
    ask,
    beside,
    comm,
    complete,
    queue,
    run,
    scenario,
)

_BUSY = (
    "import time\nprint('busy', flush=True)\nis_free = False\nwhile not is_free: time.sleep(0.01)"
)
_FREE = run("is_free = True", subshell="a")

_TARGET = """
def opened(c, msg):
    c.on_msg(lambda m: c.send({'echo': m['content']['data']}))
get_ipython().kernel.comm_manager.register_target('aside', opened)
"""


def _aside(name: str, *steps: str | Ask) -> Scenario:
    """Steps in a subshell while the main shell is busy."""
    made = [
        run(step, subshell="a", store_history=False) if isinstance(step, str) else step
        for step in steps
    ]
    return scenario(name, Create("a"), beside(*made), Delete("a"))


SCENARIOS = [
    scenario("subshell list", ask("list_subshell", "control")),
    scenario(
        "subshells created and deleted",
        Create("a"),
        Create("b"),
        ask("list_subshell", "control"),
        Delete("a"),
        ask("list_subshell", "control"),
        Delete("b"),
    ),
    scenario("subshell deleted twice", Create("a"), Delete("a"), Delete("a")),
    # ipykernel lets a task of its own die of this, and says so whenever that is collected.
    scenario(
        "subshell that is gone", Create("a"), Delete("a"), run("1", subshell="a"), spoils=True
    ),
    scenario(
        "subshell that is gone, completion",
        Create("a"),
        Delete("a"),
        ask("complete", subshell="a", code="pri", cursor_pos=3),
        spoils=True,
    ),
    scenario(
        "subshell's cells",
        Create("a"),
        *(
            run(code, subshell="a")
            for code in (
                "x = 1",
                "x + 1",
                "print('out'); import sys; print('err', file=sys.stderr)",
                "from IPython.display import display\ndisplay('d')",
                "1/0",
                "a = =",
                "_, Out",
            )
        ),
        "x",
        Delete("a"),
    ),
    scenario(
        "subshell awaits",
        Create("a"),
        run("import asyncio\nawait asyncio.sleep(0.01)\n'awaited'", subshell="a"),
        run("asyncio.get_running_loop().is_running()", subshell="a"),
        Delete("a"),
    ),
    scenario(
        "subshell's counts",
        "1",
        Create("a"),
        run("2", subshell="a"),
        "3",
        run("4", subshell="a"),
        run("5", subshell="a", store_history=False),
        run("6", subshell="a", silent=True),
        "7",
        Delete("a"),
    ),
    scenario(
        "subshell's user expressions",
        Create("a"),
        run("x = 5", subshell="a", user_expressions={"twice": "x * 2", "bad": "1/0"}),
        Delete("a"),
    ),
    scenario("subshell's payload", Create("a"), run("len?", subshell="a"), Delete("a")),
    scenario(
        "subshell asks",
        Create("a"),
        run("input('name? ')", subshell="a", answers=("me",)),
        run("import getpass\ngetpass.getpass('word? ')", subshell="a", answers=("pass",)),
        run("input()", subshell="a"),
        Delete("a"),
    ),
    scenario(
        "subshell's thread",
        Create("a"),
        run(
            "import threading\nt = threading.Thread(target=print, args=('thread',))\n"
            "t.start(); t.join()",
            subshell="a",
        ),
        Delete("a"),
    ),
    scenario(
        "subshell's child process",
        Create("a"),
        run("!echo child", subshell="a"),
        run("import os; os.system('echo system')", subshell="a"),
        Delete("a"),
        loose_streams=True,
    ),
    scenario(
        "subshell aborts",
        Create("a"),
        queue(
            run("import time; time.sleep(0.5); 1/0", subshell="a"),
            run("'never'", subshell="a"),
        ),
        Delete("a"),
    ),
    scenario(
        "subshell's requests",
        Create("a"),
        ask("complete", subshell="a", code="impo", cursor_pos=4),
        ask("inspect", subshell="a", code="len", cursor_pos=3, detail_level=0),
        ask("is_complete", subshell="a", code="for x in y:"),
        ask("comm_info", subshell="a"),
        Delete("a"),
    ),
    _aside("subshell beside a busy cell", "print('aside')", "1 + 1"),
    _aside("subshell fails beside a busy cell", "raise KeyError('aside')"),
    _aside(
        "subshell's requests beside a busy cell",
        ask("complete", subshell="a", code="impo", cursor_pos=4),
        ask("is_complete", subshell="a", code="1"),
    ),
    scenario(
        "subshell serves a comm beside a busy cell",
        _TARGET,
        comm("open", "aside-1", target_name="aside"),
        Create("a"),
        beside(Ask("comm_msg", {"comm_id": "aside-1", "data": {"x": 1}}, subshell="a")),
        comm("close", "aside-1"),
        Delete("a"),
    ),
    scenario(
        "subshell's counts beside a busy cell",
        Create("a"),
        beside(run("'aside'", subshell="a")),
        "'after'",
        Delete("a"),
    ),
    scenario("completion after subshells", Create("a"), Delete("a"), complete("impo")),
]


@scenarios(SCENARIOS)
def test_it_is_as_on_ipykernel(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
