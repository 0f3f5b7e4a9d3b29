"""Event loops of GUI toolkits: where the main thread is between cells once ``%gui`` is on.

    Worker ──▶ GuiLoop.run ──▶ kernel.eventloop(kernel): Qt, Tk, …, or the user's own
                                    │  waits for kernel.shell_stream.getsockopt(zmq.FD)
                                    ▼
               ShellStream.flush: takes the session's messages in, lets asyncio go on,
                                  and says whether there is something to return for

The functions are those of ``ipykernel.eventloops``, and what users and libraries register there. It
is imported when a cell asks for such a loop. For Tk there is one here, which needs no window of its
own for each wait.

asyncio's loop stands still while a toolkit's runs. So the descriptor that the toolkit waits for is
readable also when asyncio has something to do, and a step of it is done then.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from pyrepl_kernel.worker.surface import Socket

if TYPE_CHECKING:
    from pyrepl_kernel.worker.loop import CellLoop
    from pyrepl_kernel.worker.surface import IPythonKernel

__all__ = ["LOOPLESS", "GuiLoop", "ShellStream", "enable"]

LOOPLESS = frozenset({None, "inline", "asyncio", "ipympl", "widget", "nbagg", "notebook", "webagg"})
"""What ``%gui`` and ``%matplotlib`` ask for that needs no event loop of a toolkit's."""
_PAUSE = 0.001
"""Seconds between two calls of a loop that has returned without a message; ipykernel's too."""
_ZMQ_FD = 14  # zmq.FD, without importing zmq


has_been_on = False
"""Whether there has been a toolkit's event loop in this process: it can be forked no more."""


def note_use() -> None:
    """There is one, or is about to be."""
    global has_been_on
    has_been_on = True


class ShellStream(Socket):
    """``kernel.shell_stream`` as functions for event loops use it.

    Args:
        fileno: Gives the descriptor of the protocol.
        take_in: Reads the messages that have arrived; how many wait for the main thread.
        get_loop: Gives the main thread's asyncio loop; None while there is none.
    """

    def __init__(
        self,
        fileno: Callable[[], int],
        take_in: Callable[[], int],
        get_loop: Callable[[], CellLoop | None],
    ) -> None:
        super().__init__("shell")
        self._fileno = fileno
        self._take_in = take_in
        self._get_loop = get_loop
        self._wakeups: _Wakeups | None = None
        self._is_taking_in = False

    def getsockopt(self, option: int) -> int:
        """The descriptor that becomes readable when ``flush`` has something to do.

        Raises:
            ValueError: Another option is asked for.
        """
        if option != _ZMQ_FD:
            raise ValueError(f"{self!r} has no option but zmq.FD ({_ZMQ_FD}), not {option}")
        if sys.platform != "linux":
            return self._fileno()
        if self._wakeups is None:
            self._wakeups = _Wakeups(self._fileno())
        self._wakeups.follow(self._get_loop())
        return self._wakeups.fileno

    def flush(self, *args: Any, **kwargs: Any) -> int:
        """Take in what has arrived.

        Returns:
            How many messages wait: unless it is 0, the event loop has to return.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or self._is_taking_in:
            return 0
        self._is_taking_in = True
        try:
            self._step()
            return self._take_in()
        finally:
            self._is_taking_in = False

    def _step(self) -> None:
        loop = self._get_loop()
        if loop is not None and loop.can_step:
            loop.step()
        if self._wakeups is not None:
            self._wakeups.follow(loop)


class _Wakeups:
    """One descriptor for all that has to end a toolkit's wait, or to be done within it.

    Args:
        fd: The protocol's.
    """

    def __init__(self, fd: int) -> None:
        from pyrepl_kernel.worker.timer import Timer

        self._timer = Timer()
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN)
        self._poll.register(self._timer.fileno, select.EPOLLIN)

    @property
    def fileno(self) -> int:
        """The descriptor."""
        return self._poll.fileno()

    def follow(self, loop: CellLoop | None) -> None:
        """Be readable when asyncio's loop has something to do, as things are now."""
        if loop is None or not loop.can_step:
            self._timer.set(None)
            return
        # That of a loop of before is closed, and has left the set by itself.
        with suppress(FileExistsError):
            self._poll.register(loop.selector_fd, select.EPOLLIN)
        self._timer.set(loop.until_due())


class GuiLoop:
    """Runs the event loop that ``kernel.eventloop`` is, between two cells.

    Args:
        kernel: What functions for event loops are called with.
        stream: Its ``shell_stream``.
        wait: Waits for a message for at most so many seconds.
        notify: Shows a text to the user with the next cell.
    """

    def __init__(
        self,
        kernel: IPythonKernel,
        stream: ShellStream,
        wait: Callable[[float], bool],
        notify: Callable[[str], None],
    ) -> None:
        self._kernel = kernel
        self._stream = stream
        self._wait = wait
        self._notify = notify

    @property
    def is_on(self) -> bool:
        """Whether there is an event loop to run."""
        return self._kernel.eventloop is not None

    def run(self) -> None:
        """Let the toolkit at work until there is a message, or it returns by itself."""
        note_use()
        if self._stream.flush():
            return
        loop = self._kernel.eventloop
        try:
            loop(self._kernel)
        except KeyboardInterrupt:
            pass  # of the toolkit's own making: between two cells there is nothing to interrupt
        except Exception:
            self._kernel.eventloop = None
            self._kernel.shell.active_eventloop = None
            self._notify(
                "The event loop of the GUI has failed, and is off now; %gui switches it on again:\n"
                f"{traceback.format_exc()}"
            )
        else:
            if not self._stream.flush():
                self._wait(_PAUSE)

    def end(self) -> None:
        """The worker ends: tell the toolkit."""
        try:
            if self.is_on:
                getattr(self._kernel.eventloop, "exit_hook", lambda kernel: None)(self._kernel)
        except Exception:
            traceback.print_exc()


