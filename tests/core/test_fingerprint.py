"""Keys follow from what is made, and from nothing else."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.fingerprint import FingerprintError, canonical, differences, digest
from unclip.config import not_in_key

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
    tag: ClassVar[str] = "named"

    value: Any


@dataclass(frozen=True)
class Renamed:
    """The same as `Named`, under another class name."""

    tag: ClassVar[str] = "named"

    value: Any


@dataclass(frozen=True)
class Grown:
    """`Named` after a field with a default was added."""

    tag: ClassVar[str] = "named"

    value: Any
    added: int = 3


@dataclass(frozen=True)
class OtherKind:
    tag: ClassVar[str] = "other"

    value: Any


@dataclass(frozen=True)
class Untagged:
    value: Any


@dataclass(frozen=True, kw_only=True)
class Patient:
    tag: ClassVar[str] = "patient"

    url: str
    timeout_s: float = not_in_key()


def key(value: object) -> str:
    return digest(canonical(value, where="x"))


def test_settings_that_do_not_change_the_result_are_not_in_the_key() -> None:
    hasty, patient = Patient(url="a", timeout_s=1.0), Patient(url="a", timeout_s=60.0)
    assert key(hasty) == key(patient) != key(Patient(url="b", timeout_s=1.0))


def test_a_renamed_class_and_a_new_field_at_its_default_keep_the_key() -> None:
    assert key(Named(1)) == key(Renamed(1)) == key(Grown(1))
    assert key(Grown(1, added=4)) != key(Grown(1))


def test_another_tag_is_another_key() -> None:
    assert key(Named(1)) != key(OtherKind(1))


@given(plain)
def test_the_canonical_form_is_json_and_its_digest_is_stable(value: Any) -> None:
    form = canonical(Named(value), where="x")
    assert digest(json.loads(json.dumps(form))) == digest(form)


def test_the_order_of_a_mapping_is_part_of_what_it_says() -> None:
    first, second = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert key(first) != key(second)
    assert differences(first, second, path="rules") == ["rules in another order: a, b → b, a"]


@pytest.mark.parametrize(
    "value",
    [[1], {1, 2}, float("nan"), float("inf"), object(), len, {1: 2}, Untagged(1), Named],
)
def test_values_without_a_stable_form_are_refused_with_their_place(value: Any) -> None:
    with pytest.raises(FingerprintError, match=r"stage\.field\.value"):
        canonical(Named(value), where="stage.field")


@given(plain, plain)
def test_differences_are_empty_exactly_for_equal_values(a: Any, b: Any) -> None:
    left, right = canonical(a, where="a"), canonical(b, where="b")
    assert bool(differences(left, right, path="x")) == (json.dumps(left) != json.dumps(right))


def test_a_difference_names_the_field_with_both_values() -> None:
    old, new = {"filter": {"min_side": 64, "a": 1}}, {"filter": {"min_side": 96, "b": 2}}
    assert differences(old, new) == [
        "filter.min_side: 64 → 96",
        "filter.a: removed (was 1)",
        "filter.b: new (2)",
    ]
