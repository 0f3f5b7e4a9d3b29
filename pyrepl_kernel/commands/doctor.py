"""``pyrepl-kernel doctor``: looks at all that the kernel stands on, and says what to mend and how.

Each check is a generator of findings, in the table at the end. A check that cannot look, says so;
it never ends the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from pyrepl_kernel._version import __version__
from pyrepl_kernel.kernel.options import UsageError, parse

__all__ = ["Finding", "Level", "add_to", "examine"]

_PATIENCE = 20.0  # seconds that another interpreter has to answer


class Level(StrEnum):
    """How a finding is meant."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How it stands.
        what: What was found, in a line.
        do: What to type, or to do; empty where nothing is to be done.
    """

    level: Level
    what: str
    do: str = ""


def good(what: str) -> Finding:
    """Something is as it should be."""
    return Finding(Level.GOOD, what)


def note(what: str, do: str = "") -> Finding:
    """Something is worth knowing; the kernel works."""
    return Finding(Level.NOTE, what, do)


def bad(what: str, do: str) -> Finding:
    """Something does not work."""
    return Finding(Level.BAD, what, do)


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    doctor = commands.add_parser(
        "doctor",
        help="look for what keeps the kernel from working well, and say what to do",
        description="Look at kernelspecs, versions, the runtime directory, ports and encryption, "
        "and say for each finding what to type. The exit status is 1 if something does not work.",
    )
    doctor.set_defaults(run=_run)


def _run(_args: argparse.Namespace) -> int:
    is_well = True
    for title, findings in examine():
        print(title)
        for finding in findings:
            is_well &= finding.level is not Level.BAD
            print(f"  {finding.level:<5} {finding.what}")
            if finding.do:
                print(f"        → {finding.do}")
    return 0 if is_well else 1


def examine() -> Iterator[tuple[str, list[Finding]]]:
    """Make all checks; title and findings of each, as they come."""
    for title, check in CHECKS.items():
        findings: list[Finding] = []
        try:
            findings.extend(check())
        except Exception as error:
            text = f"this could not be looked at: {type(error).__name__}: {error}"
            findings.append(note(text, "please report it"))
        yield title, findings


# ------------------------------------------------------------ the interpreter


def check_python() -> Iterator[Finding]:
    """The interpreter, the platform, and the versions of what we stand on."""
    from packaging.requirements import Requirement

    version = ".".join(map(str, sys.version_info[:3]))
    yield good(f"pyrepl-kernel {__version__} on Python {version}, {sys.executable}")
    if sys.platform == "linux":
        yield good("Linux: all features")
    elif sys.platform == "darwin":
        yield note("macOS: workers are spawned and not forked, so a warm restart runs the warmup")
    else:
        yield bad(f"{sys.platform} is not supported", "use Linux, WSL or macOS")
    for text in metadata.requires("pyrepl-kernel") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield bad(f"{need.name} is missing", f"{sys.executable} -m pip install '{need}'")
            continue
        if not need.specifier.contains(have, prereleases=True):
            wants = f"{need.name} is {have}, and {need.specifier} is needed"
            yield bad(wants, f"{sys.executable} -m pip install '{need}'")
        else:
            yield good(f"{need.name} {have}")


# ------------------------------------------------------------ the kernelspecs


def check_kernelspecs() -> Iterator[Finding]:
    """Kernelspecs of this kernel: which there are, who hides whom, and whether they would start."""
    from jupyter_client.kernelspec import KernelSpecManager

    manager = KernelSpecManager(ensure_native_kernel=False)
    seen: dict[str, Path] = {}
    count = 0
    for folder in map(Path, manager.kernel_dirs):
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            spec = _read_spec(place)
            if spec is None:
                continue
            name = place.name.lower()
            if "pyrepl_kernel" not in spec["argv"]:
                seen.setdefault(name, place)
                continue
            count += 1
            if name in seen:
                hider = seen[name]
                yield note(
                    f"{place} is hidden by {hider}",
                    f"jupyter kernelspec list shows which is used; to drop one: rm -r {place}",
                )
            else:
                seen[name] = place
                yield from _check_spec(place, spec)
    if not count:
        yield bad(
            f"no kernelspec of this kernel in {', '.join(manager.kernel_dirs)}",
            f"{sys.executable} -m pyrepl_kernel.cli install --user",
        )


def _read_spec(place: Path) -> dict[str, Any] | None:
    try:
        spec = json.loads((place / "kernel.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    has_argv = isinstance(spec, dict) and isinstance(spec.get("argv"), list) and spec["argv"]
    return spec if has_argv else None


def _check_spec(place: Path, spec: dict[str, Any]) -> Iterator[Finding]:
    name, argv = place.name, spec["argv"]
    again = f"pyrepl-kernel install --name {name}, in the environment that it is for"
    # As jupyter_client: a bare "python" is the server's own.
    bare = argv[0] in ("python", "python3", f"python3.{sys.version_info.minor}")
    python = sys.executable if bare else shutil.which(argv[0])
    if python is None:
        yield bad(f"{name}: its interpreter {argv[0]} is gone ({place})", again)
        return
    answer = _ask(python, "import pyrepl_kernel; print(pyrepl_kernel.__version__)")
    if answer is None:
        yield bad(f"{name}: {python} cannot import pyrepl_kernel ({place})", again)
        return
    yield good(f"{name}: version {answer} with {python} ({place})")
    try:
        notices = parse(argv[argv.index("pyrepl_kernel") + 1 :]).notices
    except UsageError as error:
        notices = [str(error)]
    for notice in notices:
        yield bad(f"{name}: {notice}", f"edit {place / 'kernel.json'}, or {again}")


def _ask(python: str, code: str) -> str | None:
    """What another interpreter prints; None if it fails."""
    try:
        done = subprocess.run(
            [python, "-P", "-c", code],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# ------------------------------------------------------------ the provisioner

_PROVISIONER = "pyrepl-provisioner"
_LIST_PROVISIONERS = (
    "from importlib.metadata import entry_points; "
    "print(*(e.name for e in entry_points(group='jupyter_client.kernel_provisioners')))"
)


def check_provisioner() -> Iterator[Finding]:
    """Whether the Jupyters at hand can load the provisioner that kernelspecs name."""
    from jupyter_client.kernelspec import KernelSpecManager

    users = []
    for name, found in KernelSpecManager(ensure_native_kernel=False).find_kernel_specs().items():
        spec = _read_spec(Path(found)) or {}
        provisioner = (spec.get("metadata") or {}).get("kernel_provisioner") or {}
        if provisioner.get("provisioner_name") == _PROVISIONER:
            users.append(name)
    if not users:
        yield note(
            "no kernelspec names the provisioner: a restart starts a new kernel process",
            "pyrepl-kernel install --sys-prefix, in the environment that Jupyter runs in",
        )
        return
    for python in _jupyters():
        answer = _ask(python, _LIST_PROVISIONERS)
        if answer is not None and _PROVISIONER in answer.split():
            yield good(f"the Jupyter of {python} can load it, for {', '.join(users)}")
        else:
            yield bad(
                f"the Jupyter of {python} cannot load it, and so cannot start {', '.join(users)}",
                f"{python} -m pip install pyrepl-kernel, or install the kernelspec "
                "without --provisioner",
            )


def _jupyters() -> list[str]:
    """The interpreters of this environment and of the jupyter commands on the PATH."""
    found = [sys.executable]
    for command in ("jupyter-lab", "jupyter-notebook", "jupyter-server", "jupyter"):
        path = shutil.which(command)
        if path is None:
            continue
        with open(path, "rb") as file:
            line = file.readline(1024).decode("utf-8", "replace").strip()
        if line.startswith("#!/") and os.path.exists(line[2:]):
            found.append(line[2:])
    return list(dict.fromkeys(found))


# ------------------------------------------------------- what the system gives


def check_runtime_directory() -> Iterator[Finding]:
    """Where connection files and the sockets of templates lie."""
    from jupyter_core.paths import jupyter_runtime_dir

    path = jupyter_runtime_dir()
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        yield bad(f"{path}: {error.strerror}", "set JUPYTER_RUNTIME_DIR to a directory of your own")
        return
    if found.st_uid != os.getuid():
        yield bad(f"{path} belongs to another user", "set JUPYTER_RUNTIME_DIR to one of your own")
    elif found.st_mode & 0o077:
        yield note(f"{path} can be read by others", f"chmod 700 {path}")
    else:
        yield good(f"{path} is yours alone")
    with tempfile.TemporaryDirectory(dir=path, prefix="doctor-") as folder:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.bind(os.path.relpath(os.path.join(folder, "s")))
            except OSError as error:
                yield note(
                    f"its file system has no sockets ({error.strerror}): no shared warm workers",
                    "set JUPYTER_RUNTIME_DIR to a local directory",
                )
            else:
                yield good("its file system has sockets")


def check_ports() -> Iterator[Finding]:
    """Whether a kernel can listen."""
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", 0))
        except OSError as error:
            yield bad(
                f"no port of 127.0.0.1 can be had: {error.strerror}",
                "free ports, or use ipc: c.KernelManager.transport = 'ipc'",
            )
            return
    yield good("ports of 127.0.0.1 can be had")


def check_encryption() -> Iterator[Finding]:
    """Whether traffic can be encrypted."""
    import zmq

    if zmq.has("curve"):
        yield good(f"CurveZMQ is there (libzmq {zmq.zmq_version()})")
    else:
        yield note("this libzmq lacks CurveZMQ: no encrypted kernels", "pip install -U pyzmq")
    version = metadata.version("jupyter_client")
    if tuple(map(int, version.split(".")[:2])) < (8, 9):
        yield note(
            f"jupyter_client {version} cannot ask for encryption",
            f"{sys.executable} -m pip install -U jupyter_client",
        )


def check_history() -> Iterator[Finding]:
    """Whether the history database can be written without waiting."""
    import sqlite3

    from IPython.paths import locate_profile

    try:
        path = os.path.join(locate_profile(), "history.sqlite")
    except OSError:
        yield good("no history yet")
        return
    if not os.path.exists(path):
        yield good("no history yet")
        return
    try:
        connection = sqlite3.connect(path, timeout=1.0)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except sqlite3.Error as error:
        yield note(
            f"{path}: {error}: the history will be kept in memory",
            "end what holds it, or set c.HistoryManager.hist_file to a local file",
        )
    else:
        yield good(f"{path} can be written")


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Python and packages": check_python,
    "Kernelspecs": check_kernelspecs,
    "Provisioner": check_provisioner,
    "Runtime directory": check_runtime_directory,
    "Ports": check_ports,
    "Encryption": check_encryption,
    "History": check_history,
}
"""What is looked at, in order."""
