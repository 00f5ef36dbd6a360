"""uvicorn as all our servers run it: nothing logged of a request, bounds on headers and clients, an end in order."""

from __future__ import annotations

import logging
import signal
import socket
from typing import Any

import uvicorn
from sse_starlette.sse import AppStatus

_HEADER_BYTES = 16_384
_KEEP_ALIVE = 15


def serve_until_signal(app: Any, listening: socket.socket, drain: float, most_clients: int) -> None:
    """Serve until SIGTERM or Ctrl-C; then take no more, and let what runs end for `drain` seconds."""
    # sse-starlette would cut streams off as soon as a signal comes; uvicorn waits for them, and not for ever.
    AppStatus.disable_automatic_graceful_drain()
    logging.getLogger("sse_starlette").setLevel(logging.WARNING)  # at DEBUG it writes down every chunk
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them once more when it has ended
        signal.signal(number, lambda *_: None)
    settings = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        proxy_headers=False,  # or a client could say that it comes from this machine
        server_header=False,
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(drain)),
        h11_max_incomplete_event_size=_HEADER_BYTES,
        limit_concurrency=most_clients,
    )
    uvicorn.Server(settings).run(sockets=[listening])
