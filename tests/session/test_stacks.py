"""What faulthandler writes, read again, and told in the terms of cells."""

from __future__ import annotations

import pytest

from pyrepl_kernel.protocol.cell_names import cell_hash
from pyrepl_kernel.session.stacks import CellSources, Frame, ThreadStack, parse_stacks

CODE = "import ctypes\nctypes.string_at(0)"

DUMP = f"""Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/a b/\\xfcber.py", line ??? in <lambda>

Current thread 0x00007f0000000002 (most recent call first):
  Garbage-collecting
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/tmp/ipykernel_12/{cell_hash(CODE)}.py", line 2 in <module>
  ...

Extension modules: _cffi_backend, zmq (total: 2)
"""


def test_threads_and_their_frames() -> None:
    other, current = parse_stacks(DUMP)
    assert other == ThreadStack(
        (
            Frame("/a b/\\xfcber.py", 0, "<lambda>"),
            Frame("/usr/lib/python3.11/threading.py", 327, "wait"),
        ),
        is_current=False,
    )
    assert [frame.function for frame in current.frames] == ["<module>", "string_at"]
    assert current.is_current
    assert current.is_cut_off
    assert not other.is_cut_off


def test_newer_pythons_name_threads_and_add_the_c_stack() -> None:
    text = (
        "Current thread 0x01 [python] (most recent call first):\n"
        '  File "a.py", line 1 in f\n'
        "  <truncated rest of calls>\n\n"
        "Current thread's C stack trace (most recent call first):\n"
        '  Binary file "/usr/bin/python3", at _Py_DumpStack+0x40 [0x55]\n'
        "  <truncated rest of calls>\n"
    )
    (thread,) = parse_stacks(text)
    assert thread == ThreadStack((Frame("a.py", 1, "f"),), is_current=True, is_cut_off=True)


def test_a_c_stack_that_is_cut_off_says_nothing_of_pythons() -> None:
    text = (
        "Current thread 0x01 [python] (most recent call first):\n"
        '  File "a.py", line 1 in f\n\n'
        "Current thread's C stack trace (most recent call first):\n"
        '  Binary file "/usr/bin/python3", at _Py_DumpStack+0x40 [0x55]\n'
        "  <truncated rest of calls>\n"
    )
    assert parse_stacks(text) == [ThreadStack((Frame("a.py", 1, "f"),), is_current=True)]


@pytest.mark.parametrize("text", ["", "nonsense\n", '  File "a.py", line 1 in f\n'])
def test_what_is_no_stack(text: str) -> None:
    assert parse_stacks(text) == []


def test_a_cell_is_found_by_its_source() -> None:
    sources = CellSources()
    sources.add("other = 1", "In [6]")
    sources.add(CODE, "In [7]")
    _, current = sources.resolve(parse_stacks(DUMP))
    outer, inner = current.frames
    assert str(outer) == "In [7], line 2, in <module>"
    assert outer.source == "ctypes.string_at(0)"
    assert str(inner) == 'File "/usr/lib/python3.11/ctypes/__init__.py", line 519, in string_at'


def test_blank_lines_at_the_beginning_do_not_count() -> None:
    code = "\n  \n" + CODE
    sources = CellSources()
    sources.add(code, "In [1]")
    dump = DUMP.replace(str(cell_hash(CODE)), str(cell_hash(code)))
    assert sources.resolve(parse_stacks(dump))[1].frames[0].source == "ctypes.string_at(0)"


def test_a_cell_that_ran_again_has_its_latest_number() -> None:
    sources = CellSources()
    sources.add(CODE, "In [1]")
    sources.add("x", "In [2]")
    sources.add(CODE, "In [3]")
    assert sources.resolve(parse_stacks(DUMP))[1].frames[0].cell == "In [3]"


def test_the_sources_that_are_remembered_are_bounded() -> None:
    sources = CellSources()
    sources.add(CODE, "In [1]")
    sources.add("#" * 1_000_000, "In [2]")
    frame = sources.resolve(parse_stacks(DUMP))[1].frames[0]
    assert frame.cell == ""
    assert frame.file.endswith(f"{cell_hash(CODE)}.py")
    assert sources.latest == "In [2]"
