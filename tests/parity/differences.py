"""Where this kernel is meant to differ from ipykernel, and why.

A scenario that is named here must still differ: a difference that has gone is to be taken off
the list. Each side must contain what is said of it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIFFERENCES", "Difference"]


@dataclass(frozen=True)
class Difference:
    """A difference that is meant.

    Attributes:
        reason: Why.
        theirs: Texts that stand in ipykernel's transcript and not in ours.
        ours: Texts that stand in our transcript and not in ipykernel's.
    """

    reason: str
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()


_NESTED = "asyncio.run and run_until_complete work in a cell, since the loop stands still meanwhile"
_NAMES = (
    "classes are called by what they are here; config and libraries go by the names that matter"
)

DIFFERENCES: dict[str, Difference] = {
    # ------------------------------------------------------------------ what works here only
    "asyncio.run": Difference(_NESTED, ("cannot be called from a running",), (': "5"',)),
    "run_until_complete": Difference(_NESTED, ("already running",), (': "5"',)),
    "async capture": Difference(_NESTED, ("already running",), ("\"'x",)),
    "get_running_loop": Difference(_NESTED, (), (': "False"',)),
    "breakpoint as it comes": Difference(
        "debugpy, which ipykernel loads, passes breakpoint() by where no debugger listens",
        (),
        ("ipdb> ",),
    ),
    "breakpointhook": Difference("as above", ("debugpy_breakpointhook",), ("'breakpointhook'",)),
    "faulthandler": Difference("a crash is to show its stack", (': "False"',), (': "True"',)),
    "stdout.buffer": Difference("scripts write bytes to it", ("AttributeError",), ("BytesStream",)),
    "stream errors": Difference("code passes it on to str.encode", (), ("'strict'",)),
    "close stdout": Difference(
        "a cell cannot take the streams from those after it", ("closed file",), ('"after',)
    ),
    "subprocess to sys.stdout": Difference(
        "sys.stdout.fileno() reaches the notebook", (), ('"child',)
    ),
    "str fails": Difference(
        "the user's error is shown, not that of showing it",
        ("During handling",),
        ('"ename": "E"',),
    ),
    "subshell awaits": Difference(_NESTED, (': "True"',), (': "False"',)),
    "subshell's counts beside a busy cell": Difference(
        "a cell's reply has the number that its input and its result have"
    ),
    "subshell deleted twice": Difference(
        "an error has a name, whatever the request", (), ('"ename": "UnknownSubshellError"',)
    ),
    "getpass": Difference("the prompt that Python documents", (), ("Password: ",)),
    # ------------------------------------------------------------------------ less noise
    "getpass with a stream": Difference("no warning of what changes nothing", ("UserWarning",)),
    "NaN in JSON": Difference("it is sent as text; the user need not know", ("UserWarning",)),
    "syntax warning": Difference("the cell is compiled once less"),
    "dates in JSON": Difference(
        "a time without a zone is sent without one", ("00:00:00Z",), ('00:00:00"',)
    ),
    "autocall": Difference("the cell is transformed once, so that its rewriting is shown once"),
    "comm message to no comm": Difference("it is looked for once"),
    # ------------------------------------------------------------------- another kernel
    "kernel_info": Difference("its version of the protocol, its features", ('"5.3"',), ('"5.5"',)),
    "kernel_info on control": Difference("as above", ('"5.3"',), ('"5.5"',)),
    "connect_info": Difference("says it in its words", ("python3",), ("pyrepl",)),
    "magic": Difference("its magics have their own documentation"),
    "gui without its toolkit": Difference(
        "it says what to install", ("Could not load requested Qt",), ("pip install PySide6",)
    ),
    "extensions": Difference("%store is loaded when it is used", ("storemagic",)),
    "lsmagic": Difference("as above: a lazy magic is a cell magic too", (), ("'store',\n 'sv",)),
    "lsmagic shown": Difference("as above", (), ("%%store",)),
    "config": Difference("IPython and the kernel are configured apart", ("IPKernelApp",)),
    "configurables": Difference(_NAMES, ("IPKernelApp",), ("CellDisplayHook",)),
    "classes of the parts": Difference(_NAMES, ("XCachingCompiler",), ("CellDisplayHook",)),
    "class of stdout": Difference(_NAMES, ("iostream",), ("capture",)),
    "attributes": Difference("it has a few of its own", (), ("session_name",)),
    "comm target that fails": Difference("another file in a traceback", ("ipykernel/comm",)),
}
"""Scenario → difference."""
