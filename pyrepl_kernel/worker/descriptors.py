"""Makes the descriptors that a worker was given its own, however it came by them."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Sequence

from pyrepl_kernel.session.spawn import DEBUG_FD, LIFELINE_FD, PROTOCOL_FD, WORKER_FDS
from pyrepl_kernel.worker.lifeline import hold_on_to, offer_to_oom_killer

__all__ = ["claim_descriptors", "place_descriptors", "protocol_sockets", "reserve_descriptors"]

_NUMBERS = [number for _, number, _ in WORKER_FDS]
_STANDARD = (0, 1, 2)


def reserve_descriptors(keep: Collection[int] = ()) -> None:
    """Occupy the numbers of a worker's descriptors, so that nothing else gets them.

    Args:
        keep: Numbers that are taken already.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in _NUMBERS:
        if number not in _STANDARD and number not in keep and number != null:
            os.dup2(null, number, inheritable=False)
    if null not in _NUMBERS:
        os.close(null)


def place_descriptors(descriptors: Sequence[int]) -> None:
    """Give descriptors the numbers that a worker's have; each stands above them."""
    for fd, number in zip(descriptors, _NUMBERS, strict=True):
        os.dup2(fd, number)
        os.close(fd)


def claim_descriptors() -> None:
    """Tie this process, leader of its group, to the session at the other end."""
    hold_on_to(LIFELINE_FD)
    for number in _NUMBERS:
        if number not in _STANDARD:
            os.set_inheritable(number, False)
    offer_to_oom_killer()


def protocol_sockets() -> tuple[socket.socket, socket.socket]:
    """The protocol's socket and the debugger's."""
    return socket.socket(fileno=PROTOCOL_FD), socket.socket(fileno=DEBUG_FD)
