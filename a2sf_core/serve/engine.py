"""Continuous batching over pruned caches: prompts are read one by one, and all rows write together.

A prompt is read alone, in pieces, with one step of the running rows between two pieces; then its cache is cut, and its
row joins the batch at the next step. A row that ends, is cancelled or is late leaves at the next step. What is held is
known beforehand (`CacheCost`), so that as many rows run as the memory holds, in the order in which they came.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from a2sf_core import attention
from a2sf_core.cache import A2SFCache
from a2sf_core.errors import A2SFError
from a2sf_core.layers.rows import in_rows
from a2sf_core.placement import input_device
from a2sf_core.serve.cost import held_bytes
from a2sf_core.serve.job import Failed, Job
from a2sf_core.serve.metrics import Metrics
from a2sf_core.serve.row import Row
from a2sf_core.serve.served import Configs
from a2sf_core.switch import cache_argument

LOG = logging.getLogger("a2sf.serve")


class Busy(Exception):
    """Too many requests wait already, or the engine is closing."""


class Engine:
    """Answers jobs in a thread of its own, with a model that is attached for as long as it runs.

    Attributes:
        configs: what answers the jobs that do not say.
        metrics: what it counts.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        configs: Configs,
        memory: int | None = None,
        most_rows: int = 64,
        most_waiting: int = 256,
        piece: int = 512,
        ends: Sequence[int] = (),
    ) -> None:
        """Start the thread.

        Args:
            model: inside `with attach(policy, model)`, whatever the policy.
            configs: what is served.
            memory: bytes that all caches together may take; None for no limit.
            most_rows: rows that write together at most.
            most_waiting: jobs that may wait for a place.
            piece: prompt tokens that are read between two steps.
            ends: tokens that end an answer.

        Raises:
            A2SFError: if the model is not attached.
        """
        if model.config._attn_implementation != attention.NAME:
            raise A2SFError("the engine needs an attached model; start it inside `with attach(policy, model):`.")
        self.configs, self.metrics = configs, Metrics(configs.roles)
        self._model, self._tokenizer, self._ends = model, tokenizer, frozenset(ends)
        self._cache_name = cache_argument(model)
        self._memory, self._most_rows, self._most_waiting, self._piece = memory, most_rows, most_waiting, piece
        self._waiting: deque[Row] = deque()
        self._reading: Row | None = None
        self._running: list[Row] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self.metrics.memory_limit.set(memory or 0)
        self.metrics.watch("a2sf_running", "Rows that write.", lambda: len(self._running))
        self.metrics.watch("a2sf_waiting", "Requests that wait for memory.", lambda: len(self._waiting))
        self.metrics.watch("a2sf_cache_reserved_bytes", "What caches may grow to.", lambda: self._reserved())
        self.metrics.watch_configs("a2sf_cache_bytes", "Caches now, measured on the tensors.", self.held_bytes)
        self.metrics.watch_configs("a2sf_cache_full_bytes", "What full caches would hold now.", self._full_bytes)
        self._thread = threading.Thread(target=self._run, name="a2sf-engine", daemon=True)
        self._thread.start()

    # ---- what other threads call --------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take a job in; its `tell` will be called.

        Raises:
            A2SFError: if it can never run: its cache alone is more than the memory.
            Busy: if too many wait.
        """
        row = Row(job, self._model, self._tokenizer, job.served or self.configs.pick())
        if self._memory is not None and row.peak > self._memory:
            raise A2SFError(
                f"a prompt of {len(job.ids)} tokens and {job.most} more need {row.peak / 2**20:,.1f} MiB of cache, and "
                f"the server has {self._memory / 2**20:,.1f} MiB; send a shorter prompt or ask for fewer tokens."
            )
        with self._changed:
            if self._is_closing or len(self._waiting) >= self._most_waiting:
                raise Busy
            self._waiting.append(row)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody reads its answer any more: its row is freed before the next step, and it is told nothing."""
        job.is_cancelled = True
        with self._changed:
            self._changed.notify()

    def close(self, seconds: float = 0.0) -> None:
        """Take no more; let what runs and waits end within `seconds`, and fail the rest."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(seconds)
        for row in self._all():
            row.job.seconds = 0.0
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive()

    def held_bytes(self, role: str | None = None) -> int:
        """What the caches hold now, measured on the tensors: all, or those of one config."""
        return sum(held_bytes(cache) for row in self._all(role) for cache in list(row.caches))

    def _all(self, role: str | None = None) -> list[Row]:
        reading = self._reading
        rows = [*self._waiting, *([reading] if reading else []), *self._running]
        return [row for row in rows if role in (None, row.served.role)]

    def _full_bytes(self, role: str) -> int:
        return sum(row.cost.full(row.seen) for row in self._all(role) if row.has_read)

    # ---- the engine's own thread --------------------------------------------------------------------------

    @torch.no_grad()
    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._reading or self._running or self._is_closing):
                    self._changed.wait()
                if self._is_closing and not (self._waiting or self._reading or self._running):
                    return
            self._leave()
            self._admit()
            if self._reading is not None:
                self._read(self._reading)
            if self._running:
                self._step()

    def _leave(self) -> None:
        """Let go of rows that nobody waits for."""
        for row in self._all():
            if row.job.is_cancelled:
                self._drop(row, None)
            elif row.job.is_late:
                self._drop(row, Failed("shutdown" if self._is_closing else "timeout"))

    def _admit(self) -> None:
        """The one that has waited longest begins to be read, if its cache fits beside those that are there."""
        if self._reading is not None or not self._waiting or len(self._running) >= self._most_rows:
            return
        if self._memory is not None and self._reserved() + self._waiting[0].peak > self._memory:
            return
        with self._changed:
            self._reading = self._waiting.popleft()

    def _reserved(self) -> int:
        reading = self._reading
        return sum(row.held for row in self._running) + (reading.peak if reading else 0)

    def _read(self, row: Row) -> None:
        with self._failing([row]):
            logits = row.read(self._model, self._piece)
            if logits is None:
                return
            self.metrics.prompt_tokens.labels(row.served.role).inc(len(row.job.ids))
            self._write(row, logits)
            if self._reading is row:  # not ended with its first token
                row.end_reading()
                self._reading = None
                self._running.append(row)

    def _step(self) -> None:
        """One token for every row."""
        rows, device = list(self._running), input_device(self._model)
        with self._failing(rows):
            caches = [(row, cache) for row in rows for cache in row.caches]
            logits = self._model(
                input_ids=torch.tensor([[row.writer.tokens[-1]] for row, _ in caches], device=device),
                position_ids=torch.tensor([[row.seen] for row, _ in caches], device=device),
                use_cache=True,
                **{self._cache_name: A2SFCache(layers=in_rows([cache for _, cache in caches]))},
            ).logits[:, -1]  # [cache, vocabulary]
            self.metrics.steps.inc()
            for row, own in zip(rows, logits.split([len(row.caches) for row in rows]), strict=True):
                with self._failing([row]):
                    self._write(row, own)

    def _write(self, row: Row, logits: Tensor) -> None:
        role = row.served.role
        if not row.writer.tokens:
            self.metrics.first_token.labels(role).observe(row.age)
        self.metrics.written_tokens.labels(role).inc()
        ended = row.write(logits, self._ends)
        if ended is not None:
            self.metrics.kept_tokens.labels(role).inc(row.kept(row.caches[-1]))
            self.metrics.full_tokens.labels(role).inc(ended.full)
            self._drop(row, ended)

    @contextmanager
    def _failing(self, rows: list[Row]) -> Iterator[None]:
        """A fault inside ends `rows`, and no others."""
        try:
            yield
        except Exception as error:
            # The traceback of an exception may quote what was read, so only its kind is written down.
            LOG.error("%d request(s) failed: %s", len(rows), type(error).__name__)
            for row in rows:
                self._drop(row, Failed("error"))

    def _drop(self, row: Row, event: Any) -> None:
        with self._changed:
            if row is self._reading:
                self._reading = None
            for rows in (self._waiting, self._running):
                if row in rows:
                    rows.remove(row)
        for cache in row.caches:
            cache.layers.clear()
        outcome = "cancelled" if event is None else event.why if isinstance(event, Failed) else event.reason
        self.metrics.requests.labels(row.served.role, outcome).inc()
        self.metrics.duration.labels(row.served.role).observe(row.age)
        self.metrics.compares(row.compared)
        if event is not None:
            row.job.tell(event)
