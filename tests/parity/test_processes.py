"""Asynchronous cells, processes, pickling, the shell's attributes."""

from __future__ import annotations

from .compare import check, scenarios
from .kernels import Pair
from .steps import Scenario, queue, run, scenario, until

SCENARIOS = [
    # ---------------------------------------------------------------------------- asynchronous
    scenario("await", "import asyncio\nawait asyncio.sleep(0, 'slept')"),
    scenario("await prints", "import asyncio\nprint('a')\nawait asyncio.sleep(0)\nprint('b')"),
    scenario("await and assign", "import asyncio\nx = await asyncio.sleep(0, 5)", "x"),
    scenario("await fails", "async def f(): 1/0", "await f()"),
    scenario(
        "async for", "async def g():\n    for i in range(3): yield i\nasync for i in g(): print(i)"
    ),
    scenario(
        "async with",
        "class C:\n    async def __aenter__(self): print('in')\n"
        "    async def __aexit__(self, *a): print('out')\n"
        "async with C(): print('body')",
    ),
    scenario("async comprehension", "async def g():\n    yield 1\n[x async for x in g()]"),
    scenario("await in a string", "'await x'"),
    scenario(
        "gather",
        "import asyncio\nasync def f(i):\n    await asyncio.sleep(0)\n    return i\n"
        "await asyncio.gather(*map(f, range(3)))",
    ),
    scenario(
        "gather that fails",
        "import asyncio\nasync def f(): 1/0\nawait asyncio.gather(f(), return_exceptions=True)",
    ),
    scenario(
        "task group",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 1\n"
        "async with asyncio.TaskGroup() as g: t = g.create_task(f())\nt.result()",
    ),
    scenario(
        "task group that fails",
        "import asyncio\nasync def f(): 1/0\n"
        "async with asyncio.TaskGroup() as g: g.create_task(f())",
    ),
    scenario("timeout", "import asyncio\nawait asyncio.wait_for(asyncio.sleep(10), 0.01)"),
    scenario(
        "task outlives its cell",
        "import asyncio\ne = asyncio.Event()\nasync def f():\n    await e.wait()\n"
        "    print('task', flush=True)\n"
        "t = asyncio.create_task(f())",
        "e.set()",
        until("task"),
        "t.done()",
    ),
    scenario(
        "task without await",
        "import asyncio\nasync def f(): return 7\nt = asyncio.ensure_future(f())",
        "await t",
    ),
    scenario(
        "failed task", "import asyncio\nasync def f(): 1/0\nt = asyncio.create_task(f())", "await t"
    ),
    scenario(
        "cancelled task",
        "import asyncio\nt = asyncio.create_task(asyncio.sleep(10))\nt.cancel()\nawait t",
    ),
    scenario(
        "get_running_loop",
        "import asyncio\nasyncio.get_running_loop().is_running()",
        "asyncio.get_event_loop() is asyncio.get_running_loop()",
    ),
    scenario(
        "call_soon",
        "import asyncio\nx = asyncio.get_running_loop().call_soon(lambda: print('soon', "
        "flush=True))",
        until("soon"),
        "1",
    ),
    scenario("asyncio.run", "import asyncio\nasync def main(): return 5\nasyncio.run(main())"),
    scenario(
        "run_until_complete",
        "import asyncio\nasync def main(): return 5\n"
        "asyncio.get_event_loop().run_until_complete(main())",
    ),
    scenario(
        "autoawait",
        "%autoawait",
        "%autoawait False",
        "import asyncio\nawait asyncio.sleep(0)",
        "%autoawait asyncio",
        "%autoawait",
    ),
    scenario("autoawait sync", "%autoawait sync", "%autoawait asyncio"),
    scenario("await syntax error", "await = 1"),
    scenario("await in lambda", "lambda: await x"),
    scenario("async generator result", "async def g():\n    yield 1\ng().__class__.__name__"),
    scenario(
        "coroutine never awaited", "async def f(): pass\nc = f()\ntype(c).__name__\nc.close()"
    ),
    scenario("to_thread", "import asyncio\nawait asyncio.to_thread(lambda: 3)"),
    scenario(
        "run_in_executor",
        "import asyncio\nawait asyncio.get_running_loop().run_in_executor(None, str, 5)",
    ),
    scenario(
        "async subprocess",
        "import asyncio\np = await asyncio.create_subprocess_exec('echo', 'x', stdout=-1)\n"
        "(await p.communicate())[0]",
    ),
    scenario(
        "async error, silent", run("import asyncio\nawait asyncio.sleep(0)\n1/0", silent=True)
    ),
    scenario(
        "async with user expressions",
        run("import asyncio\nv = await asyncio.sleep(0, 3)", user_expressions={"v": "v"}),
    ),
    scenario(
        "async count",
        "import asyncio\nawait asyncio.sleep(0)",
        "1",
        run("await asyncio.sleep(0)", store_history=False),
        "2",
    ),
    scenario(
        "async stop_on_error",
        queue(run("import asyncio\nawait asyncio.sleep(0)\ninput()\n1/0", answers=("",)), "2"),
    ),
    scenario("async display", "import asyncio\ndisplay(1)\nawait asyncio.sleep(0)\ndisplay(2)"),
    scenario("async magic", "import asyncio\n%time await asyncio.sleep(0)"),
    scenario(
        "async capture",
        "%%capture c\nimport asyncio\nawait asyncio.sleep(0)\nprint('x')",
        "c.stdout",
    ),
    scenario(
        "contextvars",
        "import contextvars\nv = contextvars.ContextVar('v', default=0)\nx = v.set(1)",
        "v.get()",
    ),
    scenario(
        "contextvars, async",
        "import contextvars, asyncio\nv = contextvars.ContextVar('v', default=0)\n"
        "x = v.set(1)\nawait asyncio.sleep(0)",
        "v.get()",
    ),
    scenario(
        "asynchronous context of tasks",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print('in a task')\n"
        "await asyncio.create_task(f())",
    ),
    # ------------------------------------------------------------------------- child processes
    scenario(
        "multiprocessing fork",
        "import multiprocessing as mp\ndef f(x): return x * x\n"
        "with mp.get_context('fork').Pool(2) as p: r = p.map(f, range(4))\nr",
    ),
    scenario(
        "multiprocessing spawn",
        "import multiprocessing as mp, math\n"
        "with mp.get_context('spawn').Pool(1) as p: r = p.map(math.sqrt, [4, 9])\nr",
    ),
    scenario(
        "multiprocessing spawn of a cell's function",
        "%%writefile spawned.py\ndef f(x): return x + 1",
        "import multiprocessing as mp, spawned\n"
        "with mp.get_context('spawn').Pool(1) as p: r = p.map(spawned.f, [1])\nr",
    ),
    scenario(
        "process pool",
        "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing as mp\n"
        "def f(x): return -x\n"
        "with ProcessPoolExecutor(1, mp_context=mp.get_context('fork')) as e: r = "
        "list(e.map(f, range(3)))\nr",
    ),
    scenario(
        "print of a forked child",
        "import multiprocessing as mp\np = mp.get_context('fork').Process(target=print, "
        "args=('child',), kwargs={'flush': True})\n"
        "p.start(); p.join(); p.exitcode",
        until("child"),
        loose_streams=True,
    ),
    scenario(
        "fork and _exit",
        "import os\npid = os.fork()\nif pid == 0: os._exit(3)\n"
        "os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])",
    ),
    scenario(
        "Popen",
        "import subprocess\np = subprocess.Popen(['cat'], stdin=-1, stdout=-1)\n"
        "p.communicate(b'x')[0], p.returncode",
    ),
    scenario(
        "check_output that fails",
        "import subprocess\nsubprocess.check_output('exit 2', shell=True)",
    ),
    scenario(
        "signal of a child",
        "import subprocess\np = subprocess.Popen(['sleep', '60'])\np.terminate(); p.wait()",
    ),
    # -------------------------------------------------------------------------------- pickling
    scenario(
        "pickle of a cell's class",
        "import pickle\nclass A:\n    def __init__(self): self.x = 1\n"
        "pickle.loads(pickle.dumps(A())).x, A.__module__",
    ),
    scenario(
        "pickle of a cell's function",
        "import pickle\ndef f(): return 1\npickle.loads(pickle.dumps(f)) is f",
    ),
    scenario("pickle of a lambda", "import pickle\npickle.dumps(lambda: 1)"),
    scenario(
        "dataclass",
        "from dataclasses import dataclass, field, asdict\n@dataclass(order=True)\nclass D:\n"
        "    x: int\n    y: list = field(default_factory=list)\nasdict(D(1)), D(1) < D(2)",
    ),
    scenario(
        "dataclass with slots",
        "from dataclasses import dataclass\n@dataclass(slots=True, frozen=True)\nclass D:\n"
        "    x: 'int' = 1\nD()",
    ),
    scenario(
        "typing",
        "import typing\nclass T(typing.NamedTuple):\n    a: int\nclass P(typing.TypedDict):\n"
        "    b: 'T'\ntyping.get_type_hints(P), T(1)",
    ),
    scenario("annotations of cells", "x: int = 1", "__annotations__"),
    scenario(
        "future import lasts",
        "from __future__ import annotations",
        "def f(a: undefined_name): pass\nf.__annotations__",
        spoils=True,
    ),
    scenario("enum", "import enum\nclass E(enum.Enum):\n    A = 1\nE.A, list(E)"),
    scenario(
        "doctest",
        "def f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\nimport doctest\n"
        "doctest.testmod()",
    ),
    scenario(
        "unittest",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\n"
        "unittest.main(argv=['x'], exit=False, verbosity=0).result.wasSuccessful()",
    ),
    scenario(
        "import of a file here",
        "%%writefile local_module.py\nvalue = 3",
        "import local_module\nlocal_module.value",
    ),
    scenario("class redefined", "class A: pass\na = A()", "class A: pass\nisinstance(a, A)"),
    scenario("globals and locals", "globals() is locals(), 'x' in globals()", "exec('x = 3')\nx"),
    scenario("del", "x = 1\ndel x\nx"),
    scenario("global", "def f():\n    global gg\n    gg = 4\nf()\ngg"),
    scenario("match", "match [1, 2]:\n    case [a, b]: print(a + b)"),
    scenario("type hints of a function", "def f(a: int) -> str: ...\nf.__annotations__"),
    scenario(
        "weak references",
        "import weakref\nclass A: pass\na = A()\nr = weakref.ref(a)\ndel a\nr() is None",
    ),
    scenario(
        "atexit", "import atexit\natexit.register(print, 'bye') is print\natexit.unregister(print)"
    ),
    scenario("recursion limit", "import sys\nsys.getrecursionlimit()"),
    scenario(
        "threads",
        "import threading\nthreading.current_thread() is threading.main_thread(), "
        "threading.current_thread().name",
    ),
    scenario(
        "signal handlers",
        "import signal\ncallable(signal.getsignal(signal.SIGINT)), "
        "signal.getsignal(signal.SIGTERM) is not None",
    ),
    scenario("gc", "import gc\ngc.isenabled(), gc.get_threshold()"),
    scenario("tracemalloc", "import tracemalloc\ntracemalloc.is_tracing()"),
    # --------------------------------------------------------------------- the shell's attributes
    scenario("class of the shell", "type(get_ipython())", "str(type(get_ipython()))"),
    scenario(
        "isinstance",
        "from ipykernel.zmqshell import ZMQInteractiveShell\n"
        "isinstance(get_ipython(), ZMQInteractiveShell)",
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell.initialized(), InteractiveShell.instance() is get_ipython()",
    ),
    scenario("config of the shell", "'IPKernelApp' in get_ipython().config"),
    scenario("has a kernel", "hasattr(get_ipython(), 'kernel'), get_ipython().kernel is not None"),
    scenario(
        "class of the kernel",
        "type(get_ipython().kernel)",
        "k = get_ipython().kernel\nk.shell is get_ipython(), k.implementation, k.banner[:60] == "
        "get_ipython().banner[:60]",  # what follows may be a tip, at random
    ),
    scenario(
        "classes of the parts",
        "ip = get_ipython()\n[type(x).__name__ for x in (ip.displayhook, ip.display_pub, "
        "ip.history_manager, ip.compile, "
        "ip.payload_manager, ip.exiter, ip.Completer, ip.display_formatter)]",
    ),
    scenario("class of stdout", "import sys\ntype(sys.stdout)"),
    scenario("configurables", "[type(c).__name__ for c in get_ipython().configurables]"),
    scenario("attributes", "sorted(n for n in dir(get_ipython()) if not n.startswith('_'))"),
    scenario(
        "simple values",
        "ip = get_ipython()\nip.autoindent, ip.colors, ip.xmode, ip.loop_runner, ip.autoawait, "
        "ip.active_eventloop, "
        "ip.execution_count, ip.enable_html_pager, ip.system.__name__, ip.has_readline if "
        "hasattr(ip, 'has_readline') else None",
    ),
    scenario(
        "parent",
        "p = get_ipython().get_parent()\nsorted(p), sorted(p['header']), p['content']['code'][:3]",
    ),
    scenario("parent header", "get_ipython().parent_header['header']['msg_type']"),
    scenario("extensions", "sorted(get_ipython().extension_manager.loaded)"),
    scenario(
        "profile",
        "get_ipython().profile, get_ipython().profile_dir is not None",
        "get_ipython().ipython_dir == __import__('os').environ['IPYTHONDIR']",
    ),
    scenario(
        "getoutput, ev, ex",
        "ip = get_ipython()\nip.getoutput('echo 1'), ip.ev('1 + 1')",
        "ip.ex('z = 9')\nz",
        "ip.run_line_magic('pwd', '') == __import__('os').getcwd()",
    ),
    scenario(
        "run_cell in a cell",
        "r = get_ipython().run_cell('print(1)\\n2')\nr.result, r.success",
        "get_ipython().run_cell('1/0').success",
    ),
    scenario(
        "run_cell_magic", "get_ipython().run_cell_magic('capture', 'cc', 'print(5)')\ncc.stdout"
    ),
    scenario(
        "push and pop",
        "get_ipython().push({'pushed': 1})\npushed",
        "get_ipython().user_ns['pushed'] = 2\npushed",
        "get_ipython().drop_by_id({'pushed': 2})",
    ),
    scenario(
        "ipykernel.connect",
        "import ipykernel, os\nos.path.basename(ipykernel.get_connection_file())",
    ),
    scenario("ipykernel's version", "import ipykernel\nipykernel.version_info[0] >= 6"),
    scenario(
        "modules that are there",
        "import sys\n{n: n in sys.modules for n in ('IPython', 'traitlets', 'json', 'builtins')}",
    ),
    scenario(
        "banner", "get_ipython().banner1 == get_ipython().banner[:len(get_ipython().banner1)]"
    ),
    scenario("ask_exit", "get_ipython().exit_now, get_ipython().keepkernel_on_exit"),
    scenario(
        "payload_manager", "get_ipython().payload_manager.write_payload({'source': 'mine', 'x': 1})"
    ),
    scenario("mktempfile", "get_ipython().mktempfile('x').endswith('.py')"),
    scenario("show_usage", "get_ipython().show_usage()"),
    scenario("hooks", "sorted(get_ipython().hooks)"),
    scenario(
        "input transformers",
        "[f.__name__ for f in get_ipython().input_transformers_cleanup]",
        "get_ipython().input_transformers_post.append(lambda lines: [l.replace('MAGIC', '42') "
        "for l in lines])",
        "MAGIC",
        spoils=True,
    ),
    scenario(
        "ast transformers",
        "import ast\nclass N(ast.NodeTransformer):\n"
        "    def visit_Constant(self, n): return ast.copy_location(ast.Constant(n.value + 1 if "
        "type(n.value) is int else n.value), n)\nget_ipython().ast_transformers.append(N())",
        "1",
        "get_ipython().ast_transformers.clear()",
        fresh=True,
    ),
]


@scenarios(SCENARIOS)
def test_parity(pair: Pair, scenario: Scenario) -> None:
    check(pair, scenario)
