"""What a cell prints, by whatever way."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import Scenario, run, scenario, until

SCENARIOS = [
    scenario("print", "print('a', 1, None)"),
    scenario("print twice", "print('a')\nprint('b')"),
    scenario("print without newline", "print('a', end='')", "print('b', end='')"),
    scenario("print empty", "print()", "print('', end='')"),
    scenario("print flush", "print('a', flush=True)\nprint('b', flush=True)"),
    scenario("stderr", "import sys\nprint('oops', file=sys.stderr)"),
    scenario(
        "stdout then stderr, flushed",
        "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr, flush=True)\n"
        "print('c', flush=True)",
    ),
    scenario("stdout and result", "print('a')\n42"),
    scenario("stdout and error", "print('a')\n1/0"),
    scenario("stdout around a display", "print('a')\ndisplay(1)\nprint('b')"),
    scenario("carriage returns", "print('1%\\r2%\\r3%\\b4%')"),
    scenario("ANSI colours", "print('\\x1b[31mred\\x1b[0m')"),
    scenario("unicode", "print('äöü 中文 😀 \\u200b')"),
    scenario("lone surrogate", "print('\\udc80x')"),
    scenario("NUL", "print('a\\0b')"),
    scenario("big", "print('x' * 3_000_000)"),
    scenario("many lines", "for i in range(5000): print(i)"),
    scenario("write returns", "import sys\nsys.stdout.write('abc')"),
    scenario("write of bytes", "import sys\nsys.stdout.write(b'abc')"),
    scenario("writelines", "import sys\nsys.stdout.writelines(['a', 'b\\n'])"),
    scenario("writelines of others", "import sys\nsys.stdout.writelines([1])"),
    scenario(
        "stream attributes",
        "import sys\n[(s.name, s.encoding, s.isatty(), s.writable(), s.readable(),"
        " s.seekable(), s.closed) for s in (sys.stdout, sys.stderr)]",
    ),
    scenario("stream is a TextIOBase", "import sys, io\nisinstance(sys.stdout, io.TextIOBase)"),
    scenario("stream errors", "import sys\nsys.stdout.errors"),
    scenario("read from stdout", "import sys\nsys.stdout.read()"),
    scenario("stdin", "import sys\nsys.stdin.readline()"),
    scenario("close stdout", "import sys\nsys.stdout.close()", "print('after')", spoils=True),
    scenario("__stdout__ is real", "import sys\nsys.__stdout__ is not sys.stdout"),
    scenario("fileno is real", "import sys, os\nos.fstat(sys.stdout.fileno()).st_mode > 0"),
    scenario(
        "redirect_stdout",
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f:\n"
        "    print('in')\nprint('out', f.getvalue())",
    ),
    scenario(
        "swap of sys.stdout",
        "import sys, io\nold, sys.stdout = sys.stdout, io.StringIO()\nprint('hidden')\n"
        "text = sys.stdout.getvalue()\nsys.stdout = old\ntext",
    ),
    scenario(
        "thread joined",
        "import threading\nt = threading.Thread(target=print, args=('t',))\n"
        "t.start(); t.join()\nprint('main')",
    ),
    scenario(
        "thread after its cell",
        "import threading\ngo = threading.Event()\n"
        "t = threading.Thread(target=lambda: (go.wait(), print('late', flush=True)))\nt.start()",
        "go.set(); t.join()",
        until("late"),
    ),
    scenario(
        "executor",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as e: r = list(e.map(str, range(4)))\nr",
    ),
    scenario("logging", "import logging\nlogging.warning('careful')\nlogging.info('hidden')"),
    scenario(
        "logging handler to stdout",
        "import logging, sys\nl = logging.getLogger('x')\nh = logging.StreamHandler(sys.stdout)\n"
        "l.addHandler(h)\nl.error('to stdout')\nl.removeHandler(h)",
    ),
    scenario(
        "logging exception",
        "import logging\ntry: 1/0\nexcept Exception: logging.exception('it failed')",
    ),
    scenario("root logger", "import logging\nlogging.root.handlers, logging.root.level"),
    scenario(
        "basicConfig",
        "import logging\nlogging.basicConfig(level='INFO', format='%(message)s')\n"
        "logging.info('shown')",
        spoils=True,
    ),
    scenario("warning", "import warnings\nwarnings.warn('careful')"),
    scenario("warning twice", *["import warnings\nfor i in range(2): warnings.warn('again')"] * 2),
    scenario("deprecation warning", "import warnings\nwarnings.warn('old', DeprecationWarning)"),
    scenario("syntax warning", "1 is 1"),
    scenario(
        "warning filters",
        "import warnings\nlen(warnings.filters) > 0\n"
        "warnings.simplefilter('error')\ntry: warnings.warn('x')\n"
        "except UserWarning as e: print('raised', e)\nwarnings.resetwarnings()",
        spoils=True,
    ),
    scenario("os.write", "import os\nn = os.write(1, b'raw\\n')", until("raw"), loose_streams=True),
    scenario(
        "os.write to 2", "import os\nn = os.write(2, b'raw\\n')", until("raw"), loose_streams=True
    ),
    scenario("os.system", "import os\nos.system('echo child')", until("child"), loose_streams=True),
    scenario("bang", "!echo child", until("child"), loose_streams=True),
    scenario("bang with stderr", "!echo out; echo err >&2", until("err"), loose_streams=True),
    scenario("bang assigned", "x = !printf 'a\\nb'\nprint(x, type(x).__name__, x.s, x.n)"),
    scenario("bang with a variable", "v = 'hi'\n!echo {v} $v"),
    scenario("bang exit code", "!exit 3", "_exit_code"),
    scenario("bang in the background", "!sleep 0 &"),
    scenario("bang unknown", "!no_such_command_here 2>/dev/null\n_exit_code"),
    scenario("bang bang", "x = 1\n!!echo a"),
    scenario("sx", "%sx echo a"),
    scenario("system", "%system echo a"),
    scenario("cd and bang", "!pwd"),
    scenario(
        "subprocess.run",
        "import subprocess\nsubprocess.run(['echo', 'child']).returncode",
        until("child"),
        loose_streams=True,
    ),
    scenario(
        "subprocess captured",
        "import subprocess\nsubprocess.run(['echo', 'child'], "
        "capture_output=True, text=True).stdout",
    ),
    scenario(
        "subprocess to sys.stdout",
        "import subprocess, sys\n"
        "subprocess.run(['echo', 'child'], stdout=sys.stdout, check=True).returncode",
        loose_streams=True,
    ),
    scenario("subprocess stdin", "import subprocess\nsubprocess.run(['cat']).returncode"),
    scenario(
        "C level",
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.puts(b'from C')\nlibc.fflush(None)",
        until("from C"),
        loose_streams=True,
    ),
    scenario(
        "C level big",
        "import os\nfor i in range(100): n = os.write(1, b'y' * 3000)\nn = os.write(1, b'end')",
        until("end"),
        loose_streams=True,
    ),
    scenario("stdout.buffer", "import sys\nsys.stdout.buffer"),
    scenario("pprint", "from pprint import pprint\npprint({'a': list(range(40))})"),
    scenario("print of an object", "class A:\n    def __str__(self): return 'str'\nprint(A())"),
    scenario(
        "print that fails", "class A:\n    def __str__(self): raise ValueError('no')\nprint(A())"
    ),
    scenario(
        "progress bar",
        "import sys, time\nfor i in range(3):\n    sys.stdout.write(f'\\r{i}'); sys.stdout.flush()",
    ),
    scenario(
        "traceback.print_exc", "import traceback\ntry: 1/0\nexcept Exception: traceback.print_exc()"
    ),
    scenario(
        "exception in a thread",
        "import threading\nt = threading.Thread(target=lambda: 1/0, name='T')\nt.start(); t.join()",
    ),
    scenario(
        "exception in __del__",
        "class A:\n    def __del__(self): raise ValueError('no')\na = A()\ndel a",
    ),
    scenario("comm with streams", run("print('silent')", silent=True)),
    scenario("help()", "help(len)"),
    scenario("faulthandler", "import faulthandler\nfaulthandler.is_enabled()"),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
