"""Model, engine, application and uvicorn put together, and taken apart in order."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass

import typer

from a2sf_core.policy import Policy
from a2sf_core.serve.app import Service
from a2sf_core.serve.door import Door
from a2sf_core.serve.engine import Engine
from a2sf_core.serve.limits import Limits
from a2sf_core.serve.watch import Watch, accepted_for
from a2sf_core.switch import attach
from tuner.inputs.greedy import end_tokens
from tuner.inputs.models import load_model, max_tokens
from tuner.printing import one_line, printable
from tuner.serving.address import Address, url_of
from tuner.serving.http import serve_until_signal
from tuner.serving.lineup import Lineup

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
    device_map: str | None


def run(model: str, lineup: Lineup, name: str, address: Address, listening: socket.socket, options: Options) -> None:
    """Serve until SIGTERM or Ctrl-C; then take no more, and let what runs end.

    Raises:
        A2SFError: if the model cannot be used, or is not the one that a config is for.
    """
    with ExitStack() as stack:
        loaded, tokenizer = load_model(model, options.device, options.dtype, device_map=options.device_map)
        _log_to_stderr()
        full = Policy.full(loaded.config.get_text_config().num_hidden_layers)
        accept = accepted_for(loaded)
        configs = lineup.configs(accept, full)
        stack.enter_context(attach(full, loaded))  # every row brings a cache with a policy of its own
        engine = Engine(
            loaded, tokenizer, configs, options.memory, options.rows, options.waiting, options.piece,
            end_tokens(loaded, tokenizer),
        )  # fmt: skip
        stack.callback(engine.close)
        stack.callback(Watch(configs, lineup.sources, accept, engine.metrics).close)
        limits = Limits(max_tokens(loaded, tokenizer), options.most, options.body, options.seconds)
        app = Door(Service(engine, tokenizer, name, limits).app, address.token, address.trusts_loopback)
        listening.listen()  # who comes now waits until uvicorn has started, and is not refused
        typer.echo(printable(f"{name} at {url_of(address.host, listening)}/v1 ({lineup})"))
        most_clients = _CLIENTS_FOR_EACH_PLACE * (options.rows + options.waiting)
        serve_until_signal(app, listening, address.drain, most_clients)


def _log_to_stderr() -> None:
    """What happens while serving, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("a2sf.serve")
    logger.setLevel(logging.INFO)
    logger.handlers[:], logger.propagate = [handler], False


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))
