"""Database, application, workers and uvicorn put together, and taken apart in order."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass

import typer

from a2sf_core.errors import A2SFError
from a2sf_core.serve.bounds import is_loopback
from tuner.database import Database
from tuner.printing import printable
from tuner.service.app import application
from tuner.service.desk import Desk
from tuner.service.housekeeping import Housekeeping
from tuner.service.limits import Limits
from tuner.service.places import Places
from tuner.service.regressors import warm
from tuner.service.team import Team
from tuner.serving.address import url_of
from tuner.serving.http import serve_until_signal

_DRAIN = 10.0
_CLIENTS = 500


@dataclass(frozen=True)
class Door:
    """Who may come: from where, and whether clients on this machine need no token."""

    host: str
    no_token: bool


def serve(
    database: Database, listening: socket.socket, places: Places, limits: Limits, door: Door, team: Team, mlflow: str
) -> None:
    """Serve until SIGTERM or Ctrl-C; then take no more, end the workers, and put what they had back into the queue.

    Raises:
        A2SFError: if nobody could come in.
    """
    places.check()
    desk = Desk.of(database, places, limits, mlflow)
    if desk.tokens.count() == 0 and not (door.no_token and is_loopback(door.host)):
        raise A2SFError(
            "there is no token yet: make one with `a2sf-tune token OWNER`, with the same --data or --database; on "
            "loopback --no-token does without."
        )
    app = application(desk, door.no_token)
    housekeeping = Housekeeping(desk)
    with team.at_work(), housekeeping.at_work():
        threading.Thread(target=warm, daemon=True).start()
        listening.listen()  # who comes now waits until uvicorn has started, and is not refused
        # The last line before it serves: what somebody who has just started it wants to know.
        typer.echo(printable(f"Open {url_of(door.host, listening)}/"))
        serve_until_signal(app, listening, _DRAIN, _CLIENTS)
