"""How a pool's workers are made: forked from a template, or spawned.

start(session) ──▶ Template.fork ──▶ Session.start(forked)
                        │
                        └─ cannot ──▶ Session.start()         spawned, and warmed up by itself
"""

from __future__ import annotations

import logging
from typing import Protocol

from pyrepl_kernel.errors import TemplateError, WarmupError
from pyrepl_kernel.session.session import Session
from pyrepl_kernel.session.template import PrivateTemplate, Template

__all__ = ["Forking", "Method", "Spawning", "Workers"]

log = logging.getLogger("pyrepl_kernel.session.pool")

Method = tuple[str, str, str]
"""How workers are made, why, and what can be done to have it otherwise."""


class Workers(Protocol):
    """Makes workers for sessions."""

    @property
    def method(self) -> Method:
        """How the next is made, as far as that is known."""
        ...

    async def start(self, session: Session) -> None:
        """Start a session; errors as ``Session.start``."""
        ...

    async def end(self) -> None:
        """None are needed any more."""
        ...


class Spawning:
    """Spawns them.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        self.method: Method = ("spawn", reason, "")

    async def start(self, session: Session) -> None:
        """See ``Workers``."""
        await session.start()

    async def end(self) -> None:
        """See ``Workers``."""


class Forking:
    """Forks them from a template, and spawns those that cannot be had that way.

    Args:
        template: The template.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self._failure = ""
        self._has_told = ""

    @property
    def method(self) -> Method:
        """See ``Workers``."""
        warm = self.template.warmth
        if self._failure and (warm is None or warm.verdict != "spawn"):
            return "spawn", self._failure, ""
        if warm is None:
            return "fork", "the template is not warm yet", ""
        return warm.verdict, warm.reason, warm.advice

    async def start(self, session: Session) -> None:
        """See ``Workers``."""
        try:
            warm = await self.template.warm()
            if warm.ename:
                # What was wrong may be mended by now: the next attempt begins with a new template.
                self.template.renew()
                if not session.config.keep_failed_warmup:
                    raise WarmupError(session.session_id, warm.ename, warm.evalue, warm.traceback)
                raise TemplateError(warm.reason)
            forked = await self.template.fork()
        except TemplateError as error:
            self._tell(str(error))
            await session.start()
            return
        self._failure = ""
        await session.start(forked)

    def _tell(self, reason: str) -> None:
        self._failure = reason
        if reason != self._has_told:
            self._has_told = reason
            warm = self.template.warmth
            advice = f" ({warm.advice})" if warm is not None and warm.advice else ""
            log.warning("workers are spawned, not forked: %s%s", reason, advice)

    async def end(self) -> None:
        """See ``Workers``."""
        if isinstance(self.template, PrivateTemplate):
            await self.template.end()
        else:
            self.template.close()
