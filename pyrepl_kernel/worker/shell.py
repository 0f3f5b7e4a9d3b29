"""IPython's shell as ipykernel's users and their libraries know it, over our protocol."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from subprocess import CalledProcessError
from typing import Any

from IPython.core import page
from IPython.core.autocall import ZMQExitAutocall
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
from IPython.core.usage import default_banner
from IPython.utils.process import system
from traitlets import Any as AnyTrait
from traitlets import CBool, Instance, Type, default

from pyrepl_kernel.errors import FrameTooLarge
from pyrepl_kernel.protocol.messages import DisplayMessage, ErrorMessage
from pyrepl_kernel.worker.history import LazyHistory
from pyrepl_kernel.worker.hooks import Hooked
from pyrepl_kernel.worker.interrupts import user_part
from pyrepl_kernel.worker.murmur import murmur2
from pyrepl_kernel.worker.parent import FollowsParent, Parent, current_execution

__all__ = ["CELL_HASH_SEED", "Compiler", "ZMQInteractiveShell", "cell_directory", "text_of"]

CELL_HASH_SEED = 0xC70F6907
"""Seed of the hash in a cell's file name, as front ends' debuggers compute it."""

Send = Callable[..., None]


def _trait(default_value: Any = None) -> Any:
    """A traitlet that type checkers take for the value it holds."""
    return AnyTrait(default_value)


def text_of(error: BaseException | None) -> str:
    """An exception's text, whatever its class makes of ``str``."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def cell_directory() -> str:
    """Where cells pretend to lie: the directory part of their file names."""
    return os.path.join(tempfile.gettempdir(), f"ipykernel_{os.getpid()}")


class Compiler(CachingCompiler):
    """Names cells as ipykernel does, and can keep a cell's source out of linecache."""

    keeps_source = True

    def get_code_name(self, raw_code: str, code: str, number: int) -> str:
        """A file name for a cell, the same whenever its source is the same."""
        name = os.environ.get("IPYKERNEL_CELL_NAME")
        if name is not None:
            return name
        return os.path.join(cell_directory(), f"{murmur2(raw_code, CELL_HASH_SEED)}.py")

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """Remember a cell's source under its name, unless it is not to be kept."""
        if self.keeps_source:
            return str(super().cache(transformed_code, number, raw_code))
        return f"<hidden cell {murmur2(transformed_code, CELL_HASH_SEED)}>"


class CellDisplayPublisher(FollowsParent, Hooked, DisplayPublisher):
    """Sends ``display()`` to the session."""

    send: Send = _trait()

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        """Publish a mime bundle, or an update of one."""
        metadata = {} if metadata is None else metadata
        transient = {} if transient is None else transient
        self._validate_data(data, metadata)
        if self._has_hooks:
            content = {"data": data, "metadata": metadata, "transient": transient}
            self._send_through_hooks("update_display_data" if update else "display_data", content)
            return
        self.send(
            DisplayMessage(
                "update" if update else "display",
                data,
                metadata,
                transient,
                execution_id=current_execution(),
            )
        )

    def clear_output(self, wait: bool = False) -> None:
        """Clear the cell's output."""
        if self._has_hooks:
            self._send_through_hooks("clear_output", {"wait": bool(wait)})
            return
        self.send(DisplayMessage("clear", wait=bool(wait), execution_id=current_execution()))


class CellDisplayHook(FollowsParent, Hooked, DisplayHook):
    """Sends the value of a cell's last expression to the session."""

    send: Send = _trait()
    is_formatting = False

    def start_displayhook(self) -> None:
        """A value is about to be formatted."""
        self._bundle: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self.is_formatting = True

    def write_output_prompt(self) -> None:
        """The prompt is the front end's."""

    def write_format_data(
        self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None
    ) -> None:
        """Keep the formatted value."""
        self._bundle = (format_dict, md_dict or {})

    def finish_displayhook(self) -> None:
        """Send it, if it has any form at all."""
        self.is_formatting = False
        data, metadata = self._bundle
        if data and self._has_hooks:
            content = {
                "data": data,
                "metadata": metadata,
                "execution_count": self.prompt_count,
            }
            self._send_through_hooks("execute_result", content)
        elif data:
            self.send(
                DisplayMessage(
                    "result",
                    data,
                    metadata,
                    execution_count=self.prompt_count,
                    execution_id=current_execution(),
                )
            )


