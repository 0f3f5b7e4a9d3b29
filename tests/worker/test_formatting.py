"""The quicker formatters say what IPython's own do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from IPython.core.formatters import (
    BaseFormatter,
    DisplayFormatter,
    HTMLFormatter,
    IPythonDisplayFormatter,
    MimeBundleFormatter,
    PlainTextFormatter,
)
from traitlets import TraitType

from pyrepl_kernel.session.session import Session
from pyrepl_kernel.worker.formatting import quicken_formatters

SLOW_LOOKUP = BaseFormatter.lookup_by_type
CLASSES = [BaseFormatter, IPythonDisplayFormatter, MimeBundleFormatter]


@pytest.fixture
def quick() -> Iterator[Callable[[BaseFormatter, Any], Any]]:
    before = BaseFormatter.lookup_by_type
    calls = [cls.__dict__["__call__"] for cls in CLASSES]
    quicken_formatters()
    yield BaseFormatter.lookup_by_type
    BaseFormatter.lookup_by_type = before
    for cls, call in zip(CLASSES, calls, strict=True):
        cls.__call__ = call


class Parent:
    pass


class Child(Parent):
    pass


def printer(obj: Any) -> str:
    return "<printed>"


def by_type(formatter: BaseFormatter) -> None:
    formatter.for_type(Child, printer)


def by_parent(formatter: BaseFormatter) -> None:
    formatter.for_type(Parent, printer)


def by_dict(formatter: BaseFormatter) -> None:
    formatter.type_printers[object] = printer


def by_name(formatter: BaseFormatter) -> None:
    formatter.for_type_by_name(__name__, "Parent", printer)


def not_at_all(formatter: BaseFormatter) -> None:
    formatter.for_type(set, printer)


REGISTRATIONS = [by_type, by_parent, by_dict, by_name, not_at_all]
TYPES: list[Any] = [Child, Parent, object, int, type, f"{__name__}.Child", "no.such", 3, None]


def found(lookup: Callable[[BaseFormatter, Any], Any], formatter: BaseFormatter, typ: Any) -> Any:
    try:
        return lookup(formatter, typ)
    except Exception as error:
        return type(error), str(error)


def _of_its_own(formatter: BaseFormatter) -> list[Any]:
    """Types whose printer is a function of this formatter: float, and numpy's if it is there."""
    printers = formatter.type_printers.items()
    return [typ for typ, function in printers if function.__name__ == "<lambda>"]


@pytest.mark.parametrize("formatter_class", [HTMLFormatter, PlainTextFormatter])
@pytest.mark.parametrize("register", REGISTRATIONS)
def test_it_finds_what_ipython_finds(
    quick: Callable[[BaseFormatter, Any], Any],
    formatter_class: type[BaseFormatter],
    register: Callable[[BaseFormatter], None],
) -> None:
    for typ in TYPES:
        ours, theirs = formatter_class(), formatter_class()
        for formatter in (ours, theirs):
            for owned in _of_its_own(formatter):
                del formatter.type_printers[owned]
            register(formatter)
        assert found(quick, ours, typ) == found(SLOW_LOOKUP, theirs, typ)
        # What was registered by name is by now registered by type.
        assert ours.type_printers == theirs.type_printers
        assert ours.deferred_printers == theirs.deferred_printers


def test_a_formatter_that_looks_for_names_elsewhere_is_asked(
    quick: Callable[[BaseFormatter, Any], Any],
) -> None:
    class Elsewhere(HTMLFormatter):  # type: ignore[misc]
        def _in_deferred_types(self, cls: Any) -> bool:
            if cls is Parent:
                self.type_printers[cls] = printer
            return cls is Parent

    assert quick(Elsewhere(), Child) is printer


