import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.files import ConfigFileError
from pipelines.config.load import load_config
from pipelines.core.fingerprint import canonical
from pipelines.data.filter import FilterWorker
from pipelines.data.filter_config import FilterConfig
from pipelines.data.rules import Columns, Condition
from tests.pipelines.rule_rows import messages, read, row
from unclip.config import ConfigError

RULES = {
    "columns": {
        "similarity": {"min": 0.28},
        "punsafe": {"max": 0.5, "keep_missing": True},
        "license": {"one_of": ["cc-by", "cc0"]},
        "alt": {"matches": r"^\w+ \w+"},
        "source": {"not_one_of": [3, 4]},
    }
}
GOOD = row(similarity=0.3, punsafe=0.1, license="cc0", alt="a red heart", source=1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"similarity": 0.28}, None),
        ({"similarity": 0.27}, "similarity_low"),
        ({"similarity": None}, "similarity_missing"),
        ({"similarity": float("nan")}, "similarity_missing"),
        ({"punsafe": 0.51}, "punsafe_high"),
        ({"punsafe": None}, None),
        ({"license": "all rights reserved"}, "license_value"),
        ({"license": None}, "license_missing"),
        ({"alt": "heart"}, "alt_text"),
        ({"source": 4.0}, "source_value"),
        ({"source": 4}, "source_value"),
        ({"similarity": 0.1, "license": "none"}, "similarity_low"),
    ],
)
def test_the_first_condition_that_fails_gives_the_reason(changes, reason) -> None:
    worker = pickle.loads(pickle.dumps(FilterWorker(read(RULES))))
    assert worker.reason(GOOD | changes) == reason


NUMBERS = st.floats(allow_nan=False, width=32)
CELLS = st.none() | NUMBERS | st.just(float("nan"))


def low_and_high(bounds: tuple[float | None, float | None]) -> tuple[Any, Any]:
    low, high = bounds
    return (high, low) if low is not None and high is not None and low > high else (low, high)


@given(
    cell=CELLS,
    bounds=st.tuples(st.none() | NUMBERS, st.none() | NUMBERS).map(low_and_high),
    one_of=st.lists(NUMBERS, max_size=3),
    keep_missing=st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_numbers_are_kept_exactly_if_every_condition_holds(cell, bounds, one_of, keep_missing):
    low, high = bounds
    if low is None and high is None and not one_of:
        return
    condition = Condition(min=low, max=high, one_of=tuple(one_of), keep_missing=keep_missing)
    reason = Columns(entries={"x": condition}).reason(row(x=cell))
    if cell is None or cell != cell:
        assert reason == (None if keep_missing else "x_missing")
        return
    holds = {
        "x_low": low is None or cell >= low,
        "x_high": high is None or cell <= high,
        "x_value": not one_of or cell in one_of,
    }
    assert (reason is None) == all(holds.values())
    assert reason is None or not holds[reason]


@given(
    cell=st.none() | st.text("ab", max_size=3),
    one_of=st.lists(st.text("ab", max_size=2), max_size=2),
    not_one_of=st.lists(st.text("ab", max_size=2), min_size=1, max_size=2),
)
@settings(max_examples=300, deadline=None)
def test_text_is_kept_exactly_if_every_condition_holds(cell, one_of, not_one_of) -> None:
    condition = Condition(one_of=tuple(one_of), not_one_of=tuple(not_one_of), matches="a|^$")
    reason = Columns(entries={"x": condition}).reason(row(x=cell))
    if cell is None:
        assert reason == "x_missing"
        return
    is_listed = (not one_of or cell in one_of) and cell not in not_one_of
    holds = {"x_value": is_listed, "x_text": "a" in cell or not cell}
    assert (reason is None) == all(holds.values())
    assert reason is None or not holds[reason]


def test_columns_of_every_pair_need_not_be_carried() -> None:
    rules = read({"columns": {"caption": {"matches": "red"}, "width": {"min": 40}}})
    rules.check_columns({})
    assert FilterWorker(rules).reason(row()) == "width_low"


@pytest.mark.parametrize(
    ("carried", "message"),
    [
        ({"similarty": "number"}, "did you mean similarty?.*source.columns.similarity: number"),
        ({"similarity": "text"}, "compares the column 'similarity' with number, but it holds text"),
    ],
)
def test_a_column_that_the_list_does_not_carry_is_refused(carried, message) -> None:
    config = read({"columns": {"similarity": {"min": 0.28}}})
    with pytest.raises(ConfigError, match=message):
        config.check_columns(carried)
    config.check_columns({"similarity": "number"})


def test_a_row_without_the_column_names_the_setting_that_carries_it() -> None:
    rule = read({"columns": {"similarity": {"min": 0.28}}}).rules["columns"]
    with pytest.raises(ConfigError, match=re.escape("'similarity', which the rows do not have")):
        rule.reason(row())
    with pytest.raises(ConfigError, match=r"holds 'high', but .* with number"):
        rule.reason(row(similarity="high"))


def test_errors_in_conditions_name_the_place_and_a_fix() -> None:
    errors = messages(
        {
            "columns": {
                "a": {"minimum": 0.28},
                "b": {"min": "0.28"},
                "c": {"matches": "("},
                "d": {"min": 2, "max": 1},
                "e": {},
                "f": {"min": 1, "matches": "x"},
                "g": {"one_of": ["x", 1]},
                "h": 0.28,
            }
        }
    )
    expected = {
        "a.minimum": "its settings are min, max, one_of, not_one_of, matches, keep_missing",
        "b.min": "valid number",
        "c": "is not a regular expression",
        "d": "give min <= max",
        "e": "has no condition",
        "f": "compares with numbers and with text",
        "g": "compares with numbers and with text",
        "h": "give a mapping",
    }
    assert {place.removeprefix("columns."): None for place in errors} == dict.fromkeys(expected)
    assert [p for p, text in expected.items() if text not in errors[f"columns.{p}"]] == []
    assert "names no column" in messages({"columns": {}})["columns"]


def test_conditions_are_set_on_the_command_line_and_taken_out_by_null() -> None:
    flags = ["filter.rules.columns.a.min=1", "filter.rules.columns.b.max=2"]
    flags += ["source.columns.a=number", "source.columns.b=number"]
    config = load_config("demo", [*flags, "filter.rules.columns.b=null"]).filter
    assert config.rules["columns"] == Columns(entries={"a": Condition(min=1.0)})
    with pytest.raises(ConfigFileError, match=r"columns\.a\.mn=1.*did you mean min\?"):
        load_config("demo", ["filter.rules.columns.a.mn=1"])


def test_only_what_is_given_is_in_the_key() -> None:
    rules = canonical(FilterConfig(rules=read(RULES).rules), where="filter")["rules"]
    assert rules["columns"]["entries"]["similarity"] == {"type": "condition", "min": 0.28}
