"""Parameters: what texts mean, what is refused, where the cell goes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrepl_kernel.batch.parameters import inject, parse_assignment, read_file, source_of
from pyrepl_kernel.errors import BatchError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=1", 1),
        ("x=-1.5", -1.5),
        ("x=1e3", 1000.0),
        ("x=true", True),
        ("x=False", False),
        ("x=null", None),
        ("x=None", None),
        ("x=hello world", "hello world"),
        ("x=", ""),
        ("x=[1, two, {a: 3}]", [1, "two", {"a": 3}]),
        ('x={"a": [null, 0.5]}', {"a": [None, 0.5]}),
        ('x="1"', "1"),
        ("x=a=b", "a=b"),
        # What YAML's older version would make a bool, a number and a date of.
        ("x=no", "no"),
        ("x=12:30", "12:30"),
        ("x=2024-01-31", "2024-01-31"),
        ("x=010", "010"),
        ("x=1_000", "1_000"),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    name, parsed = parse_assignment(text)
    assert name == "x"
    assert parsed == value
    assert type(parsed) is type(value)


def test_floats_that_are_no_numbers() -> None:
    assert parse_assignment("x=.inf")[1] == math.inf
    assert math.isnan(parse_assignment("x=.nan")[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "NAME=VALUE"),
        ("1x=2", "'1x' cannot be the name of a variable"),
        ("class=2", "'class' cannot be the name of a variable"),
        ("x=[1, 2", "no YAML or JSON"),
    ],
)
def test_a_bad_assignment_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BatchError, match=said.replace("[", r"\[")) as raised:
        parse_assignment(text)
    assert text in str(raised.value)


def test_a_map_is_one_set_and_a_list_is_a_sweep(tmp_path: Path) -> None:
    one, sweep = tmp_path / "one.yaml", tmp_path / "sweep.yaml"
    one.write_text("alpha: 0.5\nnames: [a, b]\n")
    sweep.write_text("- {alpha: 1}\n- {alpha: 2, day: 2024-01-31}\n")
    assert read_file(one) == [{"alpha": 0.5, "names": ["a", "b"]}]
    assert read_file(sweep) == [{"alpha": 1}, {"alpha": 2, "day": "2024-01-31"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", "is no YAML"),
        ("just text", "needs a map"),
        ("[]", "needs a map"),
        ("", "needs a map"),
        ("1: 2", "1 cannot be the name of a variable"),
        ("not-a-name: 2", "'not-a-name' cannot be"),
        ("a: !!python/object:os.system {}", "is no YAML"),
    ],
)
def test_a_bad_file_says_what_is_wrong(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(content)
    with pytest.raises(BatchError, match=said) as raised:
        read_file(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"nowhere\.yaml: No such file"):
        read_file(tmp_path / "nowhere.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_the_source_of_a_value_is_that_value(value: object) -> None:
    assert eval(source_of(value)) == value


def test_nan_has_a_source() -> None:
    assert math.isnan(eval(source_of(math.nan)))


def test_a_value_without_a_source_is_refused() -> None:
    with pytest.raises(TypeError, match="a set cannot be written into a cell"):
        source_of({"a": [{1, 2}]})


def notebook(*tags: str) -> Any:
    cells = [
        nbformat.v4.new_code_cell(f"cell {tag}", metadata={"tags": [tag] if tag else []})
        for tag in tags
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_parameters_follow_the_cell_with_the_defaults() -> None:
    made = notebook("", "parameters", "")
    inject(made, {"x": 1, "name": "Zoë"})
    nbformat.validate(made)
    assert [cell.source for cell in made.cells] == [
        "cell ",
        "cell parameters",
        "# Parameters\nx = 1\nname = 'Zoë'",
        "cell ",
    ]
    assert made.cells[2].metadata.tags == ["injected-parameters"]


def test_parameters_replace_those_of_an_earlier_run() -> None:
    made = notebook("parameters", "injected-parameters", "")
    inject(made, {"x": 2})
    assert [cell.source for cell in made.cells] == [
        "cell parameters",
        "# Parameters\nx = 2",
        "cell ",
    ]


def test_parameters_come_first_where_there_are_no_defaults() -> None:
    made = notebook("", "")
    inject(made, {"x": 2})
    assert made.cells[0].source == "# Parameters\nx = 2"


def test_without_parameters_a_notebook_stays_as_it_is() -> None:
    made = notebook("parameters", "")
    inject(made, {})
    assert len(made.cells) == 2


def test_a_notebook_of_an_older_format_stays_valid() -> None:
    made = notebook("")
    made.nbformat_minor = 4
    del made.cells[0]["id"]
    inject(made, {"x": 1})
    nbformat.validate(made)
