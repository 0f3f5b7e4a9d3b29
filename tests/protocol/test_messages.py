"""Messages: how they are built, what they refuse, and that nobody can change them."""

from __future__ import annotations

import copy
import pickle
import time
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrepl_kernel.errors import InvalidField, MissingField, ProtocolError, UnknownMessageType
from pyrepl_kernel.protocol.messages import (
    CommMessage,
    DisplayMessage,
    ErrorMessage,
    ExecuteMessage,
    HeartbeatMessage,
    InputMessage,
    InspectMessage,
    Message,
    MessageType,
    OutputMessage,
    ReadyMessage,
    ResultMessage,
    StartMessage,
    message_from_map,
)
from tests.protocol.strategies import MESSAGE_CLASSES, messages


def execute_map(**changes: Any) -> dict[str, Any]:
    """The map of an execute message; a change to ``...`` leaves the field out."""
    values = ExecuteMessage("pass").to_map() | changes
    return {name: value for name, value in values.items() if value is not ...}


# ------------------------------------------------------------------ building


def test_positional_arguments_follow_the_order_of_the_fields() -> None:
    message = ExecuteMessage("1 + 1", False, True, False, {"a": "b"}, True, "cell", {}, {})
    assert message.code == "1 + 1"
    assert message.capture_source is False
    assert message.silent is True
    assert message.store_history is False
    assert message.user_expressions == {"a": "b"}
    assert message.allow_stdin is True
    assert message.cell_id == "cell"


def test_id_and_timestamp_close_the_list() -> None:
    arguments: list[Any] = ["text", "stderr", "execution", "me", 12.5]
    message = OutputMessage(*arguments)
    assert (message.data, message.stream, message.execution_id) == ("text", "stderr", "execution")
    assert (message.id, message.timestamp) == ("me", 12.5)


def test_defaults() -> None:
    before = time.time()
    message = ExecuteMessage("pass")
    assert before <= message.timestamp <= time.time()
    assert message.capture_source is True
    assert message.silent is False
    assert message.store_history is True
    assert message.user_expressions == {}
    assert message.allow_stdin is False
    assert message.cell_id is None


def test_ids_are_unique() -> None:
    assert len({HeartbeatMessage().id for _ in range(1000)}) == 1000


@pytest.mark.parametrize("cls", MESSAGE_CLASSES)
def test_defaults_are_not_shared(cls: type[Message]) -> None:
    required = {"session_id", "code", "data", "kind", "ename", "evalue", "execution_id", "status"}
    required |= {"request_id", "comm_id", "hist_access_type", "subshell_id", "channel", "msg_type"}
    required |= {"cwd", "key", "name", "verdict"}
    given: dict[str, Any] = {
        name: "" for name, text in cls.__annotations__.items() if name in required and text == "str"
    }
    given |= {name: 1 for name in ("pid", "status") if cls.__annotations__.get(name) == "int"}
    given |= {name: {} for name in ("request", "response", "event") if name in cls.__annotations__}
    first, second = cls(**given), cls(**given)
    for name, value in first.to_map().items():
        if isinstance(value, (list, dict)) and name not in given:
            assert value == type(value)()
            assert value is not getattr(second, name)


@pytest.mark.parametrize("kind", ["execute", MessageType.EXECUTE])
def test_the_type_given_by_hand(kind: str) -> None:
    stamp = time.time()
    by_hand = ExecuteMessage(
        type=kind, id="test", timestamp=stamp, code="print(1)", capture_source=False
    )
    assert by_hand == ExecuteMessage("print(1)", capture_source=False, id="test", timestamp=stamp)
    assert by_hand.to_map()["type"] == "execute"


def test_a_wrong_type_given_by_hand() -> None:
    with pytest.raises(InvalidField, match="field 'type' is 'output', expected 'execute'") as info:
        ExecuteMessage("pass", type="output")
    assert (info.value.field, info.value.value) == ("type", "output")


def test_each_type_belongs_to_one_class() -> None:
    assert sorted(cls.type for cls in MESSAGE_CLASSES) == sorted(MessageType)


def test_an_integer_does_for_a_float() -> None:
    assert HeartbeatMessage(timestamp=5).timestamp == 5


def test_an_instance_of_a_subclass_does_for_its_base() -> None:
    class Name(StrEnum):
        STDERR = "stderr"

    assert OutputMessage("", Name.STDERR).stream == "stderr"


# ------------------------------------------------------------------ refusing


def test_a_missing_field_is_named() -> None:
    with pytest.raises(MissingField, match="execute message lacks the field 'code'") as info:
        ExecuteMessage()  # type: ignore[call-arg]
    assert (info.value.message_type, info.value.field) == ("execute", "code")
    assert isinstance(info.value, TypeError)
    assert isinstance(info.value, ProtocolError)