def test_a_search_reads_two_traits_whatever_the_type_comes_from(
    quick: Callable[[BaseFormatter, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    formatter = HTMLFormatter()
    deep: type = Child
    for _ in range(20):
        deep = type("Deeper", (deep,), {})
    found(quick, formatter, deep)  # the traits have their values now
    read: list[str] = []
    get = TraitType.get

    def counting(self: Any, obj: Any, cls: Any = None) -> Any:
        read.append(self.name)
        return get(self, obj, cls)

    monkeypatch.setattr(TraitType, "get", counting)
    found(quick, formatter, deep)
    assert sorted(read) == ["deferred_printers", "type_printers"]


class Nothing:
    def __repr__(self) -> str:
        return "<nothing>"


class Rich(Nothing):
    def _repr_html_(self) -> str:
        return "<b>html</b>"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return b"png", {"width": 3}


class WrongType(Nothing):
    def _repr_html_(self) -> int:
        return 3


class Raising(Nothing):
    def _repr_html_(self) -> str:
        raise ValueError("no form")


class NotImplementedHere(Nothing):
    def _repr_html_(self) -> str:
        raise NotImplementedError


class RaisingProperty(Nothing):
    @property
    def _repr_html_(self) -> Callable[[], str]:
        raise ValueError("no method")


class KeyErrorProperty(Nothing):
    @property
    def _repr_html_(self) -> Callable[[], str]:
        raise KeyError("no method")


class NotCallable(Nothing):
    _repr_html_ = "text"


class Claiming(Nothing):
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: f"{name} of everything"


class Bundle(Nothing):
    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": f"{include} {exclude}", "x/y": "own"}

    def _repr_html_(self) -> str:
        return "not this one"


class BundleWithMetadata(Nothing):
    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, str], dict[str, int]]:
        return {"text/plain": "of the bundle"}, {"of": 1}


class DisplaysItself(Nothing):
    def _ipython_display_(self) -> None:
        SHOWN.append(type(self).__name__)


class OfTheInstance(Nothing):
    def __init__(self) -> None:
        self._repr_latex_ = lambda: "$x$"


SHOWN: list[str] = []
OBJECTS: list[Callable[[], Any]] = [
    Nothing,
    Rich,
    WrongType,
    Raising,
    NotImplementedHere,
    RaisingProperty,
    KeyErrorProperty,
    NotCallable,
    Claiming,
    Bundle,
    BundleWithMetadata,
    DisplaysItself,
    OfTheInstance,
    lambda: Rich,
    lambda: DisplaysItself,
    lambda: Mock(__repr__=lambda self: "<mock>"),
    lambda: 3,
    lambda: None,
    Child,
]


def as_they_come(formatter: DisplayFormatter) -> None:
    pass


def with_printers(formatter: DisplayFormatter) -> None:
    formatter.formatters["text/html"].for_type(Nothing, lambda obj: "<i>by type</i>")
    formatter.formatters["text/latex"].for_type_by_name(__name__, "Nothing", lambda obj: "$n$")
    formatter.formatters["image/png"].singleton_printers[id(None)] = lambda obj: b"none"
    formatter.mimebundle_formatter.for_type(Child, lambda obj: {"c/d": "child"})


def with_some_off(formatter: DisplayFormatter) -> None:
    formatter.active_types = ["text/plain", "image/png"]
    formatter.ipython_display_formatter.enabled = False


def with_another_method(formatter: DisplayFormatter) -> None:
    formatter.formatters["text/markdown"].print_method = "_repr_html_"


class Shouting(HTMLFormatter):  # type: ignore[misc]
    def lookup(self, obj: Any) -> Callable[[Any], str]:
        return lambda obj: f"{obj!r}!"


def with_one_that_searches_elsewhere(formatter: DisplayFormatter) -> None:
    with warnings.catch_warnings(action="ignore"):
        formatter.register_formatter(Shouting(parent=formatter))


def formatted(setting: Callable[[DisplayFormatter], None], make: Callable[[], Any]) -> Any:
    """What is displayed of an object, and what is said meanwhile."""
    formatter = DisplayFormatter()
    setting(formatter)
    obj = make()
    seen = []
    for options in ({}, {"include": ["text/html"]}, {"exclude": ["text/html"]}, {}):
        SHOWN.clear()
        with warnings.catch_warnings(record=True, action="always") as said:
            forms = formatter.format(obj, **options)
        seen.append((forms, list(SHOWN), [str(warning.message) for warning in said]))
    return seen


@pytest.mark.parametrize("make", OBJECTS)
@pytest.mark.parametrize(
    "setting",
    [
        as_they_come,
        with_printers,
        with_some_off,
        with_another_method,
        with_one_that_searches_elsewhere,
    ],
)
def test_an_object_has_the_forms_that_ipython_gives_it(
    setting: Callable[[DisplayFormatter], None],
    make: Callable[[], Any],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    theirs = formatted(setting, make), capsys.readouterr().err.count("Error")
    request.getfixturevalue("quick")
    ours = formatted(setting, make), capsys.readouterr().err.count("Error")
    assert _without_addresses(ours) == _without_addresses(theirs)


def _without_addresses(value: Any) -> str:
    return re.sub(r"0x[0-9a-f]+|id='\d+'", "ADDRESS", repr(value))


def test_a_formatter_without_the_form_searches_for_nothing(
    quick: Callable[[BaseFormatter, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    formatter = DisplayFormatter()
    formatter.format(Nothing())  # the traits have their values now
    searched: list[str] = []
    slow = BaseFormatter.lookup

    def counting(self: BaseFormatter, obj: Any) -> Any:
        searched.append(self.format_type)
        return slow(self, obj)

    monkeypatch.setattr("pyrepl_kernel.worker.formatting._search_by_object", counting)
    monkeypatch.setattr(BaseFormatter, "lookup", counting)
    formatter.format(Rich())
    assert searched == ["text/html", "image/png"]


async def test_displays_of_a_worker_are_made_like_this() -> None:
    async with Session() as session:
        outcome = await session.run(
            "from IPython.core.formatters import BaseFormatter, MimeBundleFormatter\n"
            "print({function.__code__.co_filename.rpartition('/')[2] for function in (\n"
            "    BaseFormatter.lookup_by_type, BaseFormatter.__call__,\n"
            "    MimeBundleFormatter.__call__)}, end='')"
        )
    assert outcome.stdout == "{'formatting.py'}"