def enable(kernel: IPythonKernel, gui: str | None) -> None:
    """Switch a toolkit's event loop on, or off.

    Args:
        kernel: The kernel.
        gui: Its name, as for ``%gui``; None for none.

    Raises:
        UsageError: It cannot be switched on; the text says why and what to do.
    """
    if gui in LOOPLESS and kernel.eventloop is None:
        return
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            f"%gui {gui or ''}: the event loop of a GUI runs in the main thread; "
            "run this in a cell of the main shell"
        )
    module = _ipykernel()
    if gui not in module.loop_map and gui not in LOOPLESS:
        names = ", ".join(sorted(name for name in module.loop_map if name is not None))
        raise UsageError(f"%gui: there is no event loop for {gui!r}; there are: {names}")
    loop = None if gui in LOOPLESS else module.loop_map[gui]
    if gui is not None and kernel.eventloop not in (None, _ours(module, loop)):
        raise UsageError(
            f"%gui {gui}: the event loop of {kernel.shell.active_eventloop!r} is on, and there can "
            "be only one; switch it off with %gui, in a cell of its own"
        )
    if loop is not None:
        note_use()
    if gui is not None and loop is not None and loop.__module__ == module.__name__:
        _prepare(module, gui, kernel)
    if gui is None:
        module.enable_gui(None, kernel)
    kernel.eventloop = _ours(module, loop)


def _ipykernel() -> Any:
    try:
        return importlib.import_module("ipykernel.eventloops")
    except ImportError as error:
        raise UsageError(
            f"%gui: ipykernel's event loops cannot be imported ({error}); pip install ipykernel"
        ) from error


def _ours(module: Any, loop: Any) -> Any:
    """The function that runs for one of ipykernel's."""
    return loop_tk if loop is not None and loop is getattr(module, "loop_tk", None) else loop


def _prepare(module: Any, gui: str, kernel: IPythonKernel) -> None:
    """See to it that one of ipykernel's event loops can run here.

    Raises:
        UsageError: It cannot.
    """
    if gui.startswith("gtk"):
        raise UsageError(
            f"%gui {gui}: ipykernel's integration of GTK waits for no message of this kernel's; "
            "register one of your own with ipykernel.eventloops.register_integration"
        )
    if gui == "tk":
        _check_tk()
    elif gui.startswith("qt"):
        with _as_usage_error(gui, "no Qt binding can be loaded; pip install PySide6, or PyQt6"):
            _check_qt(gui)
            module.make_qt_app_for_kernel(gui, kernel)
        if not hasattr(kernel, "app"):
            raise UsageError(f"%gui {gui}: Qt has made no application; see what is printed above")
    elif gui == "wx":
        with _as_usage_error(gui, "wxPython cannot be imported; pip install wxPython"):
            importlib.import_module("wx")


@contextmanager
def _as_usage_error(gui: str, what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        detail = " ".join(str(error).split())[:300]
        raise UsageError(f"%gui {gui}: {what} ({detail})") from error


def _check_qt(gui: str) -> None:
    bindings = ("PySide6", "PyQt6", "PyQt5", "PySide2")
    if not any(importlib.util.find_spec(name) for name in bindings):
        raise ImportError(f"none of {', '.join(bindings)} is installed")
    # Qt would end the process.
    names = ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in names):
        raise UsageError(
            f"%gui {gui}: the kernel has no display, none of {', '.join(names)} is set; "
            "start it in a desktop session, or under xvfb-run, or set QT_QPA_PLATFORM=offscreen"
        )


def _check_tk() -> None:
    try:
        import tkinter
    except ImportError as error:
        raise UsageError(
            f"%gui tk: tkinter cannot be imported ({error}); install your system's package "
            "'python3-tk', or a Python that has it"
        ) from error
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError as error:
        raise UsageError(
            f"%gui tk: Tk cannot open a window ({error}); start the kernel in a desktop session, "
            "or under xvfb-run, and with DISPLAY set"
        ) from error


_tcl: Any = None
"""An interpreter without a window: all of a thread's share one queue of events."""


def loop_tk(kernel: IPythonKernel) -> None:
    """Run Tk's event loop until there is a message."""
    global _tcl
    import tkinter

    if _tcl is None:
        _tcl = tkinter.Tcl().tk
    stream: Any = kernel.shell_stream

    def on_readable(*_: object) -> None:
        if stream.flush():
            _tcl.quit()

    fd = stream.getsockopt(_ZMQ_FD)
    _tcl.createfilehandler(fd, tkinter.READABLE, on_readable)
    try:
        _tcl.mainloop(-1)  # also while no window is open
    finally:
        _tcl.deletefilehandler(fd)
