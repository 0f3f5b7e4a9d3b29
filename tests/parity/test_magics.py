"""Magics."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import Scenario, history, run, scenario, until

_IS_TIME = "import re; assert re.search('TIME|ns|s per loop', c.stdout), c.stdout"

# Where it is not installed, two commands of a pipe would complain, in either order.
_FAKE_MAN = """
import os
for name, command in {"man": "echo page of $1", "col": "cat"}.items():
    with open(name, "w") as file:
        file.write(f"#!/bin/sh\\n{command}\\n")
    os.chmod(name, 0o755)
old = os.environ["PATH"]
os.environ["PATH"] = f"{os.getcwd()}:{old}"
"""

SCENARIOS = [
    scenario("timeit", "%timeit -n 1 -r 1 pass"),
    scenario("timeit -o", "r = %timeit -n 1 -r 2 -o pass\ntype(r).__name__, r.loops, r.repeat"),
    scenario("timeit -q", "%timeit -n 1 -r 1 -q pass"),
    scenario("cell timeit", "%%timeit -n 1 -r 1 x = 1\nx + 1"),
    scenario("time", "%time 1 + 1", "_"),
    scenario("cell time", "%%time\nprint('x')\n3"),
    scenario("time that fails", "%time 1/0", "%%time\n1/0"),
    scenario(
        "capture",
        "%%capture c\nprint('o')\nimport sys; print('e', file=sys.stderr)\ndisplay(1)\n42",
        "c.stdout, c.stderr, len(c.outputs)",
        "c()",
    ),
    scenario("capture of nothing", "%%capture\nprint('hidden')\n1"),
    scenario("capture that fails", "%%capture c\nprint('o')\n1/0", "c.stdout"),
    scenario(
        "capture --no-stderr", "%%capture --no-stderr c\nimport sys\nprint('e', file=sys.stderr)"
    ),
    scenario("bash", "%%bash\necho out\necho err >&2"),
    scenario("bash that fails", "%%bash\nexit 3"),
    scenario("bash --out", "%%bash --out o --err e\necho out\necho err >&2", "o, e"),
    scenario(
        "sh and script", "%%sh\necho sh", "%%script cat\nx", "%%script --no-raise-error false\n"
    ),
    scenario(
        "script in the background", "%%script --bg --out o bash\necho bg", "o.read().result(10)"
    ),
    scenario("python script", "%%python3\nprint('child')"),
    scenario("no such script", "%%script no_such_interpreter\nx"),
    scenario(
        "perl, ruby known",
        "get_ipython().magics_manager.magics['cell'].keys() >= {'bash', 'perl', 'ruby'}",
    ),
    scenario(
        "html, javascript, latex, markdown, svg",
        "%%html\n<b>",
        "%%javascript\n1",
        "%%js\n1",
        "%%latex\n$x$",
        "%%markdown\n*x*",
        "%%svg\n<svg/>",
        "%%HTML\n<i>",
    ),
    scenario("html isolated", "%%html --isolated\n<b>"),
    scenario(
        "writefile",
        "%%writefile f.txt\nline",
        "%%writefile f.txt\nagain",
        "%%writefile -a f.txt\nmore",
        "open('f.txt').read()",
    ),
    scenario("file", "%%file g.txt\nx"),
    scenario(
        "run",
        "%%writefile script.py\nimport sys\nprint(__name__, sys.argv[1:])\nvalue = 7",
        "%run script.py a b",
        "value",
        "%run -n script.py",
    ),
    scenario("run that fails", "%%writefile bad.py\ndef f():\n    1/0\nf()", "%run bad.py"),
    scenario(
        "run that exits",
        "%%writefile ex.py\nimport sys\nsys.exit(2)",
        "%run ex.py",
        "%run -e ex.py",
    ),
    scenario("run -i", "%%writefile i.py\nprint(shared)", "shared = 'mine'", "%run -i i.py"),
    scenario("run -t", "%%writefile t.py\npass", "%run -t -N 1 t.py"),
    scenario("run a notebook", "%run no_such.ipynb"),
    scenario("run -m", "%run -m this_is_no_module"),
    scenario("prun", "%prun -q -s name -r pass\nNone"),
    scenario("prun to the pager", "%prun -l 1 pass"),
    scenario("cell prun", "%%prun -q -D prof.out\npass", "import os\nos.path.exists('prof.out')"),
    scenario("who", "abc = 1; xyz = 'a'", "%who", "%who int", "%who_ls", "%whos"),
    scenario("whos of nothing", "%whos float", "%who float"),
    scenario("reset", "abc = 1", "%reset -f", "abc"),
    scenario(
        "reset asks",
        run("abc = 1"),
        run("%reset", answers=("n",)),
        "abc",
        run("%reset", answers=("y",)),
        "abc",
    ),
    scenario("reset without stdin", "%reset"),
    scenario("reset parts", "%reset -f in", "%reset -f out", "%reset -f dhist", "%reset -f array"),
    scenario(
        "reset_selective", "abc1 = 1; xyz = 2", "%reset_selective -f abc", "'abc1' in dir(), xyz"
    ),
    scenario("xdel", "abc = [1]", "%xdel abc", "abc"),
    scenario(
        "env", "%env PARITY_X=1", "%env PARITY_X", "%set_env PARITY_Y 2", "%env NO_SUCH_VARIABLE"
    ),
    scenario(
        "environment",
        "import os\n{k: os.environ.get(k) for k in ('TERM', 'CLICOLOR', 'PAGER', 'GIT_PAGER', "
        "'FORCE_COLOR', 'MPLBACKEND', 'COLUMNS', 'LINES', 'PYTHONUNBUFFERED')}",
    ),
    scenario(
        "cd and pwd", "%mkdir sub", "%cd sub", "%pwd", "%cd -", "%dhist", "%cd no_such_directory"
    ),
    scenario("bookmark", "%bookmark here", "%bookmark -l", "%bookmark -d here"),
    scenario("pushd, popd, dirs", "%mkdir pd", "%pushd pd", "%dirs", "%popd"),
    scenario(
        "ls, cat, mv, rm",
        "%%writefile lf.txt\ncontent",
        "%cat lf.txt",
        "%cp lf.txt lg.txt",
        "%rm lf.txt lg.txt",
        "%mkdir -p lsd",
        "%ls lsd",
    ),
    scenario("alias", "%alias say echo said", "%say it", "%unalias say", "%say it"),
    scenario("alias list", "%alias"),
    scenario("macro", "x = 1", "x += 1", "%macro m 2", "m", "x", "%macro"),
    scenario("rerun", "print('first')", "%rerun 1", "%rerun"),
    scenario(
        "history",
        "a = 1",
        "b = 2\nc = 3",
        "%history",
        "%history -n 1-2",
        "%hist -o",
        "%history -t 1",
        "%history -g alpha*",
    ),
    scenario("history to a file", "a = 1", "%history -f h.py", "open('h.py').read()"),
    scenario("save", "a = 1", "%save -f saved 1", "%cat saved.py"),
    scenario("pastebin", "%pastebin?"),
    scenario("notebook", "a = 1", "%notebook nb.ipynb"),
    scenario(
        "lsmagic",
        "sorted(get_ipython().magics_manager.lsmagic()['line'])",
        "sorted(get_ipython().magics_manager.lsmagic()['cell'])",
    ),
    scenario("lsmagic shown", "%lsmagic"),
    scenario("magic", "%magic -brief"),
    scenario("automagic", "%automagic", "%automagic"),
    scenario("autocall", "%autocall 1", "len [1]", "%autocall 0"),
    scenario(
        "load_ext",
        "%%writefile my_ext.py\ndef load_ipython_extension(ip): print('loaded')\n"
        "def unload_ipython_extension(ip): print('unloaded')",
        "%load_ext my_ext",
        "%load_ext my_ext",
        "%reload_ext my_ext",
        "%unload_ext my_ext",
        "%unload_ext my_ext",
        "%load_ext no_such_extension",
    ),
    scenario(
        "autoreload",
        "%load_ext autoreload",
        "%autoreload 2",
        "%%writefile reloaded.py\nv = 1",
        "import reloaded\nreloaded.v",
        "%%writefile reloaded.py\nv = 22",
        "reloaded.v",
        "%autoreload 0",
    ),
    scenario(
        "storemagic",
        "keep = 5",
        "%store keep",
        "del keep",
        "%store -r keep",
        "keep",
        "%store",
        "%store -z",
    ),
    scenario("edit", "%edit edited.py", "%ed edited.py", "%edit -n 3 edited.py"),
    scenario("edit a function", "def f(): pass", "%edit f"),
    scenario("edit a file that is", "%%writefile there.py\nx = 1", "%edit there.py"),
    scenario(
        "less",
        "%%writefile l.txt\ntext",
        "%less l.txt",
        "%more l.txt",
        "%less no_such.txt",
        "%less",
    ),
    scenario("less of Python", "%%writefile l.py\nx = 1", "%less l.py"),
    scenario("man", _FAKE_MAN, "%man a_page", "os.environ['PATH'] = old"),
    scenario("connect_info", "%connect_info"),
    scenario("autosave", "%autosave 5", "%autosave 0", "%autosave x"),
    scenario("clear", "%clear", until("\x1b"), loose_streams=True),
    scenario("gui", "%gui", "%gui inline", "%gui asyncio"),
    scenario("gui without its toolkit", "%gui qt"),
    scenario(
        "matplotlib", "%matplotlib inline", "%matplotlib --list", "%matplotlib no_such_backend"
    ),
    scenario("pylab", "%pylab inline --no-import-all"),
    scenario("pip?", "%pip?"),
    scenario("pip", "%pip --version", until("pip"), loose_streams=True),
    scenario("conda?", "%conda?"),
    scenario("pdb", "%pdb", "%pdb off", "%pdb on", "%pdb off"),
    scenario("colors", "%colors nocolor", "1/0", "%colors linux"),
    scenario(
        "config",
        "%config",
        "%config ZMQInteractiveShell.ast_node_interactivity",
        "%config IPCompleter.greedy",
    ),
    scenario(
        "config set",
        "%config InteractiveShell.ast_node_interactivity = 'all'",
        "1\n2",
        "%config InteractiveShell.ast_node_interactivity = 'last_expr'",
    ),
    scenario("config of no class", "%config NoSuchClass.x = 1"),
    scenario("logstart", "%logstart -o log.py", "1", "%logstate", "%logoff", "%logstop"),
    scenario("precision", "%precision 3", "1/3", "%precision"),
    scenario("pprint switched", "%pprint", "%pprint"),
    scenario("sc", "%sc -l x=echo a\nx"),
    scenario("doctest_mode", "%doctest_mode", "1/0", "%doctest_mode", spoils=True),
    scenario("alias_magic", "%alias_magic t timeit", "%alias_magic -l q who"),
    scenario(
        "register magics",
        "from IPython.core.magic import register_line_magic, register_cell_magic\n"
        "@register_line_magic\ndef lm(line): return line * 2\n@register_cell_magic\n"
        "def cm(line, cell): return line, cell",
        "%lm ab",
        "%%cm x\ny",
    ),
    scenario(
        "magic in an expression", "x = %pwd\ntype(x).__name__", "for i in range(2):\n    %time pass"
    ),
    scenario(
        "code_wrap",
        "%%code_wrap before_after\nprint('before')\n__code__\nprint('after')",
        "print('mid')",
        "%code_wrap --list",
        "%code_wrap --remove before_after",
    ),
    scenario("tb and xmode", "%xmode"),
    scenario("system magics", "%sx echo 1", "%%sx\necho 2", "%system echo 3", "%%!\necho 4"),
    scenario("os magics", "%rehashx", "%hashx"),
    scenario("mamba, micromamba, uv", "%uv?", "%mamba?"),
    scenario("cell magic alone", "%%time"),
    scenario("unknown options", "%timeit -Z pass"),
    scenario("killbgscripts", "%killbgscripts"),
    scenario("debug without a traceback", "%debug"),
    scenario(
        "history access",
        "1",
        "get_ipython().history_manager.session_number > 0",
        history("tail", n=1),
    ),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
