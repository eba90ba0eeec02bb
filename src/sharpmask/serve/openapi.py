"""The description of the HTTP interface, OpenAPI 3.1."""

from typing import Any

from sharpmask import defaults
from sharpmask.defaults import VERSION
from sharpmask.serve.settings import Limits

Schema = dict[str, Any]

ERRORS = {
    400: "The request or its photo is at fault; the message says what.",
    401: "A token is needed.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type.",
    429: "All places are taken; try again soon.",
    500: "The server made a mistake.",
    503: "There was no answer in time.",
}


def description(limits: Limits, *, guarded: bool, names: bool) -> Schema:
    """The interface of a server with its limits.

    Args:
        limits: Of the server.
        guarded: Whether it asks for a token.
        names: Whether it has a detector.
    """
    count = {"type": "integer", "minimum": 1, "maximum": limits.max_count}
    photo: Schema = {
        "type": "string",
        "description": "A data URI, data:image/jpeg;base64,..., or the file's bytes in base64.",
    }
    propose: Schema = {
        "count": {**count, "default": limits.max_count, "description": "Maximum number of masks."},
        "min_score": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
        "no_overlap": {
            "type": "boolean",
            "default": False,
            "description": "Each pixel goes to the best mask that holds it.",
        },
    }
    prompt: Schema = {
        "photo": {"type": "string", "description": "Instead of image: the id in an answer."},
        "point": _numbers(2, "x, y in pixels of the photo."),
        "box": _numbers(4, "x0, y0, x1, y1 in pixels of the photo."),
        "count": {**count, "default": 3, "description": "Maximum number of masks at a point."},
    }
    paths = {
        "/v1/propose": {
            "post": _operation(
                "propose", "All objects of a photo", photo, propose, required=["image"]
            )
        },
        "/v1/prompt": {
            "post": _operation(
                "prompt", "The objects at a point, or the one in a box", photo, prompt, required=[]
            )
        },
        "/health": {
            "get": {
                "operationId": "health",
                "summary": "Whether the server lives",
                "security": [],
                "responses": {
                    "200": _content(
                        "It does.",
                        {"type": "object", "properties": {"status": {"const": "UP"}}},
                    )
                },
            }
        },
    }
    if names:
        detect = {**propose, "min_score": {**propose["min_score"], "default": defaults.MIN_SCORE}}
        paths["/v1/detect"] = {
            "post": _operation(
                "detect", "All objects of a photo that the detector names", photo, detect,
                required=["image"],
            )
        }  # fmt: skip
    prompted = paths["/v1/prompt"]["post"]["responses"]
    prompted["404"] = _content("The photo is not remembered any more.", _error())
    whole: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "sharpmask",
            "version": VERSION,
            "description": "Masks of the objects in a photo, of any class. A photo has at most "
            f"{limits.max_pixels:,} pixels, a body at most {limits.max_bytes:,} bytes.",
        },
        "paths": paths,
    }
    if guarded:
        whole["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        whole["security"] = [{"token": []}]
    return whole


def _operation(
    name: str, summary: str, photo: Schema, fields: Schema, required: list[str]
) -> Schema:
    form = {"image": {"type": "string", "contentMediaType": "image/*", "format": "binary"}}
    bodies = {
        "application/json": {"image": photo, **fields},
        "multipart/form-data": {**form, **fields},
    }
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {
                kind: {
                    "schema": {
                        "type": "object",
                        "properties": properties,
                        "required": required,
                        "additionalProperties": False,
                    }
                }
                for kind, properties in bodies.items()
            },
        },
        "responses": {
            "200": _content("A COCO data set of one photo.", _coco()),
            **{str(status): _content(text, _error()) for status, text in ERRORS.items()},
        },
    }


def _coco() -> Schema:
    annotation = {
        "id": {"type": "integer"},
        "image_id": {"const": 1},
        "category_id": {"type": ["integer", "string"], "description": "Of categories."},
        "segmentation": {
            "type": "object",
            "description": "Compressed RLE, as pycocotools reads it.",
            "properties": {"size": _numbers(2, "Height, width."), "counts": {"type": "string"}},
            "required": ["size", "counts"],
        },
        "bbox": _numbers(4, "x, y, width, height."),
        "area": {"type": "integer"},
        "iscrowd": {"const": 0},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    }
    image = {
        "id": {"const": 1},
        "file_name": {"type": "string"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
    }
    category = {
        "id": {"type": ["integer", "string"]},
        "name": {"type": "string"},
        "supercategory": {"type": "string"},
    }
    return _object(
        {
            "info": {"type": "object"},
            "images": {"type": "array", "items": _object(image)},
            "annotations": {"type": "array", "items": _object(annotation)},
            "categories": {"type": "array", "items": _object(category)},
            "photo": {"type": "string", "description": "Id by which /v1/prompt may ask again."},
        }
    )


def _error() -> Schema:
    return _object({"error": {"type": "string"}})


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _numbers(count: int, text: str) -> Schema:
    return {
        "type": "array",
        "items": {"type": "number"},
        "minItems": count,
        "maxItems": count,
        "description": text,
    }


def _content(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
