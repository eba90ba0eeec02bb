"""Label Studio's machine-learning backend: masks before people start, and masks where they click.

It speaks the routes that Label Studio calls: ``/health``, ``/setup``, ``/predict``, ``/webhook``.
Regions are brushes, polygons or rectangles, whichever the project's labelling interface has.
"""

import json
import logging
import math
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from uuid import uuid4
from xml.etree import ElementTree

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sharpmask.defaults import VERSION
from sharpmask.images import ImageError
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.serve.desk import Desk, of_data_uri
from sharpmask.serve.questions import read_json
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings
from sharpmask.writers.labelstudio import brush_value, polygon_value

KINDS = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels",
         "RectangleLabels": "rectanglelabels"}  # fmt: skip
"""Tags of a labelling interface that can hold a mask, the best first, and their regions' type."""
FETCH_S = 20.0
MODEL_VERSION = f"sharpmask {VERSION}"
log = logging.getLogger("sharpmask.serve")


@dataclass(frozen=True)
class Interface:
    """What a project's labelling interface says.

    Attributes:
        name: Of the tag that holds the regions.
        kind: Their type, one of ``KINDS``.
        image: Name of the image's tag.
        value: Key of its address in a task's data.
        label: The first label.
    """

    name: str
    kind: str
    image: str
    value: str
    label: str

    @classmethod
    def of(cls, config: str) -> "Interface":
        """Read it from its XML.

        Raises:
            ValueError: It is not XML, or has no image with a tag that can hold a mask.
        """
        try:
            root = ElementTree.fromstring(config)
        except ElementTree.ParseError as error:
            raise ValueError(f"label_config: is not XML: {error}") from None
        images = {tag.get("name"): tag for tag in root.iter("Image")}
        for tag_name, kind in KINDS.items():
            for tag in root.iter(tag_name):
                target = tag.get("toName", "").split(",")[0]
                if target in images and tag.get("name"):
                    first = tag.find("Label")
                    return cls(
                        tag.get("name", ""), kind, target,
                        images[target].get("value", "").lstrip("$"),
                        "object" if first is None else first.get("value", "object"),
                    )  # fmt: skip
        raise ValueError(
            f"label_config: expected an Image with one of {', '.join(KINDS)}; change the project's "
            "labelling interface"
        )


