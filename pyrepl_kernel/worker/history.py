"""IPython's history, whose database is opened when the user does not wait for it."""

from __future__ import annotations

import importlib.util
from typing import Any

from IPython.core.history import HistoryManager, HistorySavingThread
from traitlets import default

__all__ = ["LazyHistory"]


class LazyHistory(HistoryManager):
    """A history manager that opens its database on first need.

    Opening it costs 5 to 10 ms, which no first cell should wait for. Until then cells collect
    in the cache that IPython writes from anyway.
    """

    def __init__(self, **traits: Any) -> None:
        self._is_wanted = False
        super().__init__(**traits)

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

    def open(self) -> None:
        """Open the database now, unless it is open or not wanted."""
        if not self._is_wanted:
            return
        self._is_wanted = False
        import sqlite3

        self.enabled = True
        try:
            self.init_db()
            self.new_session()
        except sqlite3.OperationalError as error:
            self.log.warning("The history database cannot be used (%s): kept in memory.", error)
            self._switch_to_memory_history()
            return
        if str(self.hist_file) != ":memory:":
            self.save_thread = HistorySavingThread(self)
            self.save_thread.start()
            self.using_thread = True
            if self.db_input_cache and self.save_flag is not None:
                self.save_flag.set()

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
