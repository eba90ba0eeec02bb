"""What a client may ask for, and who may ask: each refusal is an answer."""

import asyncio
import base64
import binascii
import secrets

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sharpmask.serve.settings import Limits


class LimitedBodies:
    """Refuses bodies that are too large, by what they announce and by what comes, or too slow.

    Args:
        app: What gets the rest.
        limits: The limits.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its body counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.receive_s
        announced = Headers(scope=scope).get("content-length", "")
        count = int(announced) if announced.isdigit() else 0
        too_large = count > self.limits.max_bytes
        received, complete = 0, False

        async def counted() -> Message:
            nonlocal received, complete
            if complete:  # from now on it can only be told that the client has left
                return await receive()
            if too_large:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {self.limits.receive_s:.0f} s"
                ) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self.limits.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413,
            f"the body is larger than {self.limits.max_bytes:,} bytes; send a smaller photo",
            {"Connection": "close"},
        )


class Guarded:
    """Asks for a token whoever wants work done; the page, which holds no secret, is open.

    The token comes as ``Bearer`` or ``Token``, or as the password of basic authentication.

    Args:
        app: What gets the requests that may pass.
        token: The token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it may pass."""
        if scope["type"] == "http" and not self._may_pass(scope):
            message = "a token is needed: Authorization: Bearer TOKEN"
            headers = {"WWW-Authenticate": "Bearer"}
            await JSONResponse({"error": message}, 401, headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["method"] in ("GET", "HEAD", "OPTIONS") and not scope["path"].startswith("/v1/"):
            return True
        given = Headers(scope=scope)
        kind, _, value = given.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() not in ("bearer", "token"):
            value = given.get("token", "")
        return secrets.compare_digest(value.strip().encode(), self.token.encode())