@pytest.mark.parametrize(
    ("build", "field", "value", "expected"),
    [
        (lambda: ExecuteMessage(5), "code", 5, "str"),
        (lambda: ExecuteMessage("", silent=1), "silent", 1, "bool"),
        (lambda: ExecuteMessage("", cell_id=3), "cell_id", 3, "None or str"),
        (lambda: ExecuteMessage("", user_expressions=[1]), "user_expressions", [1], "dict"),
        (lambda: ExecuteMessage("", id=None), "id", None, "str"),
        (lambda: ExecuteMessage("", timestamp="now"), "timestamp", "now", "float or int"),
        (lambda: ExecuteMessage("", timestamp=True), "timestamp", True, "float or int"),
        (lambda: HeartbeatMessage(True), "sequence", True, "int"),
        (lambda: HeartbeatMessage(1.5), "sequence", 1.5, "int"),
        (
            lambda: DisplayMessage("display", buffers=["x"]),
            "buffers",
            ["x"],
            "list of bytes or memoryview",
        ),
        (
            lambda: DisplayMessage("display", buffers=b"x"),
            "buffers",
            b"x",
            "list of bytes or memoryview",
        ),
        (
            lambda: CommMessage("msg", "c", buffers=[None]),
            "buffers",
            [None],
            "list of bytes or memoryview",
        ),
        (lambda: ErrorMessage("E", "e", ["a", 1]), "traceback", ["a", 1], "list of str"),
        (lambda: ResultMessage("x", "ok", traceback=[b""]), "traceback", [b""], "list of str"),
        (lambda: InspectMessage("", omit_sections=[2]), "omit_sections", [2], "list of str"),
        (lambda: StartMessage("s", env={"A": 1}), "env", {"A": 1}, "None or dict of str"),
    ],
)
def test_an_ill_typed_field_is_named_with_its_value(
    build: Any, field: str, value: Any, expected: str
) -> None:
    with pytest.raises(InvalidField) as info:
        build()
    assert (info.value.field, info.value.value) == (field, value)
    assert str(info.value).endswith(f"field {field!r} is {value!r}, expected {expected}")
    assert isinstance(info.value, TypeError)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(InvalidField) as info:
        ExecuteMessage(["x" * 10_000])
    assert len(str(info.value)) < 200
    assert info.value.value == ["x" * 10_000]


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InvalidField, match="field 'capture' is True, expected no such field"):
        ExecuteMessage("pass", capture=True)  # type: ignore[call-arg]


def test_too_many_positional_arguments() -> None:
    arguments: list[Any] = ["a", "b", "c", "d", 1.0, "f"]
    with pytest.raises(TypeError, match="OutputMessage takes 5 fields, got 6"):
        OutputMessage(*arguments)


def test_a_field_given_twice() -> None:
    with pytest.raises(TypeError, match="'code' given twice"):
        ExecuteMessage("a", code="b")  # type: ignore[misc]


# ------------------------------------------------------- what the wire brings


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({}, MissingField, "untyped message lacks the field 'type'"),
        ({"type": "walk"}, UnknownMessageType, "unknown message type 'walk'"),
        ({"type": None}, UnknownMessageType, "unknown message type None"),
        ({"type": ["execute"]}, UnknownMessageType, r"unknown message type \['execute'\]"),
        (execute_map(code=...), MissingField, "execute message lacks the field 'code'"),
        (execute_map(id=...), MissingField, "execute message lacks the field 'id'"),
        (execute_map(timestamp=...), MissingField, "lacks the field 'timestamp'"),
        (execute_map(code=b"x"), InvalidField, "field 'code' is b'x', expected str"),
        (execute_map(silent=None), InvalidField, "field 'silent' is None, expected bool"),
        (execute_map(extra=[]), InvalidField, r"field 'extra' is \[\], expected no such field"),
    ],
)
def test_a_map_that_is_no_message(
    values: dict[str, Any], error: type[ProtocolError], text: str
) -> None:
    with pytest.raises(error, match=text):
        message_from_map(values)


def test_a_map_may_leave_out_what_has_a_default() -> None:
    message = message_from_map({"type": "execute", "code": "1", "id": "a", "timestamp": 1.0})
    assert message == ExecuteMessage("1", id="a", timestamp=1.0)


@given(messages)
def test_a_message_comes_back_from_its_map(message: Message) -> None:
    values = message.to_map()
    assert next(iter(values)) == "type"
    assert message_from_map(values) == message


maps = st.fixed_dictionaries(
    {"type": st.sampled_from(MessageType)},
    optional={
        "id": st.text(),
        "timestamp": st.floats(allow_nan=False),
        "code": st.text() | st.none(),
        "data": st.text() | st.dictionaries(st.text(), st.integers()),
        "kind": st.text(),
        "session_id": st.text() | st.integers(),
    },
)


@given(maps)
def test_any_map_gives_a_message_or_an_error_of_the_protocol(values: dict[str, Any]) -> None:
    try:
        message = message_from_map({**values, "type": values["type"].value})
    except ProtocolError:
        return
    result = message.to_map()
    assert {name: result[name] for name in values} == values


# -------------------------------------------------------------- what they are


def test_messages_are_frozen() -> None:
    message = OutputMessage("text")
    with pytest.raises(AttributeError, match="OutputMessage is frozen; cannot set 'data'"):
        message.data = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot set 'new'"):
        message.new = 1
    with pytest.raises(AttributeError, match="cannot delete 'data'"):
        del message.data
    assert message.data == "text"


def test_equality() -> None:
    message = OutputMessage("text", id="a", timestamp=1.0)
    assert message == OutputMessage("text", id="a", timestamp=1.0)
    assert message != OutputMessage("other", id="a", timestamp=1.0)
    assert message != OutputMessage("text", id="b", timestamp=1.0)
    assert InputMessage(id="a", timestamp=1.0) != HeartbeatMessage(id="a", timestamp=1.0)
    assert message != "text"


def test_equal_messages_have_equal_hashes() -> None:
    twins = [ReadyMessage("s", {"a": [1]}, id="a", timestamp=1.0) for _ in range(2)]
    assert len(set(twins)) == 1


@given(messages)
def test_copies_are_equal(message: Message) -> None:
    assert copy.copy(message) == message
    assert copy.deepcopy(message) == message
    assert pickle.loads(pickle.dumps(message)) == message


def test_the_representation_shows_what_matters_and_no_more() -> None:
    assert repr(OutputMessage("hi", "stderr")) == "OutputMessage(data='hi', stream='stderr')"
    assert repr(OutputMessage("hi")) == "OutputMessage(data='hi')"
    assert len(repr(OutputMessage("x" * 10_000))) < 100
