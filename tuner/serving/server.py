"""Model, engine, application and uvicorn put together, and taken apart in order."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass

import typer

from a2sf_core.config import A2SFConfig
from a2sf_core.policy import Policy
from a2sf_core.serve.app import Service
from a2sf_core.serve.door import Door
from a2sf_core.serve.engine import Engine
from a2sf_core.serve.limits import Limits
from a2sf_core.switch import attach
from tuner.inputs.greedy import end_tokens
from tuner.inputs.models import load_model, max_tokens
from tuner.printing import printable
from tuner.serving.address import Address, url_of
from tuner.serving.http import serve_until_signal

_CLIENTS_FOR_EACH_PLACE = 4


@dataclass(frozen=True)
class Options:
    """Of engine, requests and model, as the command line has them."""

    memory: int | None
    rows: int
    waiting: int
    piece: int
    most: int
    seconds: float
    body: int
    device: str
    dtype: str


def run(
    model: str, tuned: A2SFConfig | None, name: str, address: Address, listening: socket.socket, options: Options
) -> None:
    """Serve until SIGTERM or Ctrl-C; then take no more, and let what runs end.

    Raises:
        A2SFError: if the model cannot be used, or is not the one that the config is for.
    """
    with ExitStack() as stack:
        loaded, tokenizer = load_model(model, options.device, options.dtype)
        policy = tuned.policy if tuned else Policy.full(loaded.config.get_text_config().num_hidden_layers)
        stack.enter_context(tuned.attach(loaded) if tuned else attach(policy, loaded))
        engine = Engine(
            loaded, tokenizer, policy, options.memory, options.rows, options.waiting, options.piece,
            end_tokens(loaded, tokenizer),
        )  # fmt: skip
        stack.callback(engine.close)
        limits = Limits(max_tokens(loaded, tokenizer), options.most, options.body, options.seconds)
        app = Door(Service(engine, tokenizer, name, limits).app, address.token, address.trusts_loopback)
        typer.echo(printable(f"{name} at {url_of(address.host, listening)}/v1 ({_kept(tuned)})"))
        most_clients = _CLIENTS_FOR_EACH_PLACE * (options.rows + options.waiting)
        serve_until_signal(app, listening, address.drain, most_clients)


def _kept(tuned: A2SFConfig | None) -> str:
    if tuned is None:
        return "the whole cache is kept"
    return f"pruned as tuned for {tuned.task}, {tuned.policy.cache_fraction(1000):.0%} of 1,000 tokens kept"
