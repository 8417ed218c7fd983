"""Tests of identities and their training and held-out ranges."""

import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.portrait_world.people.identity import (
    HELD_OUT_IDENTITIES,
    TRAINING_IDENTITIES,
    make_identity,
    parse_identity_range,
)


def test_identities_are_reproducible() -> None:
    assert make_identity(12) == make_identity(12)
    assert make_identity(12) != make_identity(13)


def test_identities_differ_in_every_property() -> None:
    people = [make_identity(number) for number in range(80)]
    assert {person.beard for person in people} == {"none", "stubble", "full", "goatee", "moustache"}
    assert len({person.hair_style for person in people}) >= 10
    assert {person.glasses for person in people} == {"none", "round", "square"}
    assert min(person.age for person in people) < 12
    assert max(person.age for person in people) > 70
    brightness = [sum(person.skin) for person in people]
    assert max(brightness) > 2 * min(brightness)
    assert len({person.voice for person in people}) > 70


def test_children_have_neither_beards_nor_wrinkles() -> None:
    children = [person for person in map(make_identity, range(300)) if person.childlikeness > 0.3]
    assert children
    assert all(person.beard == "none" and person.wrinkles == 0 and person.make_up == 0 for person in children)


def test_training_and_held_out_identities_are_disjoint() -> None:
    assert not set(TRAINING_IDENTITIES) & set(HELD_OUT_IDENTITIES)
    assert make_identity(HELD_OUT_IDENTITIES[0]).held_out
    assert not make_identity(TRAINING_IDENTITIES[-1]).held_out


@pytest.mark.parametrize(("text", "first", "last"), [("0-199", 0, 199), ("7", 7, 7), ("1000-1099", 1000, 1099)])
def test_ranges_include_both_ends(text: str, first: int, last: int) -> None:
    chosen = parse_identity_range(text)
    assert (chosen[0], chosen[-1]) == (first, last)


@pytest.mark.parametrize("text", ["", "a-b", "5-", "-5", "9-3", "990-1010", "3-4-5", "²", "1e3", "99999999999"])
def test_invalid_ranges_are_rejected(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_identity_range(text)
    assert (caught.value.field, caught.value.value) == ("--identities", text)
