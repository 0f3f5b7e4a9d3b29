"""What a kernel needs of templates before it has an event loop."""

from __future__ import annotations

import logging
import os
import sys

from pyrepl_kernel.errors import PyreplError
from pyrepl_kernel.kernel.options import Options
from pyrepl_kernel.protocol.forking import TemplateMessage
from pyrepl_kernel.session.forked import Forked, fork_now
from pyrepl_kernel.session.runtime import templates_dir
from pyrepl_kernel.session.template_key import is_placeless, template_key
from pyrepl_kernel.session.templates import TemplateDirectory

__all__ = ["first_fork", "shares_templates", "template_order", "working_directory"]

log = logging.getLogger("pyrepl_kernel.kernel")

_FORK_TIME = 0.5  # seconds after which spawning is quicker


def shares_templates(options: Options) -> bool:
    """Whether this kernel's workers may be forked."""
    return sys.platform == "linux" and options.start_method != "spawn"


def template_order(options: Options) -> TemplateMessage:
    """What a template for this kernel is told."""
    warmup = options.warmup or ""
    cwd = working_directory()
    return TemplateMessage(
        key=template_key(warmup, options.ipython, cwd),
        directory=templates_dir(),
        # Where it does not matter, nobody's: it might be deleted, or unmounted.
        cwd="/" if is_placeless(warmup, cwd) else cwd,
        warmup=warmup,
        ipython=options.ipython,
        linger=options.template_linger,
    )


def working_directory() -> str:
    """This process's; the root if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def first_fork(options: Options) -> Forked | None:
    """The kernel's first worker, if a warm template of its user's is at hand; None otherwise."""
    order = template_order(options)
    directory = TemplateDirectory(order.directory)
    state = directory.state(order.key)
    if state is None or not state.can_fork:
        return None
    try:
        sock = directory.connect(order.key)
    except OSError:
        return None  # it has just gone
    try:
        warm, forked = fork_now(sock, _FORK_TIME)
    except (OSError, PyreplError) as error:
        sock.close()
        log.warning("the first worker is spawned, not forked: %s", error)
        return None
    forked.origin = sock, warm
    return forked
