"""IPython's search for its own syntax in a cell, spared where Python's parser finds none.

    cell ──▶ cleanup, %%magic ──▶ does Python take it? ──┬─ yes ──▶ as it is; its tree is kept
                                                         └─ no ───▶ token by token, as IPython does

Nothing that IPython would change (``%magic``, ``!command``, ``name?``, ``/call``) can stand in what
Python takes. Taking a cell apart into tokens costs several times what parsing does; and the tree is
what the cell is compiled from a moment later, so that a cell of plain Python pays for no search.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from IPython.core.inputtransformer2 import TransformerManager

__all__ = ["CellTransformer"]

# What the parser warns of: doubtful escapes, and numbers that run into a keyword. A parse that
# fails is done again, and nobody should be warned twice.
_may_warn = re.compile(r"\\|\d(?:and|else|for|if|in|is|or|not)").search


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
