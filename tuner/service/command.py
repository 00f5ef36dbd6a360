"""The verbs `serve`, `worker` and `token` of `a2sf-tune`: light, so that its help is; heavy imports are inside."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from a2sf_core.errors import A2SFError
from tuner.choices import DATABASE_VARIABLE, check_installed, parse_bytes

if TYPE_CHECKING:
    from tuner.database import Database

DATA = Path("service-data")
_NEEDED = ("fastapi", "uvicorn", "sse_starlette", "prometheus_client", "sqlalchemy")

Data = Annotated[Path, typer.Option(help="Folder of the service: samples, studies, and the embedded database.")]
Address = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_VARIABLE, help="postgresql://USER@HOST/NAME; default: SQLite in --data.", show_default=False
    ),
]
PerOwner = Annotated[int, typer.Option(help="Studies of one owner that run at once, over all workers.", min=1)]
Room = Annotated[str, typer.Option(help="What must be free on the disk of --data before anything is begun.")]


def serve(
    data: Data = DATA,
    database: Address = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8200,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Clients on this machine need no token and are the owner `local`.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Workers to start and to replace; others may run elsewhere.", min=0)] = 0,
    models: Annotated[
        list[Path] | None, typer.Option(help="Folder of model folders that studies may name. Repeatable.")
    ] = None,
    hub_model: Annotated[
        list[str] | None, typer.Option(help="Model on the Hub that studies may name, such as owner/model. Repeatable.")
    ] = None,
    samples: Annotated[
        list[Path] | None, typer.Option(help="Folder of sample files that studies may name. Repeatable.")
    ] = None,
    max_upload: Annotated[str, typer.Option(help="Of one file of samples.")] = "256MiB",
    disk: Annotated[str, typer.Option(help="What the samples and ended studies of one owner may take.")] = "20GiB",
    waiting: Annotated[int, typer.Option(help="Studies of one owner that may wait or run.", min=1)] = 200,
    per_owner: PerOwner = 2,
    room: Room = "1GiB",
    mlflow: Annotated[str | None, typer.Option(help="MLflow server that the page leads to.")] = None,
) -> None:
    """Run the optimisation service: studies for a team over HTTP, with a page. (a2sf-serve serves a model instead.)"""
    _check_installed()
    from tuner.service.limits import Limits
    from tuner.service.places import Places
    from tuner.service.server import Door
    from tuner.service.server import serve as run
    from tuner.service.team import Team
    from tuner.serving.address import listen_at

    limits = Limits(
        parse_bytes(max_upload, "--max-upload"), parse_bytes(disk, "--disk"), waiting, parse_bytes(room, "--room")
    )
    places = Places(data.resolve(), tuple(models or ()), tuple(samples or ()), tuple(hub_model or ()))
    _log()
    with listen_at(host, port) as listening:
        # Not as an argument, which everybody on the machine sees.
        secret = {DATABASE_VARIABLE: database} if database else {}
        team = Team(workers, ("--data", str(places.data), "--per-owner", str(per_owner), "--room", room), secret)
        run(_open(data, database), listening, places, limits, Door(host, no_token), team, mlflow or "")


def worker(
    data: Data = DATA,
    database: Address = None,
    per_owner: PerOwner = 2,
    room: Room = "1GiB",
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Work off the studies of `a2sf-tune serve`, one at a time; start as many workers as shall run at once."""
    _check_installed()
    from tuner.service.job import COMMAND
    from tuner.workers.parent import when_parent_ends
    from tuner.workers.worker import Options, Worker

    _log()
    options = Options(data.resolve(), COMMAND, per_owner, parse_bytes(room, "--room"))
    at_work = Worker(_open(data, database), options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: at_work.stop())
    if with_parent:
        when_parent_ends(at_work.stop)
    logging.getLogger("a2sf.worker").info("worker %s, data in %s", at_work.name, data)
    at_work.run()


def token(
    owner: Annotated[str, typer.Argument(help="Whose studies the token opens: a name such as anna or team-a.")],
    data: Data = DATA,
    database: Address = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Make all tokens of this owner invalid.")] = False,
) -> None:
    """Make a token for an owner of the service and show it, this once; only its hash is kept."""
    _check_installed()
    from tuner.service.tokens import Tokens

    tokens = Tokens(_open(data, database))
    if not revoke:
        typer.echo(tokens.add(owner))
    elif not (count := tokens.revoke(owner)):
        raise A2SFError(f"there is no token of {owner!r}; check the name.")
    else:
        typer.echo(f"{count} token(s) of {owner} revoked; the service stops taking them within 10 s.")


def _check_installed() -> None:
    check_installed("the service", _NEEDED, "service")


def _open(data: Path, address: str | None) -> Database:
    from tuner.database import default_address
    from tuner.service import tables

    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return tables.opened(address or default_address(data))


def _log() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("a2sf").setLevel(logging.INFO)
