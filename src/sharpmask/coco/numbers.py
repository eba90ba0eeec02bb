"""How numbers, ids and flags of JSON files are read: one rule for annotations and results.

What can mean one thing only is read: 1.0, "1" and "1.0" are the integer 1. The rest raises a
``ValueError`` that ends a sentence: "is 1.5, not an integer".
"""

import json
import re
from collections.abc import Iterable
from itertools import chain
from sys import float_info

GZIP = b"\x1f\x8b"
"""What files begin with that are packed by gzip."""
PACKED = "it is packed by gzip; unpack it first, by gunzip"
_WHOLE = re.compile(r"\s*([+-]?\d+)(\.0*)?\s*", re.ASCII)
_DECIMAL = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_FLAGS = {"0": False, "false": False, "1": True, "true": True}
_EXACT = 2**53
"""Beyond it neighbouring integers are one float: a float cannot say which was meant."""


def integer(value: object) -> int:
    """Read an integer of 64 bits.

    Raises:
        ValueError: It is none.
    """
    if type(value) is int:
        whole = value
    elif type(value) is float and value.is_integer():
        if abs(value) > _EXACT:
            raise ValueError(f"is {value!r}, too large to be exact; write it without a point")
        whole = int(value)
    elif isinstance(value, str) and (match := _WHOLE.fullmatch(value)) and len(value) < 99:
        whole = int(match[1])
    else:
        raise ValueError(f"is {shown(value)}, not an integer")
    if abs(whole) >= 2**63:
        raise ValueError(f"is {shown(value)}, which needs more than 64 bits")
    return whole


def identity(value: object) -> int | str:
    """Read an id: an integer where it is one, any other text as it is.

    "2", "02" and 2 are the same id.

    Raises:
        ValueError: It is neither.
    """
    try:
        return integer(value)
    except ValueError:
        if isinstance(value, str):
            return value
        raise


def number(value: object) -> float:
    """Read a finite number.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
    if type(value) in (int, float) and abs(value) <= float_info.max:  # type: ignore[arg-type]
        return value  # type: ignore[return-value]
    raise ValueError(f"is {shown(value)}, not a finite number")


def area(value: object) -> float:
    """Read an area.

    Raises:
        ValueError: It is no finite number of at least 0.
    """
    if (pixels := number(value)) < 0:
        raise ValueError(f"is {shown(value)}, less than nothing")
    return pixels


def flag(value: object) -> bool:
    """Read a truth value: true, 1, 1.0, "1", "true", and their opposites.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    if type(value) is bool:
        return value
    try:
        if (whole := integer(value)) in (0, 1):
            return bool(whole)
    except ValueError:
        pass
    raise ValueError(f"is {shown(value)}, neither 0 nor 1")


def box(value: object) -> tuple[float, float, float, float]:
    """Read a box: left, top, width, height.

    Raises:
        ValueError: It is not four finite numbers, or a side is negative.
    """
    try:
        if not isinstance(value, list | tuple):
            raise ValueError
        left, top, width, height = map(number, value)
        if min(width, height) < 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"is {shown(value)}, not [left, top, width, height] in finite numbers"
        ) from None
    return left, top, width, height


def are_plain(lists: Iterable[Iterable[object]]) -> bool:
    """Tell whether the elements of all lists are JSON numbers, which need no reading."""
    return set(map(type, chain.from_iterable(lists))) <= {int, float}


def shown(value: object) -> str:
    """A value as messages show it: as in the file, in one line, cut off where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
