"""IPython's application, as far as a worker needs it: it reads the configuration, and runs it.

Imported only when something is configured. Its name is that of ipykernel's application, since
that is what config files call it: ``c.IPKernelApp.exec_lines``.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, suppress
from copy import deepcopy
from typing import Any

from IPython.core.application import BaseIPythonApplication, base_aliases, base_flags
from IPython.core.profiledir import ProfileDir
from IPython.core.shellapp import InteractiveShellApp, shell_aliases, shell_flags
from traitlets import Any as AnyTrait
from traitlets import TraitError
from traitlets.config import Config, Configurable
from traitlets.config.loader import (
    DeferredConfig,
    KVArgParseConfigLoader,
    LazyConfigValue,
)

from pyrepl_kernel.worker.profile import Notices
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["IPKernelApp", "load"]

_TAKEN = frozenset(
    """
    ip hb_port shell_port iopub_port stdin_port control_port connection_file transport kernel_name
    kernel_class connection_dir no_stdout no_stderr trio_loop quiet outstream_class
    displayhook_class capture_fd_output parent_handle interrupt
    """.split()
)
"""Options of ipykernel's application that are the kernel process's affair here, or nobody's."""

_ALIASES = {
    **base_aliases,
    **{name: f"IPKernelApp.{name}_port" for name in ("hb", "shell", "iopub", "stdin", "control")},
    "ip": "IPKernelApp.ip",
    "f": "IPKernelApp.connection_file",
    "transport": "IPKernelApp.transport",
    **shell_aliases,
    "ident": "Session.session",
    "user": "Session.username",
    "keyfile": "Session.keyfile",
}
_FLAGS = {
    **base_flags,
    **shell_flags,
    "no-stdout": ({"IPKernelApp": {"no_stdout": True}}, ""),
    "no-stderr": ({"IPKernelApp": {"no_stderr": True}}, ""),
    "pylab": ({"IPKernelApp": {"pylab": "auto"}}, ""),
    "trio-loop": ({"IPKernelApp": {"trio_loop": True}}, ""),
    "secure": ({"Session": {}}, ""),
    "no-secure": ({"Session": {}}, ""),
}


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SILENT = logging.Logger("arguments", logging.CRITICAL + 1)


class _Stop(Exception):
    """The application would have ended the process."""


class _ToNotices(logging.Handler):
    def __init__(self, notices: Notices) -> None:
        super().__init__(logging.WARNING)
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        self._notices.add(self.format(record))


