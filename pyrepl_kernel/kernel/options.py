"""The kernel's options: what there are, and what is in force.

Each is a row of ``OPTIONS``. Its value comes from the first of these that names it:

    --spares=2                 the command line, which the kernelspec writes
    PYREPL_SPARES=2            the environment
    spares = 2                 pyrepl_kernel.toml, in Jupyter's config directories; in the
                               notebook's own folder too, if ``folder_config`` allows it
    the row's default

Kernelspecs and launchers add arguments that were made for ipykernel. What is not ours is taken
for IPython's and kept; it is never an error. A value of ours that makes no sense is not in force
either: what comes next in that order is, and the user reads of it with the first cell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.protocol.units import parse_size, parse_time

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.learned import LearnedImports

__all__ = ["AUTO", "OPTIONS", "Option", "Options", "UsageError", "config_files", "parse"]

CONFIG_NAME = "pyrepl_kernel.toml"
_ENVIRONMENT_PREFIX = "PYREPL_"
_DEFAULT = "default"

AUTO = "auto"
"""The warmup that is learned."""

_LONGEST = 7 * 24 * 3600.0


class UsageError(Exception):
    """An argument of ours has a value that makes no sense."""


class Option:
    """One option.

    Args:
        name: As on the command line, without dashes in front; ``spares``.
        default: Its value where nobody names it.
        read: Gives the value for a text; raises ValueError with what it must be.
        metavar: What stands for the value in a usage line.
        help: What it does, for people.
    """

    __slots__ = ("default", "help", "metavar", "name", "read")

    def __init__(
        self, name: str, default: Any, read: Callable[[str], Any], metavar: str, help: str
    ) -> None:
        self.name = name
        self.default = default
        self.read = read
        self.metavar = metavar
        self.help = help

    @property
    def attribute(self) -> str:
        """Its name in ``Options`` and in the config file."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return _ENVIRONMENT_PREFIX + self.attribute.upper()


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it must be a whole number, 0 or more")
    return int(text)


