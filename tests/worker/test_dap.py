"""The Debug Adapter Protocol's framing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrepl_kernel.worker.dap import DapDecoder, DapError


def frame(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, ensure_ascii=False).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=3), max_size=5),
    st.data(),
)
def test_messages_come_whole_however_the_bytes_are_cut(
    messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    # Surrogates are no UTF-8, and debugpy sends none.
    messages = json.loads(json.dumps(messages).replace("\\ud", "\\u0"))
    stream = b"".join(frame(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = DapDecoder()
    found: list[dict[str, Any]] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == messages


def test_other_headers_are_ignored() -> None:
    stream = b"Content-Type: text\r\ncontent-length: 2\r\n\r\n{}"
    assert list(DapDecoder().feed(stream)) == [{}]


@pytest.mark.parametrize(
    "header", [b"", b"Content-Length: x", b"Content-Length: -1", b"Content-Length: 999999999999"]
)
def test_a_broken_header_ends_the_stream(header: bytes) -> None:
    with pytest.raises(DapError, match="not a header"):
        list(DapDecoder().feed(header + b"\r\n\r\n"))
