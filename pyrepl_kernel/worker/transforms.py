"""IPython's search for its own syntax in a cell, spared where Python's parser finds none.

    cell ──▶ cleanup, %%magic ──▶ does Python take it? ──┬─ yes ──▶ as it is; its tree is kept
                                                         └─ no ───▶ token by token, as IPython does

Nothing that IPython would change (``%magic``, ``!command``, ``name?``, ``/call``) can stand in what
Python takes. Taking a cell apart into tokens costs several times what parsing does; and the tree is
what the cell is compiled from a moment later, so that a cell of plain Python pays for no search.

What is one line is searched again, for what depends on the namespace: ``ls`` where that is no name,
calls without parentheses, macros. A line that begins with a keyword can be none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.prefilter import PrefilterManager

__all__ = ["CellTransformer", "LinePrefilter"]

# What the parser warns of: doubtful escapes, and numbers that run into a keyword. A parse that
# fails is done again, and nobody should be warned twice.
_may_warn = re.compile(r"\\|\d(?:and|else|for|if|in|is|or|not)").search

# One line that begins with a keyword, which not even a magic of that name takes for its own.
_is_keyword_line = re.compile(
    r"(?:assert|break|class|continue|def|del|for|from|global|if|import|nonlocal|pass|raise|return|try"
    r"|while|with)\b[^#\n]*\n*\Z"
).match


class CellTransformer(TransformerManager):
    """IPython's, which asks Python first.

    Args:
        parse_ahead: Whether Python takes a source; keeps the tree of one that it takes.
    """

    def __init__(self, parse_ahead: Callable[[str], bool]) -> None:
        super().__init__()
        self._parse_ahead = parse_ahead
        self._known = list(self.token_transformers)

    def do_token_transforms(self, lines: list[str]) -> list[str]:
        """The lines of a cell, without IPython's own syntax."""
        if self.token_transformers == self._known:  # those of an extension may change anything
            source = "".join(lines)
            if not _may_warn(source) and self._parse_ahead(source):
                return lines
        transformed: list[str] = super().do_token_transforms(lines)
        return transformed


class LinePrefilter(PrefilterManager):
    """IPython's for cells of one line, which looks at its first word first."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._known = self._parts()

    def _parts(self) -> tuple[list[Any], ...]:
        """What has a say in what becomes of a line."""
        return (self.transformers[:], self.checkers[:], list(self.handlers.values()))

    def prefilter_lines(self, lines: str, continue_prompt: bool = False) -> str:
        """The lines, without what only the namespace can tell from Python."""
        if not _is_keyword_line(lines) or self._parts() != self._known:
            return str(super().prefilter_lines(lines, continue_prompt))
        self.shell._last_input_line = plain = lines.rstrip("\n")
        return plain
