"""Jupyter's messages on the wire: signatures, dates, and JSON as clients read it."""

from __future__ import annotations

import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrepl_kernel.kernel import wire
from pyrepl_kernel.kernel.wire import (
    Signer,
    Wire,
    WireError,
    from_json,
    json_string,
    now,
    object_parts,
    to_json,
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=6))
@pytest.mark.parametrize("digest", ["sha256", "sha512", "md5"])
def test_a_signature_is_the_standard_librarys(digest: str, key: bytes, parts: list[bytes]) -> None:
    signer = Signer(key, digest)
    expected = hmac.new(key, b"".join(parts), digest).hexdigest().encode()
    assert signer(parts) == expected
    assert signer(parts) == expected, "the second signature under the same key"


def test_an_unknown_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Wire(b"key", "hmac-nonsense")


@given(st.dictionaries(st.text(), json_values), st.dictionaries(st.text(), json_values))
def test_what_one_side_builds_the_other_parses(
    content: dict[str, Any], metadata: dict[str, Any]
) -> None:
    frames = Wire(b"key").build(
        [b"client"], "some_type", to_json(content), b"{}", to_json(metadata), [b"raw"]
    )
    request = Wire(b"key").parse([bytes(frame) for frame in frames])
    assert request.type == "some_type"
    assert request.identities == [b"client"]
    assert request.content == json.loads(to_json(content))
    assert request.metadata == json.loads(to_json(metadata))
    assert request.buffers == [b"raw"]


@given(json_values, st.sampled_from(["", " ", "\n "]), st.sampled_from(["", " ", "\n"]))
def test_json_may_have_room_around_it(value: Any, before: str, after: str) -> None:
    text = before + json.dumps(value) + after
    assert from_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("part", [b"", b"{", b"{}{}", b"[1] x", b"\xff\xfe", b"nonsense"])
def test_what_is_no_json_is_refused(part: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(part)
    wire = Wire(b"")
    header = b'{"msg_id": "1", "msg_type": "x"}'
    with pytest.raises(WireError, match="no JSON"):
        wire.parse([b"<IDS|MSG>", b"", header, b"{}", b"{}", part])


@given(st.text())
def test_a_string_is_as_json_has_it(text: str) -> None:
    assert json.loads(json_string(text)) == text
    assert json_string(text) == to_json(text)


@given(
    st.text(max_size=40),
    st.lists(st.sampled_from('\x00\x1f\x7f\x1b"\\\n\r\t\b\f/\u2028é\U0001f600a')),
)
def test_a_long_string_is_as_a_short_one(text: str, special: list[str]) -> None:
    long = (text + "".join(special)) * 5 + "x" * 600
    assert json_string(long) == to_json(long)
    assert json.loads(json_string(long)) == long


@given(st.dictionaries(st.text(), json_values))
def test_a_bundle_is_as_json_has_it(bundle: dict[str, Any]) -> None:
    assert b"".join(object_parts(bundle)) == to_json(bundle)
    bundle["image/png"] = "iVBOR" * 200
    bundle["text/html"] = '<p>\n"\n' * 200
    assert b"".join(object_parts(bundle)) == to_json(bundle)


def test_halves_of_a_surrogate_pair() -> None:
    assert json.loads(json_string("\ud83d\ude00")) == "\N{GRINNING FACE}"
    assert json.loads(json_string("a\ud83d")) == "a\N{REPLACEMENT CHARACTER}"
    long = "\ud83d\ude00\ud83d" * 400
    assert json_string(long) == to_json(long)


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_date_is_iso_8601(nanoseconds: int) -> None:
    before = time.time_ns
    try:
        time.time_ns = lambda: nanoseconds
        text = now()
    finally:
        time.time_ns = before
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == expected


def test_a_message_that_comes_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was signed for a client once must not be of use to whoever has overheard it."""
    monkeypatch.setattr(wire, "_HISTORY", 4)
    client, kernel = Wire(b"key"), Wire(b"key")
    messages = [
        [bytes(frame) for frame in client.build([b"client"], "execute_request", b"{}")]
        for _ in range(9)
    ]
    for message in messages:
        kernel.parse(message)
    for message in messages[-5:]:
        with pytest.raises(WireError, match="duplicate signature"):
            kernel.parse(message)
    kernel.parse(messages[0])  # not all are remembered for ever
