import json
import math

import pytest

from sharpmask.coco.numbers import box, flag, identity, integer, number, shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, 2) for text in ("2", "2.0", '"2"', '"2.0"', '"2."', '" 2 "', '"+2"', '"02"')],
        *[(text, 0) for text in ("0", "-0", "0.0", "-0.0", '"0"', '"-0"')],
        ("-7", -7),
        ("9007199254740992.0", 2**53),
        ("9223372036854775807", 2**63 - 1),
        ('"9223372036854775807"', 2**63 - 1),
        ("-9223372036854775807", -(2**63) + 1),
    ],
)
def test_integer_in_any_spelling_is_read(text, value):
    assert integer(json.loads(text)) == identity(json.loads(text)) == value
    assert type(integer(json.loads(text))) is int


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.5", "is 1.5, not an integer"),
        ('"1.5"', 'is "1.5", not an integer'),
        ("null", "is null, not an integer"),
        ("true", "is true, not an integer"),
        ("NaN", "is NaN, not an integer"),
        ("-Infinity", "is -Infinity, not an integer"),
        ("1e400", "is Infinity, not an integer"),
        ("[1]", r"is \[1\], not an integer"),
        ('""', 'is "", not an integer'),
        ('"1_000"', "not an integer"),
        ('"\u0663"', "not an integer"),  # an Arabic three
        ('"0x10"', "not an integer"),
        ("9223372036854775808", "more than 64 bits"),
        ("-9223372036854775808", "more than 64 bits"),
        ('"20240131123045123456"', "more than 64 bits"),
        ("9007199254740994.0", "too large to be exact"),
        ("1e300", "too large to be exact"),
    ],
)
def test_anything_else_is_not_an_integer(text, message):
    with pytest.raises(ValueError, match=message):
        integer(json.loads(text))


def test_ids_may_be_text():
    for text in ("abc", "", "1.5", "12e4", "20240131123045123456", "2-1"):
        assert identity(text) == text
    for value in (None, True, 1.5, math.nan, [2], 2**63):
        with pytest.raises(ValueError, match="is "):
            identity(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.25", 0.25), ("3", 3), ('"0.25"', 0.25), ('"-1e-3"', -0.001), ('".5"', 0.5), ('" 7 "', 7)],
)
def test_number_in_any_spelling_is_read(text, value):
    assert number(json.loads(text)) == value


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "1e400", "null", "true", '"nan"', '"1e400"', '""', '"1,5"', "[1]"]
)
def test_what_is_not_finite_is_not_a_number(text):
    with pytest.raises(ValueError, match="not a finite number"):
        number(json.loads(text))
    with pytest.raises(ValueError, match="not a finite number"):
        number(10**400)


def test_flags_are_read_in_any_spelling():
    for value in (1, 1.0, "1", "1.0", True, "true", "True", " 1 "):
        assert flag(value) is True
    for value in (0, 0.0, "0", "0.0", False, "false", "FALSE", -0.0):
        assert flag(value) is False
    for value in (2, 0.5, "no", "", None, math.nan, [0], "10"):
        with pytest.raises(ValueError, match="neither 0 nor 1"):
            flag(value)


def test_boxes_are_four_finite_numbers():
    assert box([1, "2", 3.5, "0"]) == (1, 2, 3.5, 0)
    for value in ([1, 2, 3], [1, 2, -3, 4], [1, 2, math.inf, 4], "1234", None, [1, 2, 3, True]):
        with pytest.raises(ValueError, match=r"not \[left, top, width, height\]"):
            box(value)


def test_values_are_shown_as_in_the_file_and_cut_off():
    assert shown({"a": None, "ü": [True, 1.0]}) == '{"a": null, "ü": [true, 1.0]}'
    assert len(shown("x" * 1000)) == 60
