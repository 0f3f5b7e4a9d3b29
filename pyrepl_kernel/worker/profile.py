"""What the user has configured: IPython's profile, config files, startup files, the command line.

Most kernels start with none of it, so this looks for the files first, and imports IPython's
application (``worker/application.py``) only when one is there or an argument asks for it.

Nothing here ends the kernel. What goes wrong is shown with the first cell, on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from IPython.paths import get_ipython_dir

if TYPE_CHECKING:
    from pyrepl_kernel.worker.application import IPKernelApp
    from pyrepl_kernel.worker.interrupts import Interrupts
    from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["Notices", "Profile", "ipython_arguments", "is_configured"]

_CONFIG_FILES = tuple(
    f"{name}.{ending}"
    for name in ("ipython_config", "ipython_kernel_config")
    for ending in ("py", "json")
)
_INTERPRETER_OPTIONS = ("-X", "-W")  # with a value
_INTERPRETER_FLAGS = frozenset("-b -B -d -E -i -I -O -OO -P -q -R -s -S -u -v -x".split())


class Notices:
    """What went wrong before there was a cell to show it with."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """Remember a text."""
        self.texts.append(text.rstrip("\n") + "\n")

    def show_with_first_cell(self, shell: ZMQInteractiveShell) -> None:
        """Print what there is when the first cell begins that is not silent."""
        if not self.texts:
            return

        def show(info: Any) -> None:
            shell.events.unregister("pre_run_cell", show)
            sys.stderr.write("".join(self.texts))

        shell.events.register("pre_run_cell", show)


def ipython_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that are the interpreter's, wherever a launcher has put them."""
    result = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in _INTERPRETER_OPTIONS:
            del rest[:1]
        elif argument.startswith("-") and not argument.startswith(_INTERPRETER_OPTIONS):
            if argument not in _INTERPRETER_FLAGS:
                result.append(argument)
                if "=" not in argument and rest and not rest[0].startswith("-"):
                    result.append(rest.pop(0))
    return result


def is_configured(arguments: Sequence[str]) -> bool:
    """Whether there is anything to load or to run."""
    if arguments or os.environ.get("PYTHONSTARTUP"):
        return True
    directories = [
        os.path.join(get_ipython_dir(), "profile_default"),
        os.path.join(sys.prefix, "etc", "ipython"),
        "/usr/local/etc/ipython",
        "/etc/ipython",
    ]
    for directory in directories:
        if any(os.path.exists(os.path.join(directory, name)) for name in _CONFIG_FILES):
            return True
        try:
            names = os.listdir(os.path.join(directory, "startup"))
        except OSError:
            continue
        if any(name.endswith((".py", ".ipy")) for name in names):
            return True
    return False


class Profile:
    """The user's configuration, or none.

    Args:
        arguments: The kernel's arguments that are not its own; None to load nothing at all.

    Attributes:
        notices: What went wrong.
        traits: What the shell is to be made with; if it cannot, the next; and at last nothing.
    """

    def __init__(self, arguments: Sequence[str] | None) -> None:
        self.notices = Notices()
        self.traits: list[dict[str, Any]] = []
        self._app: IPKernelApp | None = None
        if arguments is None:
            return
        wanted = ipython_arguments(arguments)
        if not is_configured(wanted):
            return
        try:
            from pyrepl_kernel.worker.application import load

            self._app = load(wanted, self.notices)
            self.traits = self._app.shell_traits()
        except Exception as error:
            self.notices.add(f"IPython's configuration cannot be used: {_text(error)}")
            self._app = None

    def make_shell(self, cls: type[ZMQInteractiveShell], **traits: Any) -> ZMQInteractiveShell:
        """Make the shell as configured; without the configuration if it cannot be made so."""
        for configured in self.traits:
            try:
                shell: ZMQInteractiveShell = cls.instance(**configured, **traits)
                return shell
            except Exception as error:
                cls.clear_instance()
                self.notices.add(f"IPython cannot be configured as it was asked: {_text(error)}")
        shell = cls.instance(**traits)
        return shell

    def run(self, shell: ZMQInteractiveShell, interrupts: Interrupts) -> None:
        """Run what is to be run before the first cell: extensions, startup files, lines of code."""
        if self._app is not None:
            try:
                interrupts.begin()
                self._app.run(shell, self.notices)
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                self.notices.add(f"what is configured to run at the start ended: {_text(error)}")
            finally:
                interrupts.is_listening = False  # no call, as in the executor
                interrupts.install()
        self.notices.show_with_first_cell(shell)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
