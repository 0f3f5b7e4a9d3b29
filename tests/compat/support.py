"""What these tests ask of a kernel."""

from __future__ import annotations

from typing import Any

from tests.e2e.support import Client, Message, Outcome

__all__ = ["check", "contents", "run"]


def run(client: Client, code: str) -> Outcome:
    """Run a cell that must succeed."""
    outcome = client.run(code)
    assert outcome.status == "ok", "\n".join(outcome.reply["content"].get("traceback", []))
    return outcome


def check(client: Client, code: str) -> None:
    """Run a cell whose last line is an expression that must be True."""
    outcome = run(client, code)
    assert outcome.result == "True", (code, outcome.result, outcome.text)


def contents(messages: list[Message], kind: str) -> list[dict[str, Any]]:
    """The contents of the messages of one type, in order."""
    return [message["content"] for message in messages if message["msg_type"] == kind]
