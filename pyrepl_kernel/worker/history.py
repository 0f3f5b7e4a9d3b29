"""IPython's history, whose database is opened when the user does not wait for it."""

from __future__ import annotations

import importlib.util
import threading
import time
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from IPython.core.history import DummyDB, HistoryManager, HistorySavingThread
from traitlets import default

__all__ = ["LazyHistory"]

_PATIENCE = 1.0  # seconds that the database has to answer
_MOST_KEPT = 10_000  # inputs that wait for a database that cannot be written to
_GATHER = 0.3  # seconds in which inputs collect before they are written


class _GatheringFlag(threading.Event):
    """Lets a little time go by once it is set, so that one writing is for more than one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.urgent = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        is_set = super().wait(timeout)
        if is_set:
            self.urgent.wait(_GATHER)
        return is_set


class _SavingThread(HistorySavingThread):
    """Writes when a moment has passed, and not in the middle of the cell that it is to save.

    There it takes the interpreter away from that cell, and comes back for it with each call of
    the database's: a short cell took twice as long.
    """

    def __init__(self, history_manager: HistoryManager) -> None:
        super().__init__(history_manager)
        self.save_flag: _GatheringFlag = _GatheringFlag()

    def stop(self) -> None:
        """End, without a last pause."""
        self.save_flag.urgent.set()
        super().stop()


class _Probe:
    """Finds out whether a database can be written to, in a thread that may hang with it.

    On some network file systems a lock is never given, and the call that asks for it never
    returns.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._begun = time.monotonic()
        self._done = threading.Event()
        self._problem = f"it did not answer within {_PATIENCE:g} s"
        self._thread = 0
        self._is_running = allocate_lock()  # held until the thread knows its number
        self._is_running.acquire()
        start_new_thread(self._run, ())  # not a threading.Thread: those are the user's
        with self._is_running:  # see OutputBuffer: no crash is to come before it has run
            pass

    @property
    def thread(self) -> int:
        """The number of its thread."""
        with self._is_running:
            return self._thread

    def _run(self) -> None:
        self._thread = threading.get_native_id()
        self._is_running.release()
        import sqlite3

        try:
            # Closed by hand: a connection's ``with`` ends a transaction, and no more.
            connection = sqlite3.connect(self._path, timeout=_PATIENCE * 0.8)
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            # What is no database is dealt with where it is opened.
            is_lock = isinstance(error, sqlite3.OperationalError) and "lock" in str(error)
            self._problem = str(error) if is_lock else ""
        else:
            self._problem = ""
        self._done.set()

    def wait(self) -> str:
        """What is wrong with the database; empty if nothing is. Waits until its time is up."""
        self._done.wait(max(0.0, self._begun + _PATIENCE - time.monotonic()))
        return self._problem


