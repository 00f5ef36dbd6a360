"""Where a server listens, and whether it may: known before a model is loaded."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from a2sf_core.errors import A2SFError
from a2sf_core.serve.bounds import is_loopback
from tuner.choices import TOKEN_VARIABLE


@dataclass(frozen=True)
class Address:
    """Where to listen, who may come, and how long the last ones have."""

    host: str
    token: str | None
    trusts_loopback: bool
    drain: float


def check_door(host: str, token: str | None, no_token: bool) -> None:
    """Raise A2SFError if there is no token, unless that is asked for and only this machine can come."""
    if token is None and not no_token:
        raise A2SFError(
            f"there is no token: set {TOKEN_VARIABLE} or give --token-file; on loopback --no-token does without."
        )
    if token is None and not is_loopback(host):
        raise A2SFError(f"--no-token is for loopback, and {host} is not; set {TOKEN_VARIABLE} or give --token-file.")


def listen_at(host: str, port: int) -> socket.socket:
    """A bound socket. Raises A2SFError if there is no such address or the port is taken."""
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise A2SFError(f"cannot listen on {host}:{port} ({reason}); give another --port.") from None
    return bound


def url_of(host: str, listening: socket.socket) -> str:
    """What a browser is given."""
    port = listening.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
