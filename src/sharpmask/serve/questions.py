"""What clients ask, read from JSON or a form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from sys import float_info
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sharpmask.serve.desk import of_data_uri

MAX_FIELDS = 16
NAME_LENGTH = 200


@dataclass(frozen=True)
class Given:
    """The fields of a request, and its photo.

    Attributes:
        fields: By name, as JSON's types.
        image: A photo's file; None if a text or nothing was given.
        name: What the client calls it.
    """

    fields: Mapping[str, Any]
    image: bytes | None
    name: str

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within limits.

        Raises:
            ValueError: It is not one.
        """
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: expected a number, got {_shown(value)}")
        if not low <= value <= high:
            raise ValueError(f"{name}: expected {low:g} to {high:g}, got {value}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within limits.

        Raises:
            ValueError: It is not one.
        """
        value = self.number(name, default, low, high)
        if value != int(value):
            raise ValueError(f"{name}: expected a whole number, got {value}")
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false; false if it is not given.

        Raises:
            ValueError: It is neither.
        """
        value = self.fields.get(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{name}: expected true or false, got {_shown(value)}")
        return value

    def numbers(self, name: str, count: int) -> list[float] | None:
        """A list of finite numbers; None if it is not given.

        Raises:
            ValueError: It is something else.
        """
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, list) and len(value) == count:
            plain = [x for x in value if isinstance(x, int | float) and not isinstance(x, bool)]
            if len(plain) == count and all(abs(x) <= float_info.max for x in plain):
                return plain
        raise ValueError(f"{name}: expected {count} numbers, got {_shown(value)}")

    def text(self, name: str) -> str | None:
        """A text; None if it is not given.

        Raises:
            ValueError: It is something else.
        """
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name}: expected a text, got {_shown(value)}")
        return value

    def photo(self) -> bytes | None:
        """The bytes of the photo's file; None if it is not given.

        Raises:
            ValueError: It is neither a file nor a data URI.
        """
        if self.image is not None:
            return self.image
        text = self.text("image")
        return None if text is None else of_data_uri(text)


async def read_json(request: Request) -> dict[str, Any]:
    """The object in a body.

    Raises:
        HTTPException: 400, it is not one.
    """
    try:
        content = json.loads(await request.body(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise HTTPException(400, f"the body: expected a JSON object, got {_shown(content)}")
    return content


async def read_given(request: Request, known: set[str]) -> Given:
    """The fields of a JSON object, or of a form whose parts hold JSON and whose image is a file.

    Raises:
        HTTPException: 400, it cannot be read; 415, it is neither.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    image, name = None, "image"
    if kind == "application/json":
        fields = await read_json(request)
    elif kind == "multipart/form-data":
        parts: dict[str, list[Any]] = {}
        async with request.form(
            max_files=1, max_fields=MAX_FIELDS, max_part_size=NAME_LENGTH
        ) as form:
            for key, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if key != "image":
                        raise HTTPException(400, f"{key[:NAME_LENGTH]}: only image may be a file")
                    image, name = await value.read(), (value.filename or name)[:NAME_LENGTH]
                else:
                    parts.setdefault(key, []).append(
                        value if key in ("image", "photo") else _json(key, value)
                    )
        # A list may come as one part, or as a part for each of its items.
        fields = {key: part[0] if len(part) == 1 else part for key, part in parts.items()}
        if image is not None and "image" in fields:
            raise HTTPException(400, "image: is given twice")
    else:
        raise HTTPException(
            415, "the body: expected application/json or multipart/form-data with a file image"
        )
    unknown = sorted(set(fields) - known)
    if unknown:
        raise HTTPException(
            400, f"{unknown[0][:NAME_LENGTH]}: unknown; there are {', '.join(sorted(known))}"
        )
    return Given(fields, image, name)


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        raise HTTPException(
            400, f"{key[:NAME_LENGTH]}: expected JSON, got {_shown(text)}"
        ) from None


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
