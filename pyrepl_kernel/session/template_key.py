"""The name under which a template is found: whoever has the same may share it.

It stands for all that decides what a process is like once the warmup has run. Computing it reads a
few directories and no file's content, and takes about a millisecond.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pyrepl_kernel._version import __version__

__all__ = ["is_placeless", "startup_environment", "template_key"]

_VOLATILE = frozenset(
    """
    PWD OLDPWD SHLVL _ TERM COLUMNS LINES LS_COLORS COLORTERM PS1 PS2 PROMPT_COMMAND LESS LESSOPEN
    LESSCLOSE PAGER GIT_PAGER CLICOLOR CLICOLOR_FORCE FORCE_COLOR NO_COLOR EDITOR VISUAL MAIL
    WINDOW WINDOWID STY DISPLAY WAYLAND_DISPLAY XAUTHORITY DBUS_SESSION_BUS_ADDRESS ICEAUTHORITY
    GPG_AGENT_INFO GPG_TTY SESSION_MANAGER DESKTOP_STARTUP_ID XDG_SESSION_ID XDG_SEAT XDG_VTNR
    INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID MANAGERPID NOTIFY_SOCKET WATCHDOG_PID
    PYTEST_CURRENT_TEST PYTEST_VERSION PYTEST_XDIST_WORKER VTE_VERSION IPYKERNEL_CELL_NAME
    PYDEVD_USE_FRAME_EVAL
    """.split()
)
_VOLATILE_PREFIXES = tuple(
    """
    JPY_ JUPYTERHUB_ JUPYTER_ KERNEL_ PYREPL_ SSH_ TERM_ LC_TERMINAL TMUX VSCODE_ ITERM_ KITTY_
    WEZTERM_ KONSOLE_ ALACRITTY_ GNOME_ SUDO_ LISTEN_
    """.split()
)
"""Variables that tell one terminal, session or kernel from another, and no import looks at. A
worker that is handed over gets its own, these too."""

_CONFIG_NAMES = frozenset(
    f"{name}.{ending}"
    for name in ("ipython_config", "ipython_kernel_config")
    for ending in ("py", "json")
)
_INSTALLED = ("site-packages", "dist-packages")


def startup_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a warmup may depend on."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _VOLATILE and not name.startswith(_VOLATILE_PREFIXES)
    }


def is_placeless(code: str, cwd: str) -> bool:
    """Whether code does the same wherever it runs: it only imports, and nothing of ``cwd``."""
    try:
        # The flag is ast.PyCF_ONLY_AST; the module ast itself is not needed.
        tree = compile(code, "<warmup>", "exec", 0x400)
    except (SyntaxError, ValueError):
        return False  # a magic, perhaps; or it raises, and it is said where
    local = {name.partition(".")[0] for name in _names(cwd)}
    for statement in tree.body:  # type: ignore[attr-defined]
        kind = type(statement).__name__
        if kind == "Import":
            names = [alias.name for alias in statement.names]
        elif kind == "ImportFrom" and not statement.level:
            names = [statement.module]
        else:
            return False
        if any(name.partition(".")[0] in local for name in names):
            return False
    return True


def template_key(
    warmup: str,
    ipython: Sequence[str] | None,
    cwd: str,
    environ: Mapping[str, str] | None = None,
) -> str:
    """The key of the template that a kernel of this process needs.

    Args:
        warmup: The code that it runs.
        ipython: Arguments of IPython's; None for no configuration.
        cwd: Where the warmup runs.
        environ: The environment; this process's when not given.
    """
    environ = os.environ if environ is None else environ
    digest = hashlib.blake2b(digest_size=12)
    for part in _parts(warmup, ipython, cwd, environ):
        digest.update(repr(part).encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()


def _parts(
    warmup: str, ipython: Sequence[str] | None, cwd: str, environ: Mapping[str, str]
) -> Iterator[object]:
    yield "machine", os.uname().nodename, _namespace(), os.geteuid()
    yield "python", sys.executable, sys.version, _stat(os.path.realpath(sys.executable))
    yield "options", sys.warnoptions, sorted(sys._xoptions.items()), tuple(sys.flags)
    yield "package", __version__, sorted(_package_files())
    yield "environment", sorted(startup_environment(environ).items())
    yield "warmup", warmup
    yield "place", "" if is_placeless(warmup, cwd) else cwd
    yield "ipython", None if ipython is None else list(ipython)
    if ipython is not None:
        yield "profile", sorted(_profile_files(ipython, environ))
    yield "installed", sorted(_installed())


def _namespace() -> object:
    """What tells containers with the same home and host name apart."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _stat(path: str) -> tuple[str, int, int, int]:
    try:
        info = os.stat(path)
    except OSError:
        return path, 0, 0, 0
    return path, info.st_mtime_ns, info.st_size, info.st_ino


def _package_files() -> Iterator[tuple[str, int, int, int]]:
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in (
        home,
        *(os.path.join(home, name) for name in ("protocol", "session", "worker")),
    ):
        for name in _names(directory):
            if name.endswith(".py"):
                yield _stat(os.path.join(directory, name))


def _profile_files(
    arguments: Iterable[str], environ: Mapping[str, str]
) -> Iterator[tuple[str, int, int, int]]:
    home = environ.get("IPYTHONDIR") or os.path.join(os.path.expanduser("~"), ".ipython")
    profiles = [os.path.join(home, name) for name in _names(home) if name.startswith("profile_")]
    shared = [os.path.join(sys.prefix, "etc", "ipython"), "/usr/local/etc/ipython", "/etc/ipython"]
    for directory in (*profiles, *shared):
        for name in _CONFIG_NAMES.intersection(_names(directory)):
            yield _stat(os.path.join(directory, name))
    for argument in arguments:
        # --config=FILE, --profile-dir DIR: whatever the option is called.
        value = argument.rpartition("=")[2]
        if os.sep in value:
            yield _stat(value)
            if os.path.isdir(value):
                for name in _CONFIG_NAMES.intersection(_names(value)):
                    yield _stat(os.path.join(value, name))


def _installed() -> Iterator[tuple[str, int, int, int]]:
    """The directories of installed packages: they change when something is installed."""
    for directory in sys.path:
        if directory.endswith(_INSTALLED):
            yield _stat(directory)
            for name in _names(directory):
                if name.endswith((".pth", ".egg-link")):
                    yield _stat(os.path.join(directory, name))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
