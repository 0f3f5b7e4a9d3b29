"""Process groups: who is in one, and how what is left of one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pyrepl_kernel.session.groups import end_group, group_members


def test_what_is_left_of_a_group_is_killed_and_in_nobodys_way() -> None:
    with subprocess.Popen(["sleep", "600"], process_group=0) as process:
        end_group(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        niceness = os.getpriority(os.PRIO_PROCESS, process.pid)  # of the zombie
        assert process.wait() == -signal.SIGKILL
    assert niceness == 19
    end_group(process.pid)  # nobody is left


@pytest.mark.skipif(sys.platform != "linux", reason="members are looked up in /proc")
def test_a_groups_leader_is_not_among_its_members() -> None:
    with subprocess.Popen(["sleep", "600"], process_group=0) as leader:
        with subprocess.Popen(["sleep", "600"], process_group=leader.pid) as other:
            assert group_members(leader.pid) == [other.pid]
            end_group(leader.pid)
        assert group_members(leader.pid) == []
