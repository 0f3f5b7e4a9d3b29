"""Input, debuggers, interrupts."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import INTERRUPT, Scenario, run, scenario

_BUG = "def f(n):\n    half = n / 2\n    return half / 0\n"
_PDB = "import sys\nsys.breakpointhook = sys.__breakpointhook__"
"""ipykernel gives ``breakpoint()`` to debugpy, which passes by where no debugger listens."""

SCENARIOS = [
    scenario("breakpoint as it comes", run("breakpoint()\n1", answers=("c",)), fresh=True),
    scenario(
        "breakpointhook",
        "import sys\nsys.breakpointhook is sys.__breakpointhook__, sys.breakpointhook.__name__",
    ),
    scenario("input", run("input('name? ')", answers=("me",))),
    scenario("input twice", run("a = input('a')\nb = input('b')\nprint(a, b)", answers=("1", "2"))),
    scenario("input without a prompt", run("input()", answers=("x",))),
    scenario("input with an odd prompt", run("input(5)", answers=("x",))),
    scenario("input of unicode", run("input('ä')", answers=("😀",))),
    scenario("input of nothing", run("input()", answers=("",))),
    scenario(
        "input after a print",
        run("print('first', end='')\nx = input('> ')\nprint(x)", answers=("x",)),
    ),
    scenario("input not allowed", "input()"),
    scenario("input end of file", run("input()", answers=("\x04",))),
    scenario("getpass", run("import getpass\ngetpass.getpass()", answers=("secret",))),
    scenario(
        "getpass with a prompt",
        run("from getpass import getpass\ngetpass('PIN: ')", answers=("1",)),
    ),
    scenario("getpass not allowed", "import getpass\ngetpass.getpass()"),
    scenario(
        "getpass with a stream",
        run("import getpass, sys\ngetpass.getpass('P: ', sys.stderr)", answers=("1",)),
    ),
    scenario("getpass.getuser", "import getpass\ntype(getpass.getuser()).__name__"),
    scenario("input interrupted", run("input('? ')", answers=(INTERRUPT,)), "1"),
    scenario(
        "input in a function that catches",
        run("try: input('? ')\nexcept KeyboardInterrupt: print('caught')", answers=(INTERRUPT,)),
    ),
    scenario(
        "input in user code",
        run("def ask():\n    return int(input('n '))\nask() * 2", answers=("4",)),
    ),
    scenario("input in eval", run("eval(input())", answers=("1+1",))),
    scenario("builtins.input", "import builtins\nbuiltins.input is input, callable(input)"),
    scenario("input silently", run("input()", silent=True, answers=("x",))),
    scenario("stdin iterated", "import sys\nlist(sys.stdin)"),
    scenario(
        "input in a thread",
        run(
            "import threading\nr = []\nt = threading.Thread(target=lambda: r.append(input('t? "
            "')))\n"
            "t.start(); t.join()\nr",
            answers=("x",),
        ),
    ),
    scenario("fileinput", "import fileinput\nlist(fileinput.input())"),
    # --------------------------------------------------------------------------------- debuggers
    scenario(
        "breakpoint",
        _PDB,
        run(
            "def f(x):\n    y = x + 1\n    breakpoint()\n    z = y * 2\n    return z\n\nf(1)",
            answers=("p y", "n", "p z", "w", "c"),
        ),
    ),
    scenario(
        "breakpoint, quit", _PDB, run("x = 1\nbreakpoint()\nprint('never')", answers=("q",)), "2"
    ),
    scenario(
        "breakpoint, step",
        _PDB,
        run(
            "def g(): return 5\ndef f():\n    breakpoint()\n    return g()\nf()",
            answers=("s", "s", "r", "c"),
        ),
    ),
    scenario(
        "breakpoint, list and up",
        _PDB,
        run(
            "def f():\n    a = 1\n    breakpoint()\n    return a\nf()",
            answers=("l", "ll", "u", "d", "a", "pp a", "whatis a", "!a = 7", "c"),
        ),
    ),
    scenario(
        "pdb.set_trace", run("import pdb\nx = 1\npdb.set_trace()\ny = 2", answers=("p x", "n", "c"))
    ),
    scenario("pdb without stdin", "import pdb\nx = 1\npdb.set_trace()\ny = 2"),
    scenario(
        "IPython's set_trace",
        run(
            "from IPython.core.debugger import set_trace\ndef f():\n    x = 1\n"
            "    set_trace()\n    return x\nf()",
            answers=("p x", "c"),
        ),
    ),
    scenario("pdb.run", run("import pdb\npdb.run('x = 1')", answers=("n", "c"))),
    scenario(
        "pdb.runcall", run("import pdb\ndef f(a): return a\npdb.runcall(f, 3)", answers=("a", "c"))
    ),
    scenario(
        "pdb unknown command", _PDB, run("breakpoint()\n1", answers=("no_such_name", "h p", "c"))
    ),
    scenario(
        "pdb breakpoints",
        _PDB,
        run(
            "def f():\n    x = 1\n    y = 2\n    return x + y\nbreakpoint()\nf()",
            answers=("b f", "b", "c", "p x", "cl 1", "c"),
        ),
    ),
    scenario("pdb interact end", _PDB, run("breakpoint()\n1", answers=("\x04",))),
    scenario("debug post mortem", _BUG, "f(3)", run("%debug", answers=("p half", "w", "u", "q"))),
    scenario("debug a statement", _BUG, run("%debug f(3)", answers=("s", "s", "c"))),
    scenario("pdb.pm", _BUG, "f(3)", run("import pdb\npdb.pm()", answers=("p n", "q"))),
    scenario("pdb on", _BUG, "%pdb on", run("f(3)", answers=("p half", "q")), "%pdb off"),
    scenario("pdb interrupted", _PDB, run("breakpoint()\n1", answers=(INTERRUPT,)), "1"),
    scenario(
        "PYTHONBREAKPOINT",
        _PDB,
        "import os\nos.environ['PYTHONBREAKPOINT'] = '0'\nbreakpoint()\n"
        "del os.environ['PYTHONBREAKPOINT']\n'on'",
    ),
    scenario(
        "run -d", "%%writefile d.py\nx = 1\nprint(x)", run("%run -d d.py", answers=("n", "c"))
    ),
    # -------------------------------------------------------------------------------- interrupts
    scenario(
        "interrupt sleep",
        run("import time\nprint('on', flush=True); time.sleep(60)", interrupt_at="on"),
        "1",
    ),
    scenario(
        "interrupt a loop",
        run(
            "n = 0\nwhile True: n = n or print('on', flush=True) or 1",
            interrupt_at="on",
            is_busy=True,
        ),
        "1",
    ),
    scenario(
        "interrupt what is caught",
        run(
            "import time\ntry: print('on', flush=True); time.sleep(60)\n"
            "except KeyboardInterrupt: print('caught')\n'end'",
            interrupt_at="on",
        ),
    ),
    scenario(
        "interrupt in finally",
        run(
            "import time\ntry: print('on', flush=True); time.sleep(60)\nfinally: print('cleaned')",
            interrupt_at="on",
        ),
    ),
    scenario(
        "interrupt a library",
        run(
            "import threading\ne = threading.Event()\nprint('on', flush=True); e.wait(60)",
            interrupt_at="on",
        ),
        "1",
    ),
    scenario(
        "interrupt a lock",
        run(
            "import threading\nl = threading.Lock(); l.acquire()\n"
            "print('on', flush=True); l.acquire()",
            interrupt_at="on",
        ),
        "1",
    ),
    scenario(
        "interrupt subprocess.run",
        run(
            "import subprocess\nprint('on', flush=True); subprocess.run(['sleep', '60'])",
            interrupt_at="on",
        ),
        "1",
    ),
    scenario(
        "interrupt a read",
        run(
            "import os\nr, w = os.pipe()\nprint('on', flush=True); os.read(r, 1)", interrupt_at="on"
        ),
        "1",
    ),
    scenario(
        "interrupt await",
        run("import asyncio\nprint('on', flush=True); await asyncio.sleep(2)", interrupt_at="on"),
    ),
    scenario(
        "interrupt with own handler",
        run(
            "import signal, time\nold = signal.signal(signal.SIGINT, lambda *a: print('handled'))\n"
            "print('on', flush=True); time.sleep(2)\nr = signal.signal(signal.SIGINT, old)",
            interrupt_at="on",
        ),
    ),
    scenario(
        "interrupt silent",
        run("import time\nprint('on', flush=True); time.sleep(60)", silent=True, interrupt_at="on"),
        "1",
    ),
    scenario(
        "interrupt a generator",
        run(
            "import time\ndef g():\n    yield 1\n    print('on', flush=True); time.sleep(60)\n"
            "list(g())",
            interrupt_at="on",
        ),
    ),
    # In a session of its own, or else it is chance whether IPython still finds it alive.
    scenario(
        "interrupt bash",
        run("%%script setsid bash\necho on; exec sleep 60", interrupt_at="on"),
        "1",
    ),
    scenario(
        "interrupt after a breakpoint of another cell",
        _PDB,
        run("breakpoint()\n1", answers=("c",)),
        run("import time\nprint('on', flush=True); time.sleep(60)", interrupt_at="on"),
        "import signal\nsignal.getsignal(signal.SIGINT).__qualname__.startswith('Pdb')",
    ),
    scenario(
        "interrupt after another cell's own handler",
        "import signal, time\nold = signal.signal(signal.SIGINT, lambda *a: print('handled'))",
        run("print('on', flush=True); time.sleep(60)", interrupt_at="on"),
        "signal.getsignal(signal.SIGINT).__name__ == '<lambda>'",
    ),
    scenario(
        "interrupt where interrupts are ignored",
        run(
            "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "print('on', flush=True); time.sleep(2)",
            interrupt_at="on",
        ),
        run("print('on', flush=True); time.sleep(60)", interrupt_at="on"),
    ),
    scenario(
        "interrupt timeit",
        run(
            "%timeit -n 1 -r 1 print('on', flush=True); __import__('time').sleep(60)",
            interrupt_at="on",
        ),
        "1",
    ),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
