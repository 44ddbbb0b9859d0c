"""Keys follow from content alone."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.fingerprint import FingerprintError, canonical, differences, digest

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@dataclass(frozen=True)
class Named:
    value: Any


@dataclass(frozen=True)
class Renamed:
    value: Any


@dataclass(frozen=True)
class Placed:
    place: str = field(compare=False)
    value: int


def test_what_equality_passes_over_is_no_part_of_the_form() -> None:
    here, there, other = Placed("here", 1), Placed("there", 1), Placed("here", 2)
    assert canonical(here, where="x") == canonical(there, where="x") != canonical(other, where="x")


@given(plain)
def test_the_canonical_form_is_json_and_its_digest_is_stable(value: Any) -> None:
    form = canonical(Named(value), where="x")
    assert digest(json.loads(json.dumps(form))) == digest(form)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_a_mapping_does_not_matter(value: dict[str, int]) -> None:
    other = dict(reversed(value.items()))
    assert digest(canonical(value, where="x")) == digest(canonical(other, where="x"))


def test_the_type_of_a_field_is_part_of_what_it_is() -> None:
    assert digest(canonical(Named(1), where="x")) != digest(canonical(Renamed(1), where="x"))


@pytest.mark.parametrize("value", [[1], {1, 2}, float("nan"), float("inf"), object(), len, {1: 2}])
def test_values_without_a_stable_form_are_refused_with_their_place(value: Any) -> None:
    with pytest.raises(FingerprintError, match=r"stage\.field\.value"):
        canonical(Named(value), where="stage.field")


@given(plain, plain)
def test_differences_are_empty_exactly_for_equal_values(a: Any, b: Any) -> None:
    left, right = canonical(a, where="a"), canonical(b, where="b")
    assert bool(differences(left, right, path="x")) == (left != right)


def test_a_difference_names_the_field_with_both_values() -> None:
    old, new = {"filter": {"min_side": 64, "a": 1}}, {"filter": {"min_side": 96, "b": 2}}
    assert differences(old, new) == [
        "filter.min_side: 64 → 96",
        "filter.a: removed (was 1)",
        "filter.b: new (2)",
    ]
