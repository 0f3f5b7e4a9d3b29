"""Hypothesis strategies for messages, made from the annotations of the message classes."""

from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from pyrepl_kernel.protocol.messages import Message

__all__ = ["MESSAGE_CLASSES", "messages", "messages_of", "values"]

MESSAGE_CLASSES = sorted(Message.__subclasses__(), key=lambda cls: cls.__name__)

texts = st.text(st.characters(), max_size=20)
"""Any text, lone surrogates included."""

numbers = st.integers(-(2**200), 2**200) | st.floats(allow_nan=False)

values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""What a message may carry, in the form in which it arrives."""


def _strategy(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation is Any:
        return values
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: texts,
        bytes: st.binary(max_size=20),
        int: st.integers(-(2**70), 2**70),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        type(None): st.none(),
    }
    if annotation in plain:
        return plain[annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is list:
        return st.lists(_strategy(arguments[0]), max_size=3)
    if get_origin(annotation) is dict:
        return st.dictionaries(texts, _strategy(arguments[1]), max_size=3)
    return st.one_of([_strategy(arm) for arm in arguments])


def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Messages of one class, with any value in each field."""
    annotations = {
        name: annotation
        for name, annotation in get_type_hints(cls).items()
        if name != "type" and not name.startswith("_")
    }
    return st.builds(cls, **{name: _strategy(hint) for name, hint in annotations.items()})


messages = st.one_of([messages_of(cls) for cls in MESSAGE_CLASSES])
"""Messages of any class."""
