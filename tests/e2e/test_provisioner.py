"""The provisioner: which process lives on, which ends, and when a restart needs a new one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.connect import port_names
from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from traitlets.config import Config

from pyrepl_kernel.provisioner import PyreplProvisioner

from .managed import Managed, managed
from .support import KERNEL, TIMEOUT, kernelspec, only_ours, wait_gone

pytestmark = only_ours

WORKER = "__import__('os').getpid()"
MANAGERS = pytest.mark.parametrize("manager_class", [KernelManager, AsyncKernelManager])
NOW = pytest.mark.parametrize("now", [False, True], ids=["graceful", "now"])


@pytest.fixture
def kernel() -> Iterator[Managed]:
    """A kernel of this test's own."""
    with managed() as kernel:
        yield kernel


def test_the_kernelspec_names_it(kernel: Managed) -> None:
    assert isinstance(kernel.manager.provisioner, PyreplProvisioner)


@pytest.mark.skipif(sys.platform != "linux", reason="no port is bound twice elsewhere")
def test_nobody_else_gets_its_ports_before_it_has_bound_them() -> None:
    manager = KernelManager(kernel_name=KERNEL)
    manager.pre_start_kernel()
    ports = ports_of(manager)
    assert all(map(is_taken, ports))
    manager.cleanup_resources()
    assert not any(map(is_taken, ports))


@pytest.mark.skipif(sys.platform != "linux", reason="no port is bound twice elsewhere")
def test_its_ports_wait_for_it_when_its_process_has_died(kernel: Managed) -> None:
    ports = ports_of(kernel.manager)
    os.kill(kernel.pid, signal.SIGKILL)
    assert wait_gone(kernel.pid, TIMEOUT)
    assert all(map(is_taken, ports))
    kernel.call("restart_kernel", now=True)
    assert ports_of(kernel.manager) == ports
    assert kernel.client().value("6 * 7") == "42"


def ports_of(manager: KernelManager) -> list[int]:
    return [getattr(manager, name) for name in port_names]


def is_taken(port: int) -> bool:
    """Whether the system refuses a port of the loopback to others."""
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def test_the_worker_sees_nothing_of_it(kernel: Managed) -> None:
    sockets = "{os.readlink(f.path) for f in os.scandir('/proc/self/fd') if os.path.exists(f.path)}"
    client = kernel.client()
    assert client.value("'PYREPL_LEASH' in __import__('os').environ") == "False"
    if sys.platform == "linux":
        leash = Path(f"/proc/{kernel.pid}/environ").read_text().split("PYREPL_LEASH=")[1]
        inode = leash.split("\0")[0].split(":")[1]
        assert f"socket:[{inode}]" not in client.value(
            f"__import__('builtins') and [exec('import os'), {sockets}]"
        )


# ── ends ──


@NOW
@MANAGERS
def test_a_shutdown_ends_all_before_it_returns(manager_class: Any, now: bool) -> None:
    with managed(manager_class) as kernel:
        worker = int(kernel.client().value(WORKER))
        kernel.call("restart_kernel", now=now)
        second = int(kernel.client().value(WORKER))
        kernel.call("shutdown_kernel", now=now)
        assert not kernel.call("is_alive")
        assert not kernel.manager.has_kernel
        assert not psutil.pid_exists(kernel.pid)
        assert wait_gone(worker, TIMEOUT)
        assert wait_gone(second, TIMEOUT)


@NOW
def test_a_restart_that_is_not_finished_leaves_nothing(kernel: Managed, now: bool) -> None:
    kernel.client()
    if now:
        kernel.provisioner("kill")
    else:
        kernel.call("shutdown_kernel", restart=True)
    assert not kernel.call("is_alive")
    assert psutil.pid_exists(kernel.pid)
    kernel.call("cleanup_resources", restart=False)
    assert not psutil.pid_exists(kernel.pid)


