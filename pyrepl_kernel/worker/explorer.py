"""The user's variables, as a debugger shows them while nothing is stopped."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from pyrepl_kernel.worker.dap import load_debugpy

__all__ = ["VariableExplorer", "is_shown"]

_HIDDEN = frozenset(
    "__name__ __doc__ __package__ __loader__ __spec__ __annotations__ __builtins__ __builtin__"
    " __display__ __session__ get_ipython debugpy exit quit open In Out _ __ ___ _oh _dh".split()
)
_HISTORY = re.compile(r"_i{1,3}|_ih|_i?\d+")


def is_shown(name: str) -> bool:
    """Whether a variable is the user's, and not one of IPython's own."""
    return name not in _HIDDEN and not _HISTORY.fullmatch(name)


class VariableExplorer:
    """A view of the namespace at one moment.

    Args:
        namespace: The user's variables; later changes to it are not seen.

    Raises:
        DapError: debugpy cannot be used; what it shows of a variable is shown here too.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        load_debugpy()
        from _pydevd_bundle.pydevd_api import PyDevdAPI
        from _pydevd_bundle.pydevd_suspended_frames import _FrameVariable

        debugger = SimpleNamespace(variable_presentation=PyDevdAPI.VariablePresentation())
        self._variables = namespace.copy()  # in one step: another thread may change it meanwhile
        frame = SimpleNamespace(
            f_code=SimpleNamespace(co_name="<module>", co_filename="<cell>"),
            f_globals=self._variables,
            f_locals=self._variables,
            f_back=None,
        )
        self._known: dict[int, Any] = {}
        self._root = _FrameVariable(debugger, frame, self._register)

    def _register(self, variable: Any) -> None:
        self._known[variable.get_variable_reference()] = variable

    def children(self, reference: int = 0) -> list[dict[str, Any]]:
        """DAP's variables below a reference; 0 for those of the namespace.

        Raises:
            KeyError: The reference is not of this view.
        """
        parent = self._known[reference] if reference else self._root
        found = [variable.get_var_data() for variable in parent.get_children_variables()]
        return [variable for variable in found if is_shown(variable["name"])]