def _spares(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return _count(text)
    except ValueError:
        raise ValueError("it must be auto or a whole number, 0 or more") from None


def _start_method(text: str) -> str:
    if text not in ("auto", "fork", "spawn"):
        raise ValueError("it must be auto, fork or spawn")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST:
        raise ValueError("it must be a number of seconds, 0 or more")
    return seconds


_WORDS = ("true", "false", "yes", "no", "1", "0")


def _yes_or_no(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError("it must be true or false")
    return text.lower() in ("true", "yes", "1")


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"it must be {', '.join(words[:-1])} or {words[-1]}")
        return text

    return read


def _warmup_code(value: str) -> str:
    """The code itself, or that of the file that the value names; ``AUTO`` for what is learned."""
    if value == AUTO:
        return value
    try:
        is_file = os.path.isfile(value)
    except ValueError:  # a NUL byte cannot be in a path
        is_file = False
    if not is_file:
        if value.endswith(".py") and "\n" not in value and " " not in value:
            # Not an error of the kernel's: the user sees it with the first cell.
            return f"raise FileNotFoundError({f'warmup file {value!r} does not exist'!r})"
        return value
    with open(value, encoding="utf-8") as file:
        return file.read()


OPTIONS = (
    Option(
        "warmup",
        None,
        _warmup_code,
        "auto|FILE_OR_CODE",
        "Python code, or a file of it, that runs at kernel start; its names are there in the "
        "first cell, and again after a restart; auto imports ahead, without names, what the "
        "notebook's cells have imported of installed packages",
    ),
    Option(
        "spares",
        None,
        _spares,
        "auto|N",
        "how many warm workers stand ready to take over at once when one dies or is restarted; "
        "auto is one where workers can be forked, and none where they cannot",
    ),
    Option(
        "start-method",
        "auto",
        _start_method,
        "auto|fork|spawn",
        "how workers are made: forked from a template that has run the warmup, which takes "
        "milliseconds, or each by itself; auto forks where that is safe",
    ),
    Option(
        "template-linger",
        30.0,
        _seconds,
        "SECONDS",
        "how long the template that your kernels share stays when the last of them has ended",
    ),
    Option(
        "on-crash",
        "auto",
        _one_of("auto", "respawn", "exit"),
        "auto|respawn|exit",
        "what a crash does to the kernel: respawn goes on with a fresh worker, exit ends it, auto "
        "ends it where the client takes no input, as nbclient's and papermill's do",
    ),
    Option(
        "subshells",
        False,
        _yes_or_no,
        "true|false",
        "whether front ends may create subshells (JEP 91): threads that run cells, complete and "
        "serve widgets while the main shell runs a cell",
    ),
    Option(
        "memory-limit",
        None,
        parse_size,
        "SIZE",
        "memory that a cell's process and its children may have together, like 4G; a cell that "
        "passes it is interrupted by MemoryLimitExceeded",
    ),
    Option(
        "memory-hard-limit",
        None,
        parse_size,
        "SIZE",
        "memory at which the process is killed; unless given, a quarter above --memory-limit, and "
        "at least 512M",
    ),
    Option(
        "autocheckpoint",
        False,
        _yes_or_no,
        "true|false",
        "whether the state is kept after each cell, as %autocheckpoint on does: a crash then costs "
        "no more than the cell that it came in",
    ),
    Option(
        "checkpoint-memory",
        None,
        parse_size,
        "SIZE",
        "memory that checkpoints may take, by their share of it; unless given, a quarter of what "
        "is free when one is taken",
    ),
    Option(
        "cell-timeout",
        None,
        parse_time,
        "TIME",
        "how long a cell may run, like 90s or 10m; then it is interrupted by CellTimeout, and its "
        "process is killed if it ignores that",
    ),
    Option(
        "output-limit",
        None,
        parse_size,
        "SIZE",
        "characters that a cell may print, like 10M; what is between the first and the last half "
        "of that is counted and left out",
    ),
    Option(
        "output-folder",
        "",
        str,
        "FOLDER",
        "where the whole text of a cell above its output limit is written to",
    ),
    Option(
        "interrupt-timeout",
        None,
        parse_time,
        "TIME",
        "how long a cell may run on after an interrupt before its process is killed; without it, "
        "only a third interrupt kills it",
    ),
    Option(
        "folder-config",
        False,
        _yes_or_no,
        "true|false",
        f"whether a {CONFIG_NAME} in the folder where the kernel starts counts too; it decides "
        "what runs, so allow it only where you trust whoever sends you notebooks",
    ),
)
"""All options that can be set in each of the four places."""

_BY_NAME = {option.name: option for option in OPTIONS}
_CONNECTION_FLAGS = ("-f", "--f", "--IPKernelApp.connection_file", "--connection-file")


class Options:
    """What is in force.

    Attributes:
        connection_file: Path of the connection file; empty for a new one of our own.
        ipython: Arguments that are not ours.
        warmup: Code to run when the kernel starts; None for none, ``AUTO`` before ``recall``.
        spares: How many warm workers stand ready for restarts; None for what costs little.
        start_method: How workers are made: ``auto``, ``fork`` or ``spawn``.
        template_linger: Seconds that the shared template stays without a kernel.
        on_crash: ``respawn``, ``exit`` or ``auto``.
        subshells: Whether front ends may create subshells.
        autocheckpoint: Whether the state is kept after each cell.
        checkpoint_memory: Bytes that checkpoints may take; None for a part of what is free.
        memory_limit: Bytes; likewise the next. None for no limit, here and in what follows.
        memory_hard_limit: Bytes.
        cell_timeout: Seconds.
        output_limit: Characters.
        output_folder: Where whole outputs go to; empty for nowhere.
        interrupt_timeout: Seconds.
        folder_config: Whether a config file beside the notebook counts.
        origin: Option's name → where its value comes from.
        notices: What is wrong with values that are therefore not in force, a line each.
        learned: What the notebook has imported, with the warmup ``auto``.
    """

    warmup: str | None
    spares: int | None
    start_method: str
    template_linger: float
    on_crash: str
    subshells: bool
    autocheckpoint: bool
    checkpoint_memory: int | None
    memory_limit: int | None
    memory_hard_limit: int | None
    cell_timeout: float | None
    output_limit: int | None
    output_folder: str
    interrupt_timeout: float | None
    folder_config: bool

    def __init__(self) -> None:
        self.connection_file = ""
        self.ipython: list[str] = []
        self.origin: dict[str, str] = {}
        self.notices: list[str] = []
        self.learned: LearnedImports | None = None
        for option in OPTIONS:
            setattr(self, option.attribute, option.default)
            self.origin[option.name] = _DEFAULT

    def recall(self, former: LearnedImports | None = None) -> None:
        """Where the warmup is learned: take what this notebook has imported for it.

        Args:
            former: What the kernel knew before it was restarted.
        """
        if self.warmup != AUTO:
            return
        from pyrepl_kernel.kernel.learned import LearnedImports  # others pay nothing for it

        learned = LearnedImports.of(os.environ)
        if former is not None and former.notebook == learned.notebook:
            learned = former
        self.learned = learned
        self.warmup = learned.warmup
        self.notices += learned.take_notices()

    def take(self, option: Option, text: str, origin: str) -> None:
        """Put a value in force; one that makes no sense becomes a notice."""
        try:
            value = option.read(text)
        except (ValueError, OSError) as error:
            self.notices.append(f"{origin}: {option.name} is {text!r}; {error}; it is ignored")
            return
        setattr(self, option.attribute, value)
        self.origin[option.name] = origin


def parse(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Options:
    """Read the command line, the environment, and the config files.

    Args:
        arguments: Without the program's name.
        environ: The environment; this process's when not given.

    Raises:
        UsageError: The last argument lacks its value.
    """
    environ = os.environ if environ is None else environ
    files = config_files(environ)
    options = _parse(arguments, environ, files)
    if options.folder_config:
        options = _parse(arguments, environ, [os.path.abspath(CONFIG_NAME), *files])
    return options


def _parse(arguments: Sequence[str], environ: Mapping[str, str], files: list[str]) -> Options:
    options = Options()
    for path in reversed(files):
        _take_file(options, path)
    for option in OPTIONS:
        if text := environ.get(option.variable, ""):
            options.take(option, text, option.variable)
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.partition("=")
        known = _BY_NAME.get(name[2:]) if name.startswith("--") else None
        if known is None and name not in _CONNECTION_FLAGS:
            options.ipython.append(argument)
            continue
        if not has_value:
            if known is not None and known.read is _yes_or_no:
                if not rest or rest[0].lower() not in _WORDS:
                    rest.insert(0, "true")  # a flag alone
            elif not rest:
                raise UsageError(f"{name} needs a value")
            value = rest.pop(0)
        if known is None:
            options.connection_file = value
        else:
            options.take(known, value, "the command line")
    return options


# ------------------------------------------------------------------- the files


def config_files(environ: Mapping[str, str]) -> list[str]:
    """Where config files are looked for, whether they exist or not; the first counts most.

    These are Jupyter's config directories: the user's, the environment's, the system's. A
    notebook's own folder is none of them: what lies beside a notebook that somebody sent must not
    decide what runs.
    """
    home = environ.get("JUPYTER_CONFIG_DIR") or os.path.join(os.path.expanduser("~"), ".jupyter")
    more = [path for path in environ.get("JUPYTER_CONFIG_PATH", "").split(os.pathsep) if path]
    places = [home, *more, os.path.join(sys.prefix, "etc", "jupyter"), "/etc/jupyter"]
    if environ.get("JUPYTER_NO_CONFIG"):
        places = []
    return [os.path.join(place, CONFIG_NAME) for place in dict.fromkeys(places)]


def _take_file(options: Options, path: str) -> None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        options.notices.append(f"{path} cannot be read: {error.strerror or error}")
        return
    import tomllib  # only those pay for it who have such a file

    try:
        values = tomllib.loads(data.decode("utf-8"))
    except ValueError as error:
        options.notices.append(f"{path} is no TOML file, and nothing of it is in force: {error}")
        return
    for key, value in values.items():
        option = _BY_NAME.get(key.replace("_", "-"))
        if option is None:
            known = ", ".join(sorted(known.attribute for known in OPTIONS))
            options.notices.append(f"{path}: there is no option {key!r}; there are {known}")
        else:
            options.take(option, _text_of(value, os.path.dirname(path), option), path)


def _text_of(value: object, folder: str, option: Option) -> str:
    """A TOML value as the command line would have it; files are named from where it stands."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if option.name == "warmup" and isinstance(value, str):
        beside = os.path.join(folder, os.path.expanduser(value))
        if "\n" not in value and os.path.isfile(beside):
            return beside
    return str(value)
