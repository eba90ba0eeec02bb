"""X-AnyLabeling's remote server: a model that runs on a photo, or answers points and rectangles."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sharpmask.inference.prompts import ReadPhoto
from sharpmask.polygons import polygons
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.serve.desk import Desk, of_data_uri
from sharpmask.serve.questions import Given, read_json
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings
from sharpmask.writers.writer import LABEL

MODEL = "sharpmask"
UNNAMED = "AUTOLABEL_OBJECT"
"""What X-AnyLabeling calls an object until its user has named it."""
WIDGETS = (
    {"name": "button_run"},
    {"name": "button_add_point"},
    {"name": "button_remove_point"},
    {"name": "button_add_rect"},
    {"name": "button_clear"},
    {"name": "button_finish_object"},
    {"name": "input_conf"},
    {"name": "edit_conf", "value": 0.3},
    {"name": "input_iou"},
    {"name": "edit_iou", "value": 0.7},
    {"name": "toggle_preserve_existing_annotations", "value": False},
)


class XAnyLabeling:
    """The routes of a remote server.

    Args:
        desk: Does the work.
        settings: Which masks are wanted.
    """

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk = desk
        self.top = settings.labels.top
        self.routes = [
            Route("/v1/models", self.models),
            Route("/v1/predict", self.predict, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:  # noqa: ARG002
        """The one model, and the controls that it needs."""
        model = {
            "display_name": "SharpMask: all objects, points, rectangles",
            "widgets": WIDGETS,
            "batch_processing_mode": "default",
        }
        return JSONResponse({"success": True, "data": {MODEL: model}})

    async def predict(self, request: Request) -> Response:
        """Polygons of a photo."""
        with self.desk.place():
            content = await read_json(request)
            image, params = content.get("image"), content.get("params") or {}
            if not isinstance(image, str) or not isinstance(params, dict):
                raise HTTPException(400, "expected image, a data URI, and params, an object")

            def answer() -> list[dict[str, Any]]:
                return self.desk.photos.run(answered, of_data_uri(image), params, self.top)

            found = await self.desk.work(answer)
            data = {"shapes": found, "description": "", "replace": None}
            return JSONResponse({"success": True, "data": data})


def answered(
    photos: Photos, data: bytes, params: Mapping[str, Any], top: int | None
) -> list[dict[str, Any]]:
    """Shapes of a photo's objects, or of the one that is marked.

    Raises:
        ValueError: It is not a photo, or a parameter cannot be read.
    """
    _, photo = photos.read(data)
    if params.get("marks"):
        return shapes(marked(photo, params["marks"]), UNNAMED)
    given = Given(params, None, "")
    select = Selection(
        min_score=given.number("conf_threshold", 0, 0, 1),
        distinct=given.number("iou_threshold", 1, 0, 1) or 1.0,
        top=top,
    )
    return shapes(select(photo.propose()), LABEL)


def marked(photo: ReadPhoto, marks: Any) -> Proposals:
    """The mask that a user's marks ask for.

    Raises:
        ValueError: They cannot be read.
    """
    points: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    box = None
    for mark in marks if isinstance(marks, list) else [marks]:
        fields = Given(mark if isinstance(mark, Mapping) else {}, None, "")
        if fields.text("type") == "rectangle":
            if fields.number("label", 1, 0, 1):
                x0, y0, x1, y1 = fields.numbers("data", 4) or _missing()
                box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        else:
            x, y = fields.numbers("data", 2) or _missing()
            (points if fields.number("label", 1, 0, 1) else without).append((x, y))
    return photo.best(points, without, box)


def shapes(found: Proposals, label: str) -> list[dict[str, Any]]:
    """Masks as polygons, one for each: the largest piece."""
    return [
        {
            "label": label,
            "shape_type": "polygon",
            "points": [*ring.tolist(), ring[0].tolist()],
            "score": score,
        }
        for rle, score in zip(found.rles(), found.scores.tolist(), strict=True)
        for ring in polygons(rle)[:1]
    ]


def _missing() -> list[float]:
    raise ValueError("marks: expected data, the numbers of a point or a rectangle")
