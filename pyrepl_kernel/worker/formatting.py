"""IPython's formatters, without what makes them the better part of a display.

``display()`` asks each of a dozen formatters for its form of the object. Most have none, and say
so after reading five traits and searching for a printer among those of each class that the
object's type comes from. Here a formatter for which no printer is registered, and whose method the
object lacks, says so at once; and the search of the others reads two traits, whatever the type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from IPython.core.formatters import BaseFormatter, IPythonDisplayFormatter, MimeBundleFormatter

__all__ = ["quicken_formatters"]

_slow_lookup = BaseFormatter.lookup_by_type
_search_by_object = BaseFormatter.lookup
_search_by_name = BaseFormatter._in_deferred_types


def _lookup_by_type(self: BaseFormatter, typ: Any) -> Callable[..., Any]:
    """The printer registered for a type; ``BaseFormatter.lookup_by_type`` finds the same.

    Raises:
        KeyError: There is none.
    """
    if not isinstance(typ, type):
        return _slow_lookup(self, typ)  # type: ignore[no-any-return]
    printers = self.type_printers
    # A subclass may look for names elsewhere.
    has_names = self.deferred_printers or type(self)._in_deferred_types is not _search_by_name
    for cls in typ.__mro__:
        if cls in printers or (has_names and self._in_deferred_types(cls)):
            return printers[cls]  # type: ignore[no-any-return]
    raise KeyError(f"No registered printer for {typ!r}")


def _has_nothing(formatter: BaseFormatter, obj: Any) -> bool:
    """Whether it is plain that a formatter has no form of an object; False leaves it open."""
    cls = type(formatter)
    if (
        cls.lookup is not _search_by_object
        or cls.lookup_by_type is not _lookup_by_type
        or cls._in_deferred_types is not _search_by_name
    ):
        return False  # somebody else knows where to look
    values = formatter._trait_values
    try:
        if values["type_printers"] or values["deferred_printers"] or values["singleton_printers"]:
            return False
        return getattr(obj, values["print_method"], None) is None
    except Exception:
        # A trait that nobody has read yet has no value; and an attribute of the user's object may
        # raise whatever it likes, which IPython deals with.
        return False


def _quick(slow: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(slow)
    def call(self: BaseFormatter, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if _has_nothing(self, obj):
            return self._check_return(None, obj)
        return slow(self, obj, *args, **kwargs)

    return call


_quick_calls = {
    cls: _quick(cls.__call__)
    for cls in (BaseFormatter, IPythonDisplayFormatter, MimeBundleFormatter)
}


def quicken_formatters() -> None:
    """Let all formatters of this process answer like this."""
    BaseFormatter.lookup_by_type = _lookup_by_type
    for cls, call in _quick_calls.items():
        cls.__call__ = call