class ZMQInteractiveShell(FollowsParent, InteractiveShell):
    """The shell. Its name is a contract: libraries look at it to tell a notebook."""

    displayhook_class = Type(CellDisplayHook)
    display_pub_class = Type(CellDisplayPublisher)
    compiler_class = Type(Compiler)
    exiter = Instance(ZMQExitAutocall)
    kernel: Any = _trait()
    send: Send = _trait()
    readline_use = CBool(False)
    autoindent = CBool(False)
    keepkernel_on_exit: bool | None = None
    connection_file = ""
    """Path of the connection file; empty outside Jupyter."""
    session_name = ""
    """The session id of the Jupyter messages that stand for this worker's output."""
    make_kernel: Callable[[], Any] = _trait()
    """Makes what ``kernel`` is, when somebody asks for it."""

    @default("kernel")
    def _default_kernel(self) -> Any:
        return self.make_kernel()

    @default("banner1")
    def _default_banner1(self) -> str:
        return str(default_banner)

    @default("exiter")
    def _default_exiter(self) -> ZMQExitAutocall:
        return ZMQExitAutocall(self)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.display_pub.send = self.send
        self.displayhook.send = self.send
        self.before_code: Callable[[], None] = lambda: None
        self._last_traceback: list[str] | None = None
        self.failed_display = False

    # -------------------------------------------------------- IPython's stages

    def init_history(self) -> None:
        """History with a database that opens later."""
        self.history_manager = LazyHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_environment(self) -> None:
        """Colours for child processes that know them, and no pagers."""
        os.environ.update(
            TERM="xterm-color",
            CLICOLOR="1",
            FORCE_COLOR="1",
            CLICOLOR_FORCE="1",
            PAGER="cat",
            GIT_PAGER="cat",
        )

    def init_hooks(self) -> None:
        """Let pagers be the front end's."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(self.payloadpage_page), 99)

    def init_virtualenv(self) -> None:
        """A kernel runs in the environment that it is installed in."""

    def init_magics(self) -> None:
        """IPython's magics, and ours in place of those that need a terminal."""
        super().init_magics()
        from pyrepl_kernel.worker.magics import KernelMagics

        self.register_magics(KernelMagics)
        self.magics_manager.register_alias("ed", "edit")

    def enable_gui(self, gui: str | None = None) -> None:
        """Accept what needs no event loop of its own.

        Raises:
            UsageError: The toolkit needs one, which this kernel does not run.
        """
        if gui not in (None, "inline", "asyncio"):
            raise UsageError(
                f"This kernel does not run the event loop of {gui!r}; "
                "use %matplotlib inline or %matplotlib widget"
            )
        self.active_eventloop = gui

    # ------------------------------------------------- what goes to the session

    def payloadpage_page(
        self,
        strg: str | dict[str, Any],
        start: int = 0,
        screen_lines: int = 0,
        pager_cmd: Any = None,
    ) -> None:
        """Show something in the front end's pager."""
        data = strg if isinstance(strg, dict) else {"text/plain": strg}
        self.payload_manager.write_payload({"source": "page", "data": data, "start": max(0, start)})

    def ask_exit(self) -> None:
        """``exit`` or ``quit`` in a cell."""
        self.exit_now = not self.keepkernel_on_exit
        self.payload_manager.write_payload(
            {"source": "ask_exit", "keepkernel": self.keepkernel_on_exit}
        )

    def set_next_input(self, text: str, replace: bool = False) -> None:
        """Offer a text as the next input cell."""
        self.payload_manager.write_payload(
            {"source": "set_next_input", "text": text, "replace": replace}
        )

    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        """As in IPython; the last traceback is the last cell's."""
        self._last_traceback = None
        self.failed_display = False
        return super().run_cell(*args, **kwargs)

    async def run_code(self, *args: Any, **kwargs: Any) -> Any:
        """As in IPython; from here on the user's own code runs."""
        self.before_code()
        return await super().run_code(*args, **kwargs)

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        etype, value, traceback = super()._get_exc_info(exc_tuple)
        if etype is KeyboardInterrupt:
            traceback = user_part(traceback)
        return etype, value, traceback

    def _showtraceback(self, etype: type[BaseException], evalue: Any, stb: list[str]) -> None:
        if self.displayhook.is_formatting:
            # The value of a cell that cannot be shown fails the cell.
            self.failed_display = True
        self._last_traceback = stb
        name, text = etype.__name__, text_of(evalue)
        try:
            self.send(ErrorMessage(name, text, list(stb), execution_id=current_execution()))
        except FrameTooLarge as error:
            self._last_traceback = [
                f"{name}: {text[:1000]}...",
                f"The traceback is too long: {error}",
            ]
            self.send(
                ErrorMessage(
                    name, text[:1000], self._last_traceback, execution_id=current_execution()
                )
            )

    @property
    def parent_header(self) -> Parent:
        """The Jupyter message that the current output refers to; here not only its header."""
        return current_execution.parent

    @parent_header.setter
    def parent_header(self, parent: Parent) -> None:
        self.set_parent(parent)

    def get_parent(self) -> Parent:
        """The Jupyter message that the current output refers to."""
        return current_execution.parent

    def system_piped(self, cmd: str) -> None:
        """Run a command; its output goes where a cell's output goes.

        Raises:
            OSError: The command asks to run in the background.
            CalledProcessError: It failed, and ``system_raise_on_error`` is set.
        """
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        code = system(self.var_expand(cmd, depth=1))
        self.user_ns["_exit_code"] = code
        if getattr(self, "system_raise_on_error", False) and code != 0:
            raise CalledProcessError(code, cmd)

    system = system_piped


InteractiveShellABC.register(ZMQInteractiveShell)

# The name under which user code compares and prints the class.
ZMQInteractiveShell.__module__ = "ipykernel.zmqshell"
