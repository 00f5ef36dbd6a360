"""The Hugging Face Hub: whether it can be asked now, and the rows of a data set that lies there."""

from __future__ import annotations

import difflib
import logging
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from a2sf_core.errors import A2SFError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PROBE_SECONDS = 1.5


def hub_blocked() -> str | None:
    """Why the Hub must not be asked now, or None. Takes 1.5 s at most; the Hub's own retries take 23."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name} is set"
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    # Behind a proxy only the proxy can be reached, and it looks the name up.
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    bypassed = urllib.request.proxy_bypass(endpoint.hostname or "")
    target = urlsplit(proxy if "://" in proxy else f"//{proxy}") if proxy and not bypassed else endpoint
    return _unanswered(target.hostname or "", target.port or (80 if target.scheme == "http" else 443))


def _unanswered(host: str, port: int) -> str | None:
    """None if a connection opens in time. In a thread, as looking up a name knows no time limit."""
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), PROBE_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(f"{host} does not answer: {error.strerror or error}")

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome[0] if outcome else f"{host} did not answer in {PROBE_SECONDS} s"


def hub_rows(source: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a Hub data set ("owner/name" or "owner/name:config"), each with its place; the cache alone if offline.

    Raises:
        A2SFError: if there is no such data set, split or config, or it cannot be reached.
    """
    name, _, config = source.partition(":")
    beside = [each.name for each in Path().iterdir()]
    near = difflib.get_close_matches(source, beside, n=1)
    hint = f"did you mean the file {near[0]}? " if near else ""
    if not HUB_NAME.fullmatch(name):
        raise A2SFError(
            f"{source!r} is neither a file nor the name of a Hub data set; {hint}"
            "expected a .jsonl, .csv or .parquet file, or 'owner/name'."
        )
    blocked = hub_blocked()
    # Their retries and notes would stand around the one sentence that matters.
    for noisy in ("datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

    import datasets
    from huggingface_hub.errors import GatedRepoError

    try:
        if blocked:
            with _offline():
                rows = datasets.load_dataset(name, config or None, split=split)
        else:
            rows = datasets.load_dataset(name, config or None, split=split, streaming=True)
        for number, row in enumerate(rows, 1):
            yield f"{source} row {number}", row
    except (datasets.exceptions.DatasetNotFoundError, GatedRepoError):
        raise A2SFError(
            f"There is no data set {name!r} on the Hub that you may read, and no file of that name here; "
            f"{hint}"
            "check the spelling, or run 'hf auth login' if it is private or asks for consent."
        ) from None
    except ConnectionError:
        raise A2SFError(
            f"There is no file {source!r}, and the data set was not downloaded before and cannot be now "
            f"({blocked or 'the Hub does not answer'}); {hint}give a .jsonl, .csv or .parquet file."
        ) from None
    except Exception as error:  # of their network stack or parsers; many name the splits there are
        reason = " ".join(str(error).split()).rstrip(".")
        raise A2SFError(f"Data set {source!r}, split {split!r}, cannot be read: {reason}.") from error


@contextmanager
def _offline() -> Iterator[None]:
    """Only the local cache. Both libraries read HF_HUB_OFFLINE once, when imported, which may be long ago."""
    import datasets
    import huggingface_hub

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