class IPKernelApp(BaseIPythonApplication, InteractiveShellApp):
    """Reads IPython's configuration for a kernel."""

    name = "ipython-kernel"
    aliases = _ALIASES
    flags = _FLAGS
    classes = [ZMQInteractiveShell, ProfileDir]  # noqa: RUF012  # as the base class has it
    wants_trio = False
    arguments = Config()

    # Taken, so that nobody is warned of them.
    for _name in _TAKEN:
        locals()[_name] = AnyTrait().tag(config=True)

    def _configure_logging(self) -> None:
        """It logs to the notices, whatever the log level."""

    def exit(self, exit_status: int | str | None = 0) -> None:
        """Raise instead of ending the process."""
        raise _Stop(str(exit_status))

    def read(self, arguments: Sequence[str], notices: Notices) -> None:
        """Read the command line and the config files; the former wins."""
        self.arguments = self.parse(arguments, notices)
        drop_nonsense(self.arguments, notices)
        self.update_config(self.arguments)
        self.open_profile(notices)
        self.init_config_files()
        self.load_config_file(suppress_errors=True)
        drop_nonsense(self.config, notices)
        self._load_config(self.config)
        self.update_config(self.arguments)
        own = self.config.get("IPKernelApp", {})
        self.wants_trio = str(own.get("trio_loop", "")).lower() in {"true", "1"}

    def parse(self, arguments: Sequence[str], notices: Notices) -> Config:
        """The command line as a configuration.

        If it cannot be read as a whole, each argument is read for itself, and those that cannot
        be are left out. An unknown one is no mistake: launchers add arguments for other kernels.
        """
        flags, aliases = self.flatten_flags()
        classes = list(self._classes_with_config_traits())

        def read(some: Sequence[str]) -> Config:
            loader = KVArgParseConfigLoader(
                list(some), aliases, flags, classes=classes, log=_SILENT
            )
            with redirect_stderr(io.StringIO()) as said:
                try:
                    return deepcopy(loader.load_config())
                except SystemExit:
                    text = _COLOURS.sub("", said.getvalue())  # of newer Pythons
                    raise ValueError(text.partition("error: ")[2].strip()) from None

        try:
            return read(arguments)
        except Exception:
            config = Config()
        for argument in _one_by_one(arguments):
            try:
                config.merge(read(argument))
            except Exception as error:
                if argument[0].lstrip("-").partition("=")[0] in aliases:
                    notices.add(f"The argument {' '.join(argument)!r} is ignored: {error}")
        return config

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """As in the base class; options that make no sense do not count."""
        try:
            super().load_config_file(*args, **kwargs)
        except TraitError as error:
            self.log.warning("%s", error)

    def open_profile(self, notices: Notices) -> None:
        """Find the profile's directory; the default one if there is no such profile."""
        with suppress(OSError):
            os.makedirs(self.ipython_dir, exist_ok=True)
        try:
            self.init_profile_dir()
        except _Stop:
            notices.add("The default profile is used.")
            self._in_init_profile_dir = False
            self.config.pop("ProfileDir", None)
            self.profile = "default"
            self.init_profile_dir()

    def shell_traits(self) -> list[dict[str, Any]]:
        """What the shell is to be made with; if it cannot, the next: without the command line."""
        places = {"profile_dir": self.profile_dir, "ipython_dir": self.ipython_dir}
        files = deepcopy(self.config)
        for name in self.arguments:
            files.pop(name, None)
        return [{"config": config, **places} for config in (self.config, files)]

    def run(self, shell: ZMQInteractiveShell, notices: Notices) -> None:
        """Run what is configured to run before the first cell."""
        self.shell = shell
        shell.configurables.append(self)

        def show(etype: type[BaseException], evalue: Any, stb: list[str]) -> None:
            notices.add(shell.InteractiveTB.stb2text(stb))

        # An error message that belongs to no cell would be seen by nobody.
        shell._showtraceback = show  # type: ignore[method-assign]
        try:
            if self.wants_trio:
                shell.loop_runner = "trio"
                shell.autoawait = True
            self.init_gui_pylab()
            self.init_extensions()
            self.init_code()
        finally:
            del shell._showtraceback
            shell.payload_manager.clear_payload()
            shell.exit_now = False


def load(arguments: Sequence[str], notices: Notices) -> IPKernelApp:
    """Read all configuration."""
    log = logging.Logger("pyrepl_kernel.worker.profile")
    log.addHandler(_ToNotices(notices))
    app = IPKernelApp(log=log)
    app.read(arguments, notices)
    return app


def _one_by_one(arguments: Sequence[str]) -> Iterator[list[str]]:
    rest = list(arguments)
    while rest:
        argument = [rest.pop(0)]
        if rest and not rest[0].startswith("-"):
            argument.append(rest.pop(0))
        yield argument


def drop_nonsense(config: Config, notices: Notices) -> None:
    """Take out of a configuration the values that their options do not accept."""
    known = {cls.__name__: cls for cls in _configurables(Configurable)}
    for name, section in list(config.items()):
        cls = known.get(name)
        if cls is None or not isinstance(section, Config):
            continue
        traits = cls.class_traits(config=True)
        for key, value in list(section.items()):
            if key in traits and (problem := _problem(traits[key], value)):
                notices.add(f"The option {name}.{key} is ignored: {problem}")
                del section[key]


def _configurables(cls: type[Configurable]) -> Iterator[type[Configurable]]:
    # The application's own class last: ipykernel's may have been imported meanwhile.
    yield cls
    for sub in cls.__subclasses__():
        yield from _configurables(sub)
    if cls is Configurable:
        yield IPKernelApp


def _problem(trait: Any, value: Any) -> str:
    """Why a trait does not accept a value; empty if it does, or if that shows only later."""
    if isinstance(value, LazyConfigValue):
        return ""
    try:
        if isinstance(value, DeferredConfig):
            value = value.get_value(trait)
        if value is None and trait.allow_none:
            return ""
        trait.validate(None, value)
    except (TraitError, ValueError) as error:
        return str(error)
    except Exception:
        return ""  # some traits need the object that they belong to; it will say
    return ""
