"""The server: what each address answers.

``GET /`` is the page. ``/v1/propose`` and ``/v1/prompt`` give masks as COCO; ``/openapi.json``
describes them. Label Studio and X-AnyLabeling find the addresses that they know.
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

from sharpmask import defaults
from sharpmask.selection import Selection
from sharpmask.serve.answers import all_objects, at_prompt, named_objects
from sharpmask.serve.apart import PhotosApart
from sharpmask.serve.desk import Desk
from sharpmask.serve.guards import Guarded, LimitedBodies
from sharpmask.serve.label_studio import LabelStudio
from sharpmask.serve.openapi import description
from sharpmask.serve.questions import read_given
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings
from sharpmask.serve.x_anylabeling import XAnyLabeling

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; connect-src 'self' blob:; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy of the page: it loads its own files and nothing else."""
log = logging.getLogger("sharpmask.serve")


def create_app(photos: Photos | PhotosApart, settings: Settings | None = None) -> Starlette:
    """The server as an ASGI application, for uvicorn or any other.

    Args:
        photos: What is asked, here or in a process of its own.
        settings: See ``Settings``.
    """
    settings = settings or Settings()
    limits = settings.limits
    desk = Desk(photos, limits, settings.threads)
    label_studio = LabelStudio(desk, settings)
    x_anylabeling = XAnyLabeling(desk, settings)

    async def health(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"status": "UP", "model_class": "sharpmask"})

    async def config(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse({"mode": "server", "token": bool(settings.token)})

    async def openapi(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(description(limits, guarded=bool(settings.token), names=settings.names))

    async def of_photo(request: Request, find: Callable[..., bytes], min_score: float) -> Response:
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
                return photos.run(find, data, given.name, select)

            return Response(await desk.work(answer), media_type="application/json")

    async def propose(request: Request) -> Response:
        return await of_photo(request, all_objects, 0)

    async def detect(request: Request) -> Response:
        if not settings.names:
            raise HTTPException(404, "the server has no detector; start it with --detector")
        return await of_photo(request, named_objects, defaults.MIN_SCORE)

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
                photo = photo_id if data is None else data
                assert photo is not None
                return photos.run(at_prompt, photo, given.name, count, point, box)

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
                allow_origins=[origin.rstrip("/") for origin in settings.origins],
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