class LabelStudio:
    """The routes of a backend.

    Args:
        desk: Does the work.
        settings: Where photos may be fetched, and which masks are wanted.
    """

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk = desk
        self.select = settings.labels
        self.host = settings.label_studio.rstrip("/")
        self.token = settings.label_studio_token
        self.given_token = ""
        self.routes = [
            Route("/setup", self.setup, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/webhook", self.webhook, methods=["POST"]),
        ]

    async def setup(self, request: Request) -> Response:
        """A project joins; Label Studio tells its address and a token for it."""
        with self.desk.place():
            content = await read_json(request)
            host, token = content.get("hostname"), content.get("access_token")
            if isinstance(host, str) and isinstance(token, str) and self._is_own(host):
                self.given_token = token
            return JSONResponse({"model_version": MODEL_VERSION})

    async def webhook(self, request: Request) -> Response:
        """Something happened in the project; there is nothing to learn from it."""
        with self.desk.place():
            await read_json(request)
            return JSONResponse({"status": "ok"})

    async def predict(self, request: Request) -> Response:
        """Regions for tasks: all masks, or the one that was asked for by a point or a box."""
        with self.desk.place():
            content = await read_json(request)
            tasks, config = content.get("tasks"), content.get("label_config")
            params = content.get("params") or {}
            if not (
                isinstance(tasks, list) and isinstance(config, str) and isinstance(params, dict)
            ):
                raise HTTPException(
                    400, "expected tasks, a list, label_config, a text, and params, an object"
                )
            try:
                interface = Interface.of(config)
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
            context = params.get("context")
            marks = context.get("result") if isinstance(context, dict) else None
            results = [await self._result(task, interface, marks or []) for task in tasks]
            answer = b'{"results": [%s]}' % b", ".join(results)
            return Response(answer, media_type="application/json")

    async def _result(
        self, task: Any, interface: Interface, marks: Sequence[Mapping[str, Any]]
    ) -> bytes:
        """One task's prediction; what cannot be read has no region and is told in the log."""
        try:
            return await self.desk.work(lambda: self._predict(task, interface, marks))
        except HTTPException as error:
            if error.status_code != 400:
                raise
            name = task.get("id") if isinstance(task, dict) else task
            log.warning("Label Studio's task %s: %s", name, error.detail)
            return as_json([], 0.0)

    def _predict(
        self, task: Any, interface: Interface, marks: Sequence[Mapping[str, Any]]
    ) -> bytes:
        try:
            address = task["data"][interface.value]
        except (TypeError, KeyError):
            raise ValueError(f"data: expected an address as {interface.value!r}") from None
        data = self.fetch(str(address))
        return self.desk.photos.run(prediction, data, interface, marks, self.select)

    def fetch(self, address: str) -> bytes:
        """A photo's file, from Label Studio's own host with its token, or out of a data URI.

        Raises:
            ImageError: It lies elsewhere, or cannot be fetched.
        """
        if address.startswith("data:"):
            return of_data_uri(address)
        whole = urljoin(f"{self.host}/", address)
        if not self.host or not self._is_own(whole):
            raise ImageError(
                f"{address}: photos are fetched from Label Studio alone; start the server with "
                "--label-studio and its address"
            )
        try:
            return self._get(whole, self._authorization())
        except (OSError, ValueError) as error:  # HTTPError, an open answer, is an OSError
            reason = str(error)
            if isinstance(error, HTTPError):
                error.close()
                if error.code == HTTPStatus.UNAUTHORIZED:
                    reason = (
                        "Label Studio refuses the token; create a personal access token there and "
                        "give it with --label-studio-token"
                    )
            raise ImageError(f"{address}: cannot be fetched ({reason})") from None

    def _is_own(self, address: str) -> bool:
        """Whether an address is of the Label Studio that was named at the start."""
        given, own = urlsplit(address), urlsplit(self.host)
        return (given.scheme, given.netloc) == (own.scheme, own.netloc)

    def _authorization(self) -> str:
        """A legacy token as it is; a personal access token is exchanged for a short-lived one."""
        token = self.token or self.given_token
        if token.count(".") != 2:
            return f"Token {token}"
        body = json.dumps({"refresh": token}).encode()
        answer = json.loads(self._get(f"{self.host}/api/token/refresh", "", body))
        return f"Bearer {answer['access']}"

    def _get(self, address: str, authorization: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body else {}
        if authorization:
            headers["Authorization"] = authorization
        request = urllib.request.Request(address, body, headers)
        with _opener.open(request, timeout=FETCH_S) as response:
            data: bytes = response.read(self.desk.limits.max_bytes + 1)
        if len(data) > self.desk.limits.max_bytes:
            raise ValueError(f"more than {self.desk.limits.max_bytes:,} bytes")
        return data


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it might lead to another host, and take the token there."""

    def redirect_request(self, *_: Any) -> None:
        """Nowhere."""


_opener = urllib.request.build_opener(_Stay, urllib.request.ProxyHandler({}))


def prediction(
    photos: Photos,
    data: bytes,
    interface: Interface,
    marks: Sequence[Mapping[str, Any]],
    select: Selection,
) -> bytes:
    """A photo's regions: all masks, or the one that was asked for.

    Raises:
        ValueError: It is not a photo, or a mark cannot be read.
    """
    _, photo = photos.read(data, "the task's photo")
    label = interface.label
    if marks:
        found, label = prompted(photo, marks, label)
    else:
        found = select(photo.propose())
    score = float(np.mean(found.scores)) if len(found) else 0.0
    return as_json(regions(found, interface, label), score)


def as_json(result: list[dict[str, Any]], score: float) -> bytes:
    """A prediction: JSON at once, as brushes are long lists of numbers."""
    return json.dumps({"model_version": MODEL_VERSION, "score": score, "result": result}).encode()


def prompted(
    photo: ReadPhoto, marks: Sequence[Mapping[str, Any]], label: str
) -> tuple[Proposals, str]:
    """The mask that a user's key points and rectangle ask for, and the label that they chose.

    Raises:
        ValueError: A mark cannot be read.
    """
    height, width = photo.image.shape[:2]
    points: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    box = None
    for mark in marks:
        try:
            value, kind = mark["value"], mark["type"]
            x, y = value["x"] * width / 100, value["y"] * height / 100
            if kind.startswith("keypoint"):
                positive = mark.get("is_positive", value.get("is_positive", 1))
                (points if positive else without).append((x, y))
            elif kind.startswith("rectangle"):
                box = (x, y, x + value["width"] * width / 100, y + value["height"] * height / 100)
            else:
                continue
            label = (value.get(kind) or [label])[0]
        except (TypeError, KeyError, AttributeError, IndexError):
            raise ValueError("context: expected key points or rectangles in percent") from None
        if not all(map(math.isfinite, (x, y, *(box or ())))):
            raise ValueError("context: expected finite percentages")
    return photo.best(points, without, box), label


def regions(found: Proposals, interface: Interface, label: str) -> list[dict[str, Any]]:
    """Masks as Label Studio's regions."""
    height, width = found.image_size
    results = []
    for rle, box, score in zip(
        found.rles(), found.boxes.tolist(), found.scores.tolist(), strict=True
    ):
        if interface.kind == "brushlabels":
            value = brush_value(rle)
        elif interface.kind == "polygonlabels":
            value = polygon_value(rle)
        else:
            x0, y0, x1, y1 = box
            shares = (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
            sides = ("x", "y", "width", "height")
            value = {**{k: 100 * s for k, s in zip(sides, shares, strict=True)}, "rotation": 0}
        results.append(
            {
                "id": uuid4().hex,  # a region takes the place of another one with its id
                "from_name": interface.name,
                "to_name": interface.image,
                "type": interface.kind,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": score,
                "value": {**value, interface.kind: [label]},
            }
        )
    return results
