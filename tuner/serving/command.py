"""`a2sf-serve`: a model with its tuned policy behind an OpenAI-compatible address."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from a2sf_core.errors import A2SFError
from tuner.choices import TOKEN_VARIABLE, check_installed, name_of, parse_bytes
from tuner.printing import one_line, quiet_libraries, write_what_cannot_be_shown

if TYPE_CHECKING:
    from tuner.serving.address import Address


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="'reference', 'smollm2', a folder, a .gguf file, or a name on the Hub.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="Run folder, a2sf_config.json or models:/NAME@ALIAS, watched for a new one; without it the "
            "whole cache is kept."
        ),
    ] = None,
    canary: Annotated[
        str | None, typer.Option(help="Another config, for a share of the requests; counted apart in /metrics.")
    ] = None,
    canary_share: Annotated[float, typer.Option(help="Of the requests that --canary answers.", min=0, max=1)] = 0.05,
    mlflow: Annotated[
        str | None, typer.Option(help="Where models:/ are: server or database; default: MLFLOW_TRACKING_URI.")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="The full cache answers, and --config is measured beside it.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default: its last name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8100,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the bearer token; default: the variable {TOKEN_VARIABLE}.")
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Clients on this machine need no token; others always do.")
    ] = False,
    memory: Annotated[str | None, typer.Option(help="What all caches together may take, e.g. 8GiB.")] = None,
    rows: Annotated[int, typer.Option(help="Requests that are written at once, at most.", min=1)] = 64,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; more get 429.", min=1)] = 256,
    max_tokens: Annotated[int, typer.Option(help="Tokens to write where a client does not say.", min=1)] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds for one answer.", min=0.001)] = 600.0,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.", min=1)] = 1_000_000,
    piece: Annotated[int, typer.Option(help="Prompt tokens read between two steps of the others.", min=2)] = 512,
    drain: Annotated[float, typer.Option(help="Seconds that running requests have after SIGTERM.", min=0)] = 30.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Spread the weights as `a2sf-tune --device-map` does. Instead of --device.")
    ] = None,
) -> None:
    """Serve a model with its tuned policy: /v1/models, /v1/chat/completions, /v1/completions, /healthz, /metrics.

    (`a2sf-tune serve` is another thing: it runs studies for a team.)
    """
    quiet_libraries()
    token = _token(token_file)
    limit = parse_bytes(memory) if memory else None
    address, listening = _address(host, port, token, no_token, drain)
    with listening:
        from tuner.serving.lineup import Lineup

        lineup = Lineup.of(config, canary, canary_share, shadow, mlflow)
        from tuner.serving import server

        options = server.Options(limit, rows, waiting, piece, max_tokens, timeout, max_body, device, dtype, device_map)
        server.run(model, lineup, name or name_of(model), address, listening, options)


def _address(host: str, port: int, token: str | None, no_token: bool, drain: float) -> tuple[Address, socket.socket]:
    check_installed("a2sf-serve", ("starlette", "uvicorn", "sse_starlette", "openai", "prometheus_client"), "serve")
    from tuner.serving.address import Address, check_door, listen_at

    check_door(host, token, no_token)
    return Address(host, token, no_token, drain), listen_at(host, port)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    from a2sf_core.foreign import read_text

    token = read_text(file, "the token", "give a file with one line.", 10_000).strip()
    if not token or not token.isprintable() or " " in token:
        raise A2SFError(f"the token in {file} must be one word of printable characters.")
    return token


def main() -> None:
    """Entry point: bad input is one sentence on stderr and exit code 2."""
    write_what_cannot_be_shown()
    try:
        app()
    except (A2SFError, OSError) as error:
        typer.echo(f"a2sf-serve: {one_line(str(error))}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
