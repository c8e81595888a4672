"""Bracketed form names become the values that clients meant, or are refused."""

import pytest

from service.errors import AmbiguousFormArray, BadRequest, InvalidValue
from service.forms import RawBody, parse_body


def parse(*pairs):
    return parse_body(RawBody(form=pairs))


def test_brackets_become_objects_and_lists():
    tree = parse(
        ("last_frame[image_url]", "u"),
        ("a[b][c]", "1"),
        ("a[b][d]", "2"),
        ("tags[]", "x"),
        ("tags[]", "y"),
        ("one[]", "z"),
        ("again", "p"),
        ("again", "q"),
        ("plain", "[not json]"),
    )
    assert tree == {
        "last_frame": {"image_url": "u"},
        "a": {"b": {"c": "1", "d": "2"}},
        "tags": ["x", "y"],
        "one": ["z"],
        "again": ["p", "q"],
        "plain": "[not json]",
    }


def test_even_columns_become_objects():
    tree = parse(
        ("refs[][image_url]", "u1"),
        ("refs[][image_url]", "u2"),
        ("refs[][name]", "n1"),
        ("refs[][name]", "n2"),
        ("deep[][a][b]", "v"),
    )
    assert tree["refs"] == [{"image_url": "u1", "name": "n1"}, {"image_url": "u2", "name": "n2"}]
    assert tree["deep"] == [{"a": {"b": "v"}}]


def test_uneven_columns_are_refused():
    pairs = [("refs[][image_url]", "u1"), ("refs[][image_url]", "u2"), ("refs[][name]", "n1")]
    with pytest.raises(AmbiguousFormArray) as caught:
        parse(*pairs)
    assert caught.value.param == "refs"
    assert caught.value.code == "ambiguous_form_array"


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "1"), ("a[b]", "2")],
        [("a[]", "1"), ("a[b]", "2")],
        [("a[]", "1"), ("a[][b]", "2")],
        [("a[b]", "1"), ("a[b][c]", "2")],
    ],
)
def test_names_that_contradict_each_other_are_refused(pairs):
    with pytest.raises(InvalidValue):
        parse(*pairs)


@pytest.mark.parametrize(
    "name", ["", "[", "]", "a[", "a]b", "a[b", "[b]", "a[b]c", "a" + "[b]" * 9]
)
def test_malformed_names_are_refused(name):
    with pytest.raises(BadRequest):
        parse((name, "1"))


def test_extra_body_goes_under_the_explicit_fields():
    assert parse(("a", "1"), ("extra_body", '{"a": 2, "b": 3}')) == {"a": "1", "b": 3}
    assert parse(("a", "1"), ("extra_body[b]", "3")) == {"a": "1", "b": "3"}
    raw = b'{"a": 1, "extra_body": {"a": 2, "b": 3}}'
    assert parse_body(RawBody(json=raw)) == {"a": 1, "b": 3}
