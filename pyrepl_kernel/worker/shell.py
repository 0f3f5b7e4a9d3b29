"""IPython's shell as ipykernel's users and their libraries know it, over our protocol."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from subprocess import CalledProcessError
from typing import Any, Literal

from IPython.core import page
from IPython.core.autocall import ZMQExitAutocall
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.history import HistoryOutput
from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
from IPython.core.usage import default_banner
from IPython.utils.process import system
from traitlets import Any as AnyTrait
from traitlets import CBool, Instance, Type, default

from pyrepl_kernel.errors import FrameTooLarge
from pyrepl_kernel.protocol.cell_names import CELL_HASH_SEED, cell_hash
from pyrepl_kernel.protocol.messages import DisplayMessage, ErrorMessage
from pyrepl_kernel.worker.capture import OutStream, Recording
from pyrepl_kernel.worker.formatting import quicken_formatters
from pyrepl_kernel.worker.history import LazyHistory
from pyrepl_kernel.worker.hooks import Hooked
from pyrepl_kernel.worker.interrupts import user_part
from pyrepl_kernel.worker.parent import FollowsParent, Parent, current_execution
from pyrepl_kernel.worker.transforms import CellTransformer, LinePrefilter

__all__ = [
    "CELL_HASH_SEED",
    "Compiler",
    "ZMQInteractiveShell",
    "cell_directory",
    "of_thread",
    "text_of",
]

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
    return _directory_of(tempfile.gettempdir(), os.getpid())[: -len(os.sep)]


@lru_cache(maxsize=2)
def _directory_of(temporary: str, pid: int) -> str:
    return os.path.join(temporary, f"ipykernel_{pid}", "")


class OfThread(threading.local):
    """What each thread that runs cells has of its own, so that subshells do not mix it up.

    Attributes:
        keeps_source: Whether the cell's source goes to linecache.
        before_code: Called when the cell's own code is about to run.
        real_error: Gives the error to show for the one that was raised.
        last_traceback: The traceback that was shown last in this thread.
        failed_display: Whether the cell's value could not be shown.
        is_formatting: Whether a value is being formatted.
        bundle: The formatted value.
        exec_result: What IPython will say of the cell.
        parsed: What was parsed before it is compiled: its source, the compiler's flags, the tree.
    """

    keeps_source = True
    last_traceback: list[str] | None = None
    failed_display = False
    is_formatting = False
    bundle: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    exec_result: Any = None
    parsed: tuple[str, int, Any] | None = None

    def __init__(self) -> None:
        self.before_code: Callable[[], None] = lambda: None
        self.real_error: Callable[[Any], Any] = lambda error: error


of_thread = OfThread()


class Compiler(CachingCompiler):
    """Names cells as ipykernel does, and can keep a cell's source out of linecache."""

    def __init__(self) -> None:
        super().__init__()
        self.is_warmup = False
        """Whether what is compiled is the warmup, which has no number."""
        self._warmups: set[str] = set()

    def get_code_name(self, raw_code: str, code: str, number: int) -> str:
        """A file name for a cell, the same whenever its source is the same."""
        name = os.environ.get("IPYKERNEL_CELL_NAME")
        if name is not None:
            return name
        directory = _directory_of(tempfile.gettempdir(), os.getpid())
        return f"{directory}{cell_hash(raw_code)}.py"

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """Remember a cell's source under its name, unless it is not to be kept."""
        if of_thread.keeps_source:
            name = str(super().cache(transformed_code, number, raw_code))
            if self.is_warmup:
                self._warmups.add(name)
            elif self._warmups:
                self._warmups.discard(name)  # a cell with the same source
            return name
        return f"<hidden cell {cell_hash(transformed_code)}>"

    def parse_ahead(self, source: str) -> bool:
        """Whether a source is Python; if so, the tree is kept for ``ast_parse``."""
        try:
            tree = super().ast_parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
            return False
        of_thread.parsed = (source, self.flags, tree)
        return True

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> Any:
        """The tree of a source, which may have been made a moment ago; each is given once."""
        parsed, of_thread.parsed = of_thread.parsed, None
        if parsed is not None and symbol == "exec" and parsed[:2] == (source, self.flags):
            return parsed[2]
        return super().ast_parse(source, filename, symbol)

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        """What tracebacks call a piece of code: a cell by its number, the warmup by that name."""
        if name in self._warmups:
            return "The", "warmup"
        found: tuple[str, str] | None = super().format_code_name(name)
        return found


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

    @property
    def exec_result(self) -> Any:
        """What IPython will say of this thread's cell."""
        return of_thread.exec_result

    @exec_result.setter
    def exec_result(self, result: Any) -> None:
        of_thread.exec_result = result

    @property
    def prompt_count(self) -> int:
        """The number of this thread's cell."""
        result = of_thread.exec_result
        if result is not None and result.info.store_history and not result.info.silent:
            return int(result.execution_count)
        return int(self.shell.execution_count) - 1

    def start_displayhook(self) -> None:
        """A value is about to be formatted."""
        of_thread.bundle = ({}, {})
        of_thread.is_formatting = True

    def write_output_prompt(self) -> None:
        """The prompt is the front end's."""

    def write_format_data(
        self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None
    ) -> None:
        """Keep the formatted value."""
        of_thread.bundle = (format_dict, md_dict or {})

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Keep it in the history of outputs, after the text that was printed before it."""
        if isinstance(sys.stdout, OutStream):
            sys.stdout.settle()
        super().log_output(format_dict)

    def finish_displayhook(self) -> None:
        """Send it, if it has any form at all."""
        of_thread.is_formatting = False
        data, metadata = of_thread.bundle
        of_thread.bundle = ({}, {})
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
    has_subshells = False
    """Whether front ends may create subshells."""
    session_name = ""
    """The session id of the Jupyter messages that stand for this worker's output."""
    get_checkpoints: Callable[[], Any] = _trait()
    """Gives what takes checkpoints."""
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

    @property
    def _last_traceback(self) -> list[str] | None:
        """The last traceback of this thread's cell, as libraries look for it."""
        return of_thread.last_traceback

    @_last_traceback.setter
    def _last_traceback(self, traceback: list[str] | None) -> None:
        of_thread.last_traceback = traceback

    # -------------------------------------------------------- IPython's stages

    @default("input_transformer_manager")
    def _quick_transformer(self) -> CellTransformer:
        return CellTransformer(self._parse_ahead)

    def _parse_ahead(self, source: str) -> bool:
        compiler = self.compile
        return isinstance(compiler, Compiler) and compiler.parse_ahead(source)

    def init_prefilter(self) -> None:
        """IPython's prefilter, made quicker."""
        self.prefilter_manager = LinePrefilter(shell=self, parent=self)
        self.configurables.append(self.prefilter_manager)
        self.prefilter = self.prefilter_manager.prefilter_lines

    def init_history(self) -> None:
        """History with a database that opens later."""
        self.history_manager = LazyHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_display_formatter(self) -> None:
        """IPython's formatters, made quicker."""
        quicken_formatters()
        super().init_display_formatter()

    def init_environment(self) -> None:
        """The environment is prepared before there is a shell: see ``worker.surroundings``."""

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
        """Let a toolkit's event loop run between cells; None for none.

        Raises:
            UsageError: It cannot run here.
        """
        # What needs no loop is told apart without making the kernel object.
        if gui not in (None, "inline", "asyncio") or "kernel" in self._trait_values:
            from pyrepl_kernel.worker.gui import enable

            enable(self.kernel, gui)
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
        of_thread.last_traceback = None
        of_thread.failed_display = False
        return super().run_cell(*args, **kwargs)

    def should_run_async(self, raw_cell: str, **arguments: Any) -> bool:
        """As in IPython, which compiles each cell to find out, with all warnings a second time."""
        transformed = arguments.get("transformed_cell")
        if transformed is not None and "await" not in transformed and "async" not in transformed:
            return False
        return bool(super().should_run_async(raw_cell, **arguments))

    def _tee(self, channel: Literal["stdout", "stderr"]) -> AbstractContextManager[None]:
        """Keep a cell's text in the history of outputs, from which ``%notebook`` makes a file.

        IPython does so by a wrapper around ``write``, which costs several times what the write
        does, and keeps each piece of it. Here the text is kept as it is sent.
        """
        stream = getattr(sys, channel)
        if not isinstance(stream, OutStream):
            return super()._tee(channel)  # type: ignore[no-any-return]
        outputs, count = self.history_manager.outputs, self.execution_count
        return Recording(stream, partial(_keep_text, outputs, count, _KINDS[channel]))

    async def run_code(self, *args: Any, **kwargs: Any) -> Any:
        """As in IPython; from here on the user's own code runs."""
        of_thread.before_code()
        return await super().run_code(*args, **kwargs)

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        etype, value, traceback = super()._get_exc_info(exc_tuple)
        if (real := of_thread.real_error(value)) is not value:
            etype, value = type(real), real
        if issubclass(etype, KeyboardInterrupt):
            traceback = user_part(traceback)
        return etype, value, traceback

    def _showtraceback(self, etype: type[BaseException], evalue: Any, stb: list[str]) -> None:
        if of_thread.is_formatting:
            # The value of a cell that cannot be shown fails the cell.
            of_thread.failed_display = True
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


def _keep_text(outputs: dict[int, list[HistoryOutput]], count: int, kind: Any, text: str) -> None:
    earlier = outputs[count]
    if earlier and earlier[-1].output_type == kind:
        earlier[-1].bundle["stream"].append(text)
    else:
        earlier.append(HistoryOutput(output_type=kind, bundle={"stream": [text]}))


_KINDS = {"stdout": "out_stream", "stderr": "err_stream"}

InteractiveShellABC.register(ZMQInteractiveShell)

# The name under which user code compares and prints the class.
ZMQInteractiveShell.__module__ = "ipykernel.zmqshell"