class LazyHistory(HistoryManager):
    """A history manager that opens its database on first need.

    Opening it costs 5 to 10 ms, which no first cell should wait for. Until then cells collect
    in the cache that IPython writes from anyway.
    """

    db_input_cache: list[Any]
    db_output_cache: list[Any]

    # Traits in IPython, which nobody observes, and which each cell sets.
    _i = ""
    _ii = ""
    _iii = ""
    _i00 = ""

    def __init__(self, **traits: Any) -> None:
        self._is_wanted = False
        self._probe: _Probe | None = None
        self._has_failed = False
        self.notify: Callable[[str], None] = lambda notice: None
        """Called with what the user should know: that the history is not kept, and why."""
        self._left_behind: list[Any] = []
        super().__init__(**traits)

    @default("connection_options")
    def _bounded_patience(self) -> dict[str, Any]:
        return {"check_same_thread": False, "timeout": _PATIENCE}

    @default("enabled")
    def _enabled_later(self) -> bool:
        return False

    @default("session_number")
    def _number_of_the_database(self) -> int:
        self.open()
        number: int = self._trait_values.get("session_number", 0)
        return number

    def postpone(self) -> None:
        """Keep the history, but open the database later."""
        configured = any(
            self.config.get(section, {}).get("enabled") is False
            for section in ("HistoryManager", "HistoryAccessor")
        )
        has_sqlite = importlib.util.find_spec("_sqlite3") is not None
        self._is_wanted = has_sqlite and not configured and not self.enabled

    def prepare(self) -> None:
        """Ask the database whether it answers, without waiting for that."""
        if self._is_wanted and self._probe is None and str(self.hist_file) != ":memory:":
            self._probe = _Probe(str(self.hist_file))

    def open(self) -> None:
        """Open the database now, unless it is open or not wanted."""
        if not self._is_wanted:
            return
        self.prepare()
        self._is_wanted = False
        import sqlite3

        self.enabled = True
        problem = self._probe.wait() if self._probe is not None else ""
        if problem:
            self._keep_in_memory(problem)
            return
        try:
            self.init_db()
            self.new_session()
        except sqlite3.OperationalError as error:
            self._keep_in_memory(str(error))
            return
        if str(self.hist_file) != ":memory:":
            self.save_thread = _SavingThread(self)
            self.save_thread.start()
            self.using_thread = True
            if self.db_input_cache and self.save_flag is not None:
                self.save_flag.set()

    def _keep_in_memory(self, problem: str) -> None:
        self.notify(
            f"The history database {self.hist_file} cannot be used ({problem}): this session's "
            "history is kept in memory, and ends with it.\n"
        )
        if "db" not in self._trait_values:
            self.db = DummyDB()  # what follows closes it
        self._switch_to_memory_history()

    def writeout_cache(self, conn: Any = None) -> None:
        """Write what has collected to the database.

        Without holding what a cell needs to add its own: the database may take its time.
        """
        if not self.enabled:
            return
        with self.db_input_cache_lock:
            inputs = self.db_input_cache
            self.db_input_cache = []
        with self.db_output_cache_lock:
            outputs = self.db_output_cache
            self.db_output_cache = []
        database = self.db if conn is None else conn
        import sqlite3

        try:
            self._insert(database, "history", inputs)
            self._insert(database, "output_history", outputs)
        except sqlite3.IntegrityError:
            # Another process has used the number of this session.
            self.new_session(database)
            with suppress(sqlite3.IntegrityError):
                self._insert(database, "history", inputs)
        except sqlite3.OperationalError as error:
            with self.db_input_cache_lock:  # for the next time
                self.db_input_cache = [*inputs, *self.db_input_cache][-_MOST_KEPT:]
            if not self._has_failed:
                self._has_failed = True
                self.notify(f"The history cannot be written for the moment: {error}\n")

    def _insert(self, database: Any, table: str, rows: list[Any]) -> None:
        with database:
            for row in rows:
                places = ", ".join("?" * (len(row) + 1))
                database.execute(
                    f"INSERT INTO {table} VALUES ({places})", (self.session_number, *row)
                )

    @property
    def threads(self) -> set[int]:
        """The numbers of its threads."""
        saver = self._trait_values.get("save_thread")
        found = set() if saver is None else {saver.native_id or 0}
        return found if self._probe is None else {*found, self._probe.thread}

    def renew(self) -> None:
        """In a fork: leave the database to the parent, and open it anew when it is needed."""
        self._probe = None
        if not self.enabled or self._is_wanted:
            return
        # Closing the connection here is what sqlite forbids; so it is kept, and never used.
        self._left_behind.append((self.db, getattr(self, "save_thread", None)))
        self.db_input_cache.clear()
        self.db_output_cache.clear()
        self.db_input_cache_lock = threading.Lock()
        self.db_output_cache_lock = threading.Lock()
        self.set_trait("save_thread", None)
        self.using_thread = False
        self._trait_values.pop("session_number", None)
        self.enabled = False
        self._is_wanted = True

    def get_tail(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        self.open()
        return super().get_tail(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        self.open()
        return super().search(*args, **kwargs)

    def get_range(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        self.open()
        return super().get_range(*args, **kwargs)

    def get_last_session_id(self) -> Any:
        """As in the base class."""
        self.open()
        return super().get_last_session_id()

    def get_session_info(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        self.open()
        return super().get_session_info(*args, **kwargs)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """As in the base class."""
        self.open()
        super().reset(*args, **kwargs)


# The name under which users set its options.
LazyHistory.__name__ = "HistoryManager"