def test_a_kernel_that_waits_for_a_restart_ends_with_its_manager() -> None:
    manager = KernelManager(kernel_name=KERNEL)
    manager.start_kernel()
    process = manager.provisioner.process  # type: ignore[union-attr]
    manager.shutdown_kernel(restart=True)
    assert process.poll() is None
    del manager.provisioner
    assert wait_gone(process.pid, TIMEOUT)
    process.wait()
    manager.cleanup_resources()


@pytest.mark.slow
def test_a_kernel_does_not_wait_for_ever_for_a_restart(kernel: Managed) -> None:
    kernel.call("shutdown_kernel", restart=True)
    assert wait_gone(kernel.pid, TIMEOUT)
    old = kernel.pid
    kernel.call("start_kernel")
    assert kernel.pid != old
    assert kernel.client().value("6 * 7") == "42"


MANAGER = """
import sys
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name=sys.argv[1], connection_file=sys.argv[2])
manager.start_kernel(independent="independent" in sys.argv)
client = manager.client()
client.start_channels()
client.wait_for_ready(30)
reply = client.execute_interactive(
    "import os, subprocess", user_expressions={"child": "subprocess.Popen(['sleep', '600']).pid",
    "pid": "os.getpid()"}, timeout=30)
values = reply["content"]["user_expressions"]
if "retired" in sys.argv:
    manager.shutdown_kernel(restart=True)
pids = [int(values[name]["data"]["text/plain"]) for name in ("child", "pid")]
print(*pids, manager.provisioner.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("options", [[], ["retired"], ["retired", "independent"]], ids=" ".join)
def test_nothing_outlives_a_manager_that_was_killed(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANAGER, KERNEL, str(tmp_path / "k.json"), *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 3
    assert not [pid for pid in pids if not wait_gone(pid, TIMEOUT)]


# ── dies ──


def restarter(**options: Any) -> Config:
    return Config({"KernelRestarter": {"time_to_dead": 0.1, **options}})


@pytest.mark.parametrize("state", ["serving", "starting"])
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_the_restarter_replaces_a_kernel_that_was_killed(
    state: str, transport: str, tmp_path: Path
) -> None:
    traits: dict[str, Any] = {"transport": transport, "connection_file": str(tmp_path / "k.json")}
    config = restarter(random_ports_until_alive=False)
    with managed(AsyncIOLoopKernelManager, config=config, **traits) as kernel:
        worker = int(kernel.client().value(WORKER)) if state == "serving" else None
        if state == "serving":
            kernel.call("restart_kernel")
        old = kernel.pid

        async def killed() -> None:
            restarted = asyncio.Event()
            kernel.manager.add_restart_callback(restarted.set)
            os.kill(old, signal.SIGKILL)
            async with asyncio.timeout(TIMEOUT):
                await restarted.wait()
                while kernel.pid == old or not kernel.manager.has_kernel:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                while not kernel.manager.ready.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        kernel.wait(killed)
        assert worker is None or wait_gone(worker, TIMEOUT)
        assert kernel.client().value("6 * 7") == "42"
        new = kernel.pid
        kernel.call("restart_kernel")
        assert kernel.pid == new
        assert kernel.client().value("6 * 7") == "42"


def test_a_clients_own_request_for_a_restart_ends_the_process(kernel: Managed) -> None:
    """It did not come by the provisioner, so a server has to notice it and start the kernel."""
    client = kernel.client()
    request = client.send("shutdown_request", {"restart": True}, channel="control")
    assert client.reply(request, channel="control")["content"]["restart"] is True
    assert wait_gone(kernel.pid, TIMEOUT)
    assert not kernel.call("is_alive")
    kernel.call("restart_kernel", now=True)
    assert kernel.client().value("6 * 7") == "42"


def test_a_manager_may_take_its_time_in_the_middle_of_a_restart(kernel: Managed) -> None:
    client = kernel.client()
    assert client.run("marker = 1").status == "ok"
    provisioner = kernel.manager.provisioner
    assert provisioner is not None
    at_once = provisioner.shutdown_requested

    async def late(restart: bool = False) -> None:
        await asyncio.sleep(2)  # what a busy machine does to it
        await at_once(restart=restart)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provisioner, "shutdown_requested", late)
        before = kernel.pid
        kernel.call("restart_kernel", now=False)
    assert kernel.pid == before
    # What the first cell shows is not lost, since its client need not connect anew.
    assert client.run("print('marker' in globals())").text == "False\n"


@NOW
@MANAGERS
def test_a_kernel_process_that_hangs_is_killed(manager_class: Any, now: bool) -> None:
    with managed(manager_class, shutdown_wait_time=2.0) as kernel:
        worker = int(kernel.client().value(WORKER))
        old = kernel.pid
        os.kill(old, signal.SIGSTOP)
        kernel.call("restart_kernel", now=now)
        assert kernel.pid != old
        assert not psutil.pid_exists(old)
        assert wait_gone(worker, TIMEOUT)
        assert kernel.client().value("6 * 7") == "42"


def test_a_kernel_process_that_hangs_is_killed_by_a_shutdown(kernel: Managed) -> None:
    kernel.client()
    os.kill(kernel.pid, signal.SIGSTOP)
    kernel.call("shutdown_kernel", now=True)
    assert not psutil.pid_exists(kernel.pid)


def test_terminate_ends_the_process(kernel: Managed) -> None:
    kernel.client()
    kernel.provisioner("terminate")
    assert kernel.provisioner("wait") == 0
    assert not psutil.pid_exists(kernel.pid)
    assert not kernel.manager.has_kernel


def test_signals_go_to_the_kernel_process(kernel: Managed) -> None:
    kernel.client()
    kernel.call("restart_kernel")
    kernel.call("signal_kernel", signal.SIGKILL)
    assert kernel.provisioner("wait") == -signal.SIGKILL


# ── is restarted with something else ──


def restarted_anew(kernel: Managed, **options: Any) -> bool:
    """Whether a restart starts a new process, which works."""
    old = kernel.pid
    kernel.client().run("marker = 1")
    kernel.call("restart_kernel", **options)
    assert kernel.client().value("'marker' in globals()") == "False"
    if kernel.pid != old:
        assert not psutil.pid_exists(old)
    return kernel.pid != old


@NOW
def test_new_ports_need_a_new_process(now: bool) -> None:
    with managed(cache_ports=False) as kernel:
        before = kernel.manager.ports
        assert restarted_anew(kernel, newports=True, now=now)
        assert kernel.manager.ports != before
        assert not restarted_anew(kernel)


@NOW
def test_other_arguments_need_a_new_process(kernel: Managed, now: bool) -> None:
    arguments = ["--warmup=warm = 7", "--InteractiveShell.cache_size=77"]
    assert restarted_anew(kernel, extra_arguments=arguments, now=now)
    assert kernel.client().value("warm, get_ipython().cache_size") == "(7, 77)"
    assert not restarted_anew(kernel, now=now)
    assert kernel.client().value("warm") == "7"


def test_the_environment_is_that_of_the_restart() -> None:
    with managed(start=False) as kernel:
        read = "[__import__('os').environ.get(name) for name in ('A', 'B', 'C')]"
        base = dict(os.environ)
        kernel.call("start_kernel", env=base | {"A": "1", "B": "1"})
        assert kernel.client().value(read) == "['1', '1', None]"
        assert not restarted_anew(kernel, env=base | {"B": "2", "C": "3"})
        assert kernel.client().value(read) == "[None, '2', '3']"
        kernel.manager.update_env(env={"A": "4", "JPY_SESSION_NAME": "moved.ipynb"})
        assert not restarted_anew(kernel)
        assert kernel.client().value(read) == "['4', '2', '3']"
        assert kernel.client().value("__session__") == "'moved.ipynb'"
        assert restarted_anew(kernel, env=base | {"PYTHONHASHSEED": "7"})
        assert kernel.client().value("__import__('os').environ['PYTHONHASHSEED']") == "'7'"


def test_the_directory_is_that_of_the_restart(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    cwd = "__import__('os').getcwd()"
    file = str(tmp_path / "k.json")
    with managed(start=False, transport="ipc", connection_file=file) as kernel:
        kernel.call("start_kernel", cwd=str(first), env={**os.environ})
        client = kernel.client()
        client.run("__import__('os').chdir('/')")
        assert not restarted_anew(kernel)
        assert client.value(cwd) == repr(str(first))
        assert not restarted_anew(kernel, cwd=str(second))
        assert client.value(cwd) == repr(str(second))
        assert kernel.manager.resolve_path("..") == tmp_path.as_posix()
        shutil.rmtree(second)
        with pytest.raises(FileNotFoundError):
            kernel.call("restart_kernel")
        assert not kernel.call("is_alive")
        assert wait_gone(kernel.pid, TIMEOUT)


def test_a_kernelspec_that_was_installed_anew_counts(tmp_path: Path) -> None:
    directory = tmp_path / "kernels" / "again"
    shutil.copytree(kernelspec().resource_dir, directory)
    warm = tmp_path / "warm.py"
    warm.write_text("warm = 1")

    def install(*arguments: str) -> None:
        spec = json.loads((directory / "kernel.json").read_text())
        spec["argv"] = [*spec["argv"][:6], *arguments]
        (directory / "kernel.json").write_text(json.dumps(spec, indent=len(arguments)))

    install(f"--warmup={warm}")
    specs = KernelSpecManager(kernel_dirs=[str(directory.parent)])
    with managed(kernel_spec_manager=specs, kernel_name="again") as kernel:
        assert kernel.client().value("warm") == "1"
        warm.write_text("warm = 2")
        assert not restarted_anew(kernel)
        assert kernel.client().value("warm") == "2"
        install("--warmup=warm = 3", "--spares=0")
        assert restarted_anew(kernel)
        assert kernel.client().value("warm") == "3"
        (directory / "kernel.json").write_text("no json")
        assert not restarted_anew(kernel)


def test_another_version_of_the_kernel_needs_a_new_process(kernel: Managed) -> None:
    from pyrepl_kernel import _version

    assert not restarted_anew(kernel)
    before = os.stat(_version.__file__)
    try:
        os.utime(_version.__file__, ns=(time.time_ns(), time.time_ns()))
        assert restarted_anew(kernel)
    finally:
        os.utime(_version.__file__, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_ipc_sockets_that_were_lost_are_made_again(tmp_path: Path) -> None:
    with managed(transport="ipc", connection_file=str(tmp_path / "k.json")) as kernel:
        client, pid = kernel.client(), kernel.pid
        for _ in range(3):
            kernel.manager.cleanup_ipc_files()  # outside of a restart: nobody could save them
            kernel.call("restart_kernel")
            assert kernel.client().value("6 * 7") == "42"
        assert client.value("6 * 7") == "42"
        assert kernel.pid == pid
    assert not list(tmp_path.iterdir())


def test_spares_of_another_warmup_are_not_used(tmp_path: Path) -> None:
    warm = tmp_path / "warm.py"
    warm.write_text("warm = 1")
    options = [f"--warmup={warm}", "--spares=1"]
    with managed(start=False) as kernel:
        kernel.call("start_kernel", extra_arguments=options)
        for number in range(1, 4):
            warm.write_text(f"warm = {number}")
            assert not restarted_anew(kernel)
            assert kernel.client().value("warm") == str(number)


# ── changes hands ──


def rebuilt(manager: KernelManager, info: dict[str, Any], file: str) -> None:
    """Make a manager take over a kernel that it has not started."""
    manager.load_connection_file(file)
    manager.kernel_id = info["kernel_id"]
    provisioner = KernelProvisionerFactory.instance().create_provisioner_instance(
        info["kernel_id"], manager.kernel_spec, parent=manager
    )
    asyncio.run(provisioner.load_provisioner_info(info))
    manager.provisioner = provisioner
    manager._attempted_start = True
    launch_args: Any = {"env": dict(os.environ)}  # as its own start_kernel would have left them
    manager._launch_args = launch_args


def test_a_manager_can_be_rebuilt_from_what_was_saved(kernel: Managed) -> None:
    client, old = kernel.client(), kernel.pid
    client.run("marker = 1")
    info = kernel.provisioner("get_provisioner_info")
    with managed(start=False, connection_file=kernel.manager.connection_file) as second:
        rebuilt(second.manager, info, kernel.manager.connection_file)
        assert second.call("is_alive")
        assert second.client().value("marker") == "1"
        request = client.execute("print('in', flush=True)\nwhile True: pass")
        client.wait_printed(request)
        second.call("interrupt_kernel")
        assert client.outcome(request).error == "KeyboardInterrupt"
        second.call("restart_kernel")
        assert second.pid != old
        assert wait_gone(old, TIMEOUT)
        assert second.client().value("'marker' in globals()") == "False"
        new = second.pid
        second.call("restart_kernel")
        assert second.pid == new


@NOW
def test_a_rebuilt_manager_can_end_the_kernel(kernel: Managed, now: bool) -> None:
    kernel.client()
    info = kernel.provisioner("get_provisioner_info")
    with managed(start=False, connection_file=kernel.manager.connection_file) as second:
        rebuilt(second.manager, info, kernel.manager.connection_file)
        second.call("shutdown_kernel", now=now)
        assert not second.call("is_alive")
        assert wait_gone(kernel.pid, TIMEOUT)


def test_a_process_that_only_has_the_same_pid_is_not_taken_over(kernel: Managed) -> None:
    kernel.client()
    info = kernel.provisioner("get_provisioner_info") | {"started": "1"}
    with managed(start=False, connection_file=kernel.manager.connection_file) as second:
        rebuilt(second.manager, info, kernel.manager.connection_file)
        assert not second.call("is_alive")
        second.manager.provisioner = None
    assert kernel.call("is_alive")


def test_kernels_of_two_managers_do_not_know_each_other(kernel: Managed) -> None:
    ours = kernel.client()
    # The template that both use is a child of this one, and stays when the other has ended.
    kernel.settled(int(str(ours.value("__import__('os').getpid()"))))
    with managed(AsyncKernelManager) as other:
        theirs = other.client()
        for client in (ours, theirs):
            client.run("marker = 1")
        kernel.call("restart_kernel")
        assert ours.value("'marker' in globals()") == "False"
        assert theirs.value("marker") == "1"
        other.call("restart_kernel", now=True)
        assert theirs.value("'marker' in globals()") == "False"


async def test_under_the_manager_of_many_kernels() -> None:
    managers = AsyncMultiKernelManager()
    first, second = [await managers.start_kernel(kernel_name=KERNEL) for _ in range(2)]

    def processes() -> list[int]:
        found: list[Any] = [managers.get_kernel(key).provisioner for key in (first, second)]
        return [provisioner.pid for provisioner in found]

    pids = processes()
    client = managers.get_kernel(first).client()
    client.start_channels()
    try:
        ready: Any = client.wait_for_ready(TIMEOUT)
        await ready
        restarts: list[Any] = [
            managers.restart_kernel(first),
            managers.restart_kernel(second, now=True),
        ]
        await asyncio.gather(*restarts)
        request: Any = client.execute("1", reply=True, timeout=TIMEOUT)
        reply = await request
        assert reply["content"]["execution_count"] == 1
        assert processes() == pids
    finally:
        client.stop_channels()
        ended: Any = managers.shutdown_all()
        await ended
    assert not any(psutil.pid_exists(pid) for pid in pids)
