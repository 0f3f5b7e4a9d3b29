"""Magics that mean something else in a notebook than in a terminal."""

from __future__ import annotations

import os
import shlex
import threading
from pathlib import Path
from typing import Any

from IPython.core.display import Javascript
from IPython.core.display_functions import display
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class

from pyrepl_kernel.protocol.messages import LimitMessage, StatusMessage
from pyrepl_kernel.protocol.units import parse_size, parse_time
from pyrepl_kernel.worker.parent import current_execution

__all__ = ["KernelMagics"]


def limit_changes(text: str) -> dict[str, Any]:
    """The changes of limits that a ``%limit`` line asks for.

    Raises:
        UsageError: It makes no sense.
    """
    words = shlex.split(text)
    if not words:
        return {}
    name, values = words[0], words[1:]
    most = 2 if name in ("memory", "output") else 1
    if name not in ("memory", "time", "output", "interrupt") or not 1 <= len(values) <= most:
        raise UsageError(
            "%limit takes memory SIZE [SIZE], time SECONDS, output SIZE [FOLDER] or "
            "interrupt SECONDS; without anything it shows the limits"
        )
    value, more = values[0], values[1:]
    try:
        if name == "memory":
            return {"memory": parse_size(value), "memory_hard": parse_size((more or ["none"])[0])}
        if name == "output":
            folder = os.path.abspath(os.path.expanduser(more[0])) if more else ""
            return {"output": parse_size(value), "output_folder": folder}
        return {"time" if name == "time" else "interrupt_timeout": parse_time(value)}
    except ValueError as error:
        raise UsageError(f"%limit {name}: {value!r} is not understood: {error}") from None


@magics_class
class KernelMagics(Magics):
    """Magics of a notebook's kernel."""

    @line_magic
    def edit(self, parameter_s: str = "", last_call: list[str] | None = None) -> None:
        """Open a file, an object's source or a piece of history in the front end's editor.

        The file is not run when the editor closes: nobody tells the kernel that it did.

        Usage: %edit [-n LINE] [-p] [-r] [FILE | NAME | HISTORY RANGE]
        """
        from IPython.core.magics.code import CodeMagics, MacroToEdit

        options, args = self.parse_options(parameter_s, "prn:")
        try:
            target = CodeMagics._find_edit_target(self.shell, args, options, last_call or ["", ""])
        except MacroToEdit:
            print("Macros cannot be edited from a notebook.")
            return
        filename, line, _ = target
        self.shell.payload_manager.write_payload(
            {
                "source": "edit_magic",
                "filename": str(Path(filename).resolve()),
                "line_number": line,
            }
        )

    @line_magic
    def clear(self, arg_s: str) -> None:
        """Clear the terminal."""
        self.shell.system("clear")

    @line_magic
    def less(self, arg_s: str) -> None:
        """Show a file through the pager; Python files are coloured."""
        from IPython.core import page
        from IPython.utils import openpy

        if not arg_s:
            raise UsageError("Missing filename.")
        path = os.path.expanduser(arg_s)
        if path.endswith(".py"):
            text = self.shell.pycolorize(openpy.read_py_file(path, skip_encoding_cookie=False))
        else:
            with open(path) as file:
                text = file.read()
        page.page(text)

    more = line_magic("more")(less)

    @line_magic
    def man(self, arg_s: str) -> None:
        """Find a manual page and show it through the pager."""
        from IPython.core import page
        from IPython.utils.process import getoutput

        page.page(getoutput(f"man {arg_s} | col -b"))

    @line_magic
    def connect_info(self, arg_s: str) -> None:
        """Say how another client connects to this kernel."""
        path = self.shell.connection_file
        if not path:
            print("This session has no connection file.")
            return
        name = Path(path).name
        print(Path(path).read_text())
        print(
            f"Another client connects to this kernel with\n"
            f"    $> jupyter <app> --existing {name}\n"
            f"or, where it runs on another machine, with a copy of the file\n"
            f"    {path}"
        )

    @line_magic
    def qtconsole(self, arg_s: str) -> None:
        """Open a qtconsole that is connected to this kernel; arguments are passed on to it."""
        import subprocess
        import sys

        command = [sys.executable, "-m", "jupyter", "qtconsole"]
        command += ["--existing", self.shell.connection_file, *shlex.split(arg_s)]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    @line_magic
    def subshell(self, arg_s: str) -> None:
        """Say which subshells there are, and in which one this is."""
        kernel = self.shell.kernel
        if not kernel._supports_kernel_subshells:
            print("Kernel does not support subshells")
            return
        thread = threading.current_thread()
        own = kernel.subshell_id or ("unknown" if thread is not threading.main_thread() else None)
        print(f"subshell id: {own}")
        print(f"thread id: {thread.ident}")
        print(f"main thread id: {threading.main_thread().ident}")
        print(f"pid: {os.getpid()}")
        print(f"thread count: {threading.active_count()}")
        print(f"subshell list: {kernel.subshell_ids}")

    @line_magic
    def limit(self, arg_s: str) -> None:
        """Show what cells may use, or change it for this cell and those that follow.

        Usage:
            %limit                    show all limits, and the memory in use
            %limit memory 4G [5G]     interrupt a cell at 4G; kill its process at 5G
            %limit time 10m           interrupt a cell that runs for longer
            %limit output 10M [DIR]   leave out the middle of longer output; DIR gets the whole
            %limit interrupt 30s      kill a process that ignores an interrupt for so long

        ``none`` takes a limit away.
        """
        self.shell.send(LimitMessage(limit_changes(arg_s), execution_id=current_execution()))

    @line_magic
    def kernel(self, arg_s: str) -> None:
        """Show this kernel: its processes and their memory, how workers are made, deaths."""
        if arg_s.strip():
            raise UsageError("%kernel takes no arguments")
        self.shell.send(StatusMessage(execution_id=current_execution()))

    @line_magic
    def autosave(self, arg_s: str) -> None:
        """Set the front end's autosave interval in seconds; 0 turns it off."""
        try:
            interval = int(arg_s)
        except ValueError as error:
            raise UsageError(f"%autosave requires an integer, got {arg_s!r}") from error
        script = f"IPython.notebook.set_autosave_interval({1000 * interval})"
        display(Javascript(script), include=["application/javascript"])
        print(f"Autosaving every {interval} seconds" if interval else "Autosave disabled")
