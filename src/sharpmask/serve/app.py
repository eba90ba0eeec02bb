"""The server: what each address answers.

``GET /`` is the page. ``/v1/propose``, ``/v1/prompt`` and ``/v1/detect`` give masks as COCO;
``/openapi.json`` describes them. Label Studio and X-AnyLabeling find the addresses that they know.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from sharpmask.detection.detections import Detections
from sharpmask.detection.detector import Detector
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.inference.proposer import Proposer
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.serve.desk import Desk
from sharpmask.serve.guards import Guarded, LimitedBodies
from sharpmask.serve.label_studio import LabelStudio
from sharpmask.serve.openapi import description
from sharpmask.serve.questions import coco_of, read_given
from sharpmask.serve.settings import Settings
from sharpmask.serve.x_anylabeling import XAnyLabeling

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; connect-src 'self' blob:; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy of the page: it loads its own files and nothing else."""
log = logging.getLogger("sharpmask.serve")


def create_app(
    proposer: Proposer, settings: Settings | None = None, *, detector: Detector | None = None
) -> Starlette:
    """The server as an ASGI application, for uvicorn or any other.

    Args:
        proposer: Reads the photos.
        settings: See ``Settings``.
        detector: Names objects, on the same proposer; without one ``/v1/detect`` is not there.
    """
    settings = settings or Settings()
    limits = settings.limits
    desk = Desk(proposer, limits, settings.threads)
    label_studio = LabelStudio(desk, settings)
    x_anylabeling = XAnyLabeling(desk, settings)

    async def health(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"status": "UP", "model_class": "sharpmask"})

    async def config(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"mode": "server", "token": bool(settings.token)})

    async def openapi(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(
            description(limits, guarded=bool(settings.token), names=detector is not None)
        )

    async def of_photo(
        request: Request, find: Callable[[ReadPhoto], Proposals | Detections], min_score: float
    ) -> Response:
        with desk.place():
            given = await read_given(request, {"image", "count", "min_score", "no_overlap"})

            def answer() -> bytes:
                select = Selection(
                    min_score=given.number("min_score", min_score, 0, 1),
                    top=given.integer("count", limits.max_count, 1, limits.max_count),
                    no_overlap=given.flag("no_overlap"),
                )
                data = given.photo()
                if data is None:
                    raise ValueError("image: is missing; give a file or a data URI")
                photo_id, photo = desk.read(data, given.name)
                return coco_of(select(find(photo)), photo_id, given.name)

            return Response(await desk.work(answer), media_type="application/json")

    async def propose(request: Request) -> Response:
        return await of_photo(request, lambda photo: photo.propose(), 0)

    async def detect(request: Request) -> Response:
        if detector is None:
            raise HTTPException(404, "the server has no detector; start it with --detector")
        return await of_photo(request, detector.on, detector.min_score)

    async def prompt(request: Request) -> Response:
        with desk.place():
            given = await read_given(request, {"image", "photo", "point", "box", "count"})

            def answer() -> bytes | None:
                point, box = given.numbers("point", 2), given.numbers("box", 4)
                if (point is None) == (box is None):
                    raise ValueError("give either point, [x, y], or box, [x0, y0, x1, y1]")
                count = given.integer("count", 3, 1, limits.max_count)
                data, photo_id = given.photo(), given.text("photo")
                if (data is None) == (photo_id is None):
                    raise ValueError("give either image, or photo: the id in an earlier answer")
                if data is not None:
                    photo_id, photo = desk.read(data, given.name)
                else:
                    assert photo_id is not None
                    known = desk.recall(photo_id)
                    if known is None:
                        return None
                    photo = known
                found = (
                    photo.at(point[0], point[1], count) if point else photo.in_box(box or ()).alone
                )
                return coco_of(found, photo_id, given.name)

            content = await desk.work(answer)
            if content is None:
                raise HTTPException(404, "photo: is not remembered any more; send the image again")
            return Response(content, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        desk.close()

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts))]
    if settings.origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            )
        )
    if settings.token:
        middleware.append(Middleware(Guarded, token=settings.token))
    middleware.append(Middleware(LimitedBodies, limits=limits))
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/config.json", config),
            Route("/openapi.json", openapi),
            Route("/v1/propose", propose, methods=["POST"]),
            Route("/v1/detect", detect, methods=["POST"]),
            Route("/v1/prompt", prompt, methods=["POST"]),
            *label_studio.routes,
            *x_anylabeling.routes,
        ],
        middleware=middleware,
        exception_handlers={HTTPException: refuse, ClientDisconnect: forget, Exception: fail},  # type: ignore[dict-item]
        lifespan=lifespan,
    )
    # Not a route: then it would answer what other routes refuse for their method.
    app.router.default = Page(str(resources.files("sharpmask.serve") / "static"))
    return app


class Page(StaticFiles):
    """The page's files, with headers that keep it to itself."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory=directory, html=True)

    def file_response(self, *args: Any, **options: Any) -> Response:
        """A file and its headers."""
        response = super().file_response(*args, **options)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-cache"
        return response


async def refuse(request: Request, error: HTTPException) -> Response:  # noqa: ARG001
    """What is wrong with a request, as JSON."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def forget(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """An answer to a client that has left; nobody reads it."""
    return Response(status_code=400)


async def fail(request: Request, error: Exception) -> Response:
    """An error of the server's own; its log tells more."""
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the server made a mistake; its log tells more"}, 500)
