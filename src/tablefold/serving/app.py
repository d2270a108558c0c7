"""The service's addresses, as an ASGI application: what is asked, what is refused, what is answered."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tablefold.serving import open_inference, plain_requests
from tablefold.serving.batching import Answer, Batcher, Job
from tablefold.serving.counters import Counters
from tablefold.serving.refusals import RefusedError
from tablefold.serving.scorer import Scorer
from tablefold.serving.service import Service

_log = logging.getLogger("tablefold")
_DISCARDED_BODIES = 4
"""A body that is too large is read up to so many times what is allowed, so that its sender reads the answer."""

Handler = Callable[[Request], Awaitable[Answer]]


@dataclass
class Served:
    """What is served now; a new run is taken over by setting both at once."""

    scorer: Scorer
    version: str


class Answers:
    """Everything a process of the service answers.

    Args:
        service: what it was told.
        served: the scorer to begin with; `served` may be set to another one at any time.
        counters: where it counts.

    Attributes:
        draining: whether the service ends: it answers, tells that it is not ready, and has each connection closed.
    """

    def __init__(self, service: Service, served: Served, counters: Counters) -> None:
        self.service, self.served, self.counters = service, served, counters
        self.draining = False
        self._batcher = Batcher(service.queue, service.timeout, counters.count_batch)
        self._token = None if service.token is None else f"Bearer {service.token}".encode()
        routes = [
            self._route("/score", "POST", self._score),
            *self._of_model("/infer", "POST", self._infer),
            self._route("/v2/health/live", "GET", self._is_alive, open_=True),
            self._route("/v2/health/ready", "GET", self._is_ready, open_=True),
            self._route("/ready", "GET", self._is_ready, open_=True),
            *self._of_model("/ready", "GET", self._is_ready, open_=True),
            *self._of_model("", "GET", self._describe),
            self._route("/v2", "GET", self._describe_server),
            self._route("/metrics", "GET", self._metrics),
        ]
        self.app = Starlette(routes=routes, exception_handlers={404: self._unknown, 405: self._wrong_method})
        self.app.router.redirect_slashes = False  # to an address that the client's Host header names

    def close(self) -> None:
        """End the thread that scores."""
        self._batcher.close()

    def _of_model(self, rest: str, method: str, handler: Handler, *, open_: bool = False) -> list[Route]:
        paths = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        return [self._route(path + rest, method, handler, open_=open_) for path in paths]

    def _route(self, path: str, method: str, handler: Handler, *, open_: bool = False) -> Route:
        asked = path.rpartition("/")[2].strip("{}")

        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            response = await self._guarded(handler, request, open_)
            if self.draining:
                response.headers["connection"] = "close"
            self.counters.waiting.set(self._batcher.waiting)
            self.counters.requests.labels(asked, response.status_code).inc()
            self.counters.seconds.labels(asked).observe(time.perf_counter() - began)
            return response

        return Route(path, endpoint, methods=[method])

    async def _guarded(self, handler: Handler, request: Request, open_: bool) -> Response:
        """The answer, or the refusal; what nobody foresaw is told by its kind alone, as it may hold what was sent."""
        try:
            if not open_:
                self._check_token(request)
            body, headers = await handler(request)
            return Response(body, 200, {"content-type": "application/json", **headers})
        except RefusedError as refusal:
            return _refusal(refusal)
        except ClientDisconnect:
            return _refusal(RefusedError(400, "the body ended early"))
        except Exception as error:
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
            _log.error("a request failed: %s at %s", type(error).__name__, place)
            return _refusal(RefusedError(500, "the service failed; its log says where"))

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        shown = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(shown, self._token):
            raise RefusedError(401, "show the token: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})

    async def _score(self, request: Request) -> Answer:
        body, served = await self._body(request), self.served
        return await self._batcher.answer(
            Job(
                served.scorer,
                lambda: plain_requests.read_columns(body, served.scorer.names, self.service.max_rows),
                lambda scores: (plain_requests.show_scores(scores, served.version), {}),
            )
        )

    async def _infer(self, request: Request) -> Answer:
        served = self._named(request)
        body, length = await self._body(request), request.headers.get(open_inference.HEADER_LENGTH)
        found: list[open_inference.InferenceRequest] = []

        def read() -> plain_requests.Columns:
            found.append(open_inference.read_request(body, length, served.scorer, self.service.max_rows))
            return found[0].columns

        return await self._batcher.answer(
            Job(
                served.scorer,
                read,
                lambda scores: open_inference.show_answer(scores, found[0], self.service.name, served.version),
            )
        )

    def _named(self, request: Request) -> Served:
        """What is served, if the address names it."""
        served, name = self.served, request.path_params["name"]
        if name != self.service.name:
            raise RefusedError(404, f"there is no model of this name; {self.service.name} is served")
        if request.path_params.get("version", served.version) != served.version:
            raise RefusedError(404, f"this version is not served; {served.version} is")
        return served

    async def _body(self, request: Request) -> bytes:
        """The body, if it is not too large and does not take too long."""
        most = self.service.max_body
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(415, "send the body as it is, without a content-encoding")
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self.service.timeout):
                async for piece in request.stream():
                    size += len(piece)
                    if size <= most:
                        pieces.append(piece)
                    elif size > _DISCARDED_BODIES * most:
                        break
        except TimeoutError:
            reason = f"the body took longer than {self.service.timeout:g} s"
            raise RefusedError(408, reason, {"connection": "close"}) from None
        if size > most:
            reason = f"the body is larger than {most:,} bytes, the most of a request; send several"
            raise RefusedError(413, reason, {"connection": "close"})
        return b"".join(pieces)

    async def _is_alive(self, request: Request) -> Answer:
        return orjson.dumps({"live": True}), {}

    async def _is_ready(self, request: Request) -> Answer:
        if "name" in request.path_params:
            self._named(request)
        if self.draining:
            raise RefusedError(503, "the service is ending")
        return orjson.dumps({"ready": True, "name": self.service.name, "version": self.served.version}), {}

    async def _describe(self, request: Request) -> Answer:
        served = self._named(request)
        return orjson.dumps(open_inference.describe(self.service.name, served.version, served.scorer)), {}

    async def _describe_server(self, request: Request) -> Answer:
        extensions = ["binary_tensor_data"]
        return orjson.dumps(
            {"name": "tablefold", "version": installed_version("tablefold"), "extensions": extensions}
        ), {}

    async def _metrics(self, request: Request) -> Answer:
        return self.counters.show(), {"content-type": self.counters.content_type}

    async def _unknown(self, request: Request, error: Exception) -> Response:
        return _refusal(RefusedError(404, "there is nothing at this address; see /v2"))

    async def _wrong_method(self, request: Request, error: Exception) -> Response:
        return _refusal(RefusedError(405, f"{request.method} is not how this is asked"))


def _refusal(refusal: RefusedError) -> Response:
    content = orjson.dumps({"error": refusal.reason})
    return Response(content, refusal.status, {"content-type": "application/json", **refusal.headers})
