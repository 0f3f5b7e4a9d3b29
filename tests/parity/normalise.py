"""A transcript as text that is equal when the kernels behave the same.

Left out or replaced is what differs from one run of the same kernel to the next: ids, times,
addresses, process ids, directories; and the kernels' own frames in tracebacks. Adjacent pieces of
one stream become one, since where a stream is cut is a matter of time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .kernels import Message, Transcript

__all__ = ["as_lines"]

_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"ipykernel_\d+", "ipykernel_PID"),
        (r"\(pid=\d+\)", "(pid=PID)"),
        (r"\b0x[0-9a-fA-F]{5,}\b", "0xADDRESS"),
        (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
        (r"\b[0-9a-f]{32}\b", "UUID"),
        (
            r"(?:\d+d )?(?:\d+h )?(?:\d+min )?\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\s(?:ns|[uµμ]s|ms|s)\b",
            "TIME",
        ),
        # %timeit says so of runs that something else on the machine has slowed.
        (r"The slowest run took [^\n]* is being cached\.\n", ""),
        (r'(_port\\?": )\d+', r"\1PORT"),
        (r"\bTip: [^\n]*\n", ""),  # of IPython's banner, another one each time
        (r"\[\.\.\. skipping \d+ hidden", "[... skipping N hidden"),
        # ipykernel says so if the signal does not come too soon.
        (r"(?<=KeyboardInterrupt\x1b\[39m: )Interrupted by user|^Interrupted by user$", ""),
        (r"(?<=KeyboardInterrupt): Interrupted by user", ""),
        (r"\bin \d+\.\d+ seconds", "in TIME"),
        (r"\bobject at [0-9a-f]{8,}", "object at 0xADDRESS"),
        (r"\bT_[0-9a-f]{5}\b", "T_UUID"),  # pandas' styles
        (r"\bT_[0-9a-f]{5}_", "T_UUID_"),
        (r"\b\d+(?:\.\d+)? (?:MiB|KiB)\b", "SIZE"),
    )
]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOST_TASK = re.compile(r"Task (?:was destroyed|exception was never).*ipykernel/", re.DOTALL)
_ARROW = re.compile(r"\x1b\[32m-+> ")
_OWN_FRAME = re.compile(r"/(?:ipykernel|pyrepl_kernel)/[\w/]+\.py")


def _text(text: str, directory: str) -> str:
    text = text.replace(directory, "<work>").replace(directory.removesuffix("/work"), "<base>")
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return text


def _value(value: Any, directory: str, name: str = "") -> Any:
    if isinstance(value, str):
        return _text(value, directory)
    if isinstance(value, dict):
        return {
            _text(key, directory): _traceback(item, directory)
            if key == "traceback"
            else "..."
            if key == "engine_uuid"
            else _value(item, directory, key)
            for key, item in value.items()
        }
    if isinstance(value, int) and name.endswith("_port"):
        return "PORT"
    if isinstance(value, (list, tuple)):
        return [_value(item, directory) for item in value]
    return value


def _traceback(frames: list[str], directory: str) -> list[str]:
    kept: list[str] = []
    is_own = False  # a kernel's frame, and what it called outside of cells
    for frame in frames:
        plain = _ANSI.sub("", frame)
        is_own = bool(_OWN_FRAME.search(plain)) or (is_own and plain.startswith("File "))
        # How often a function calls itself depends on the stack that it finds.
        if not is_own and frame not in kept[-2:]:
            kept.append(frame)
    if any("KeyboardInterrupt" in frame for frame in kept):
        kept = [_unmark(frame) for frame in kept]
    return [_text(frame, directory) for frame in kept]


def _unmark(frame: str) -> str:
    """A frame without the colours of the line at work.

    They mark the call at work, if that can be told; and whether an interrupt hit in the call or at
    its return, when a child process has just ended by the same signal, is chance.
    """
    lines = frame.split("\n")
    return "\n".join(_ANSI.sub("", line) if _ARROW.match(line) else line for line in lines)


def _is_noise(kind: str, content: Any) -> bool:
    """Whether ipykernel speaks of a task of its own that went with a subshell.

    It does so when the task is collected, in whatever cell.
    """
    return kind == "stream" and bool(_LOST_TASK.search(content["text"]))


def _metadata(message: Message) -> Any:
    metadata = dict(message["metadata"])
    for name in ("started", "engine"):
        if name in metadata:
            metadata[name] = "..."
    return metadata


def _merged(messages: list[Message], loose_streams: bool) -> Iterator[tuple[Any, str, Any]]:
    """The messages as (request, type, content), their streams merged."""
    made: list[tuple[str, str, Any]] = []
    for message in messages:
        request = message["parent_header"].get("msg_id", "")
        kind, content = message["msg_type"], dict(message["content"])
        if metadata := _metadata(message):
            content["(metadata)"] = metadata
        if buffers := [bytes(buffer).hex() for buffer in message.get("buffers") or ()]:
            content["(buffers)"] = buffers
        if kind == "stream":
            for other_request, other_kind, other in reversed(made):
                is_same = (other_request, other_kind) == (request, kind)
                if is_same and other["name"] == content["name"]:
                    other["text"] += content["text"]
                    break
                if not loose_streams:
                    made.append((request, kind, content))
                    break
            else:
                made.append((request, kind, content))
        else:
            made.append((request, kind, content))
    made = [item for item in made if not _is_noise(item[1], item[2])]
    if loose_streams:
        streams = sorted(
            (item for item in made if item[1] == "stream"), key=lambda item: item[2]["name"]
        )
        made = [item for item in made if item[1] != "stream"] + streams
    yield from made


def as_lines(transcript: Transcript, loose_streams: bool = False) -> list[str]:
    """The transcript as lines; a difference between two is a difference between kernels."""
    lines: list[str] = []
    for channel, messages in transcript.messages.items():
        lines.append(f"===== {channel}")
        for request, kind, content in _merged(messages, loose_streams):
            number = transcript.requests.get(request)
            if number is None and request:
                continue  # of what came before the scenario, or after it
            lines.append(f"--- {kind} (request {number})")
            text = json.dumps(
                _value(content, transcript.directory), indent=1, sort_keys=True, ensure_ascii=False
            )
            lines += [part for line in text.split("\n") for part in line.split("\\n")]
    return lines
