"""The OpenAI-compatible application: routes, and the way of a request from its body to its answer."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from jinja2 import TemplateError
from openai.types import Model
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from a2sf_core.errors import A2SFError
from a2sf_core.serve.answers import ChatAnswer, TextAnswer
from a2sf_core.serve.bodies import ChatBody, Common, TextBody, read_body
from a2sf_core.serve.door import bounded_body
from a2sf_core.serve.engine import Busy, Engine
from a2sf_core.serve.job import Ended, Event, Failed, Job, Piece
from a2sf_core.serve.limits import Limits
from a2sf_core.serve.refusal import Refusal
from a2sf_core.serve.sampling import Sampling

ANSWERED_BY = "A2SF-Config"
"""Of an answer: the role and the version of the config that it was written by."""
_BODY_SECONDS = 30.0
_SEND_SECONDS = 30.0  # a client that reads no more is let go of
_FAILED = {
    "timeout": (504, "the answer was not written in time; ask for fewer tokens or come back when there is less to do."),
    "shutdown": (503, "the server is stopping."),
    "error": (500, "the model failed on this request; the server's log names the kind of error."),
}


class Service:
    """One served model. `app` is the application."""

    def __init__(self, engine: Engine, tokenizer: Any, name: str, limits: Limits) -> None:
        """Serve under `name`, and no other."""
        self._engine, self._tokenizer, self._name, self._limits = engine, tokenizer, name, limits
        self._created = int(time.time())
        self._encoding = threading.Lock()  # a fast tokenizer is not to be changed by two threads
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/healthz", self._health),
                Route("/metrics", self._show_metrics),
            ],
            exception_handlers={Refusal: self._refuse, HTTPException: self._refuse_route},
        )

    # ---- routes -------------------------------------------------------------------------------------------

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(self._described())

    async def _health(self, _: Request) -> Response:
        is_well = self._engine.is_alive
        return JSONResponse({"status": "ok" if is_well else "stopped"}, 200 if is_well else 503)

    async def _show_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _chat(self, request: Request) -> Response:
        body = read_body(await self._body(request), ChatBody)
        self._check_name(body.model)
        messages = [message.for_template() for message in body.messages]
        return await self._answer(request, body, await asyncio.to_thread(self._encode_chat, messages), ChatAnswer)

    async def _complete(self, request: Request) -> Response:
        body = read_body(await self._body(request), TextBody)
        self._check_name(body.model)
        return await self._answer(request, body, await asyncio.to_thread(self._encode, body.prompt), TextAnswer)

    async def _refuse(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        self._engine.metrics.refused.labels(str(error.status)).inc()
        return error.response()

    async def _refuse_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await self._refuse(request, Refusal(error.status_code, f"{error.detail}: see /v1/models."))

    # ---- before the engine ----------------------------------------------------------------------------------

    async def _body(self, request: Request) -> bytes:
        try:
            return await bounded_body(request, self._limits.body, _BODY_SECONDS)
        except ClientDisconnect:
            raise Refusal(400, "the body broke off.") from None

    def _described(self) -> dict[str, Any]:
        return Model(id=self._name, created=self._created, object="model", owned_by="a2sf").model_dump()

    def _check_name(self, name: str) -> None:
        # Compared and nothing else: what a client sends is never looked up on a disk or the Hub.
        if name != self._name:
            raise Refusal(404, f"this model is not served; {self._name!r} is.", "model", "model_not_found")

    def _encode(self, prompt: str | list[int] | list[str]) -> list[int]:
        if isinstance(prompt, list) and not isinstance(prompt[0], str):
            ids = [int(token) for token in prompt]
            if not all(0 <= token < len(self._tokenizer) for token in ids):
                raise Refusal(400, f"prompt: tokens are numbers from 0 to {len(self._tokenizer) - 1}.", "prompt")
            return ids
        with self._encoding:
            return list(self._tokenizer(prompt if isinstance(prompt, str) else prompt[0]).input_ids)

    def _encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        if not self._tokenizer.chat_template:
            raise Refusal(400, "this model has no chat template; use /v1/completions.", "messages")
        try:
            with self._encoding:
                text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
                return list(self._tokenizer(text, add_special_tokens=False).input_ids)
        except TemplateError as error:
            raise Refusal(400, f"messages: the model's chat template refuses them ({error.message}).") from None

    def _most(self, body: Common, n: int) -> int:
        """Tokens to write at most after `n`."""
        room = self._limits.context - n
        if n == 0:
            raise Refusal(400, "the prompt has no tokens; send one or more.")
        if room < 1 or (body.most or 0) > room:
            raise Refusal(
                400,
                f"the model takes {self._limits.context:,} tokens: the prompt has {n:,}, and {body.most or 1:,} more "
                "are asked for; send a shorter prompt or ask for fewer.",
                code="context_length_exceeded",
            )
        return body.most or min(room, self._limits.most)

    # ---- the answer -------------------------------------------------------------------------------------------

    async def _answer(
        self, request: Request, body: Common, ids: list[int], kind: type[ChatAnswer] | type[TextAnswer]
    ) -> Response:
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever would have listened
                loop.call_soon_threadsafe(events.put_nowait, event)

        served = self._engine.configs.pick()
        job = Job(
            tuple(ids), self._most(body, len(ids)), tell, _sampling(body), body.stops, self._limits.seconds, served
        )
        try:
            self._engine.submit(job)
        except Busy:
            raise Refusal(429, "too many requests wait already; come back in a moment.") from None
        except A2SFError as error:
            raise Refusal(400, str(error), code="cache_memory_exceeded") from None
        answer, headers = kind(self._name), {ANSWERED_BY: str(served)}
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            stream = self._stream(job, events, answer, with_usage)
            return EventSourceResponse(
                stream, headers=headers, send_timeout=_SEND_SECONDS, sep="\n",
                client_close_handler_callable=self._letting_go_of(job),
            )  # fmt: skip
        whole = await self._whole(request, job, events, answer)
        whole.headers.update(headers)
        return whole

    def _letting_go_of(self, job: Job) -> Callable[[Any], Awaitable[None]]:
        async def let_go(_: Any) -> None:  # a stream that was never begun has no end in which to do this
            self._engine.cancel(job)

        return let_go

    async def _whole(
        self, request: Request, job: Job, events: asyncio.Queue[Event], answer: ChatAnswer | TextAnswer
    ) -> Response:
        gone = asyncio.create_task(_until_gone(request))
        text = ""
        try:
            while True:
                event = asyncio.create_task(events.get())
                await asyncio.wait((event, gone), return_when=asyncio.FIRST_COMPLETED)
                if not event.done():
                    event.cancel()
                    return Response(status_code=499)  # nobody reads it
                match event.result():
                    case Piece() as piece:
                        text += piece.text
                    case Ended() as end:
                        return JSONResponse(answer.whole(text, end).model_dump())
                    case Failed() as failed:
                        raise Refusal(*_FAILED[failed.why], code=failed.why)
        finally:
            gone.cancel()
            self._engine.cancel(job)

    async def _stream(
        self, job: Job, events: asyncio.Queue[Event], answer: ChatAnswer | TextAnswer, with_usage: bool
    ) -> AsyncIterator[dict[str, str]]:
        is_first = True
        try:
            while True:
                match await events.get():
                    case Piece(text):
                        yield {"data": answer.chunk(text, is_first=is_first).model_dump_json()}
                        is_first = False
                    case Ended() as end:
                        yield {"data": answer.chunk("", end, is_first).model_dump_json()}
                        if with_usage:
                            yield {"data": answer.last(end).model_dump_json()}
                        yield {"data": "[DONE]"}
                        return
                    case Failed(why):
                        status, said = _FAILED[why]
                        yield {"data": json.dumps({"error": Refusal(status, said, code=why).error.model_dump()})}
                        return
        finally:
            self._engine.cancel(job)


def _sampling(body: Common) -> Sampling:
    return Sampling(
        1.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        secrets.randbits(63) if body.seed is None else body.seed,
    )


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
