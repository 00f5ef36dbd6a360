"""The exported file, a2sf_config.json: what the tuner hands to serving. A reader can audit it by eye."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int
from a2sf_core.files import write_whole
from a2sf_core.policy import Policy
from a2sf_core.schema import upgraded
from a2sf_core.shape import FINGERPRINT, SHAPE, fingerprint
from a2sf_core.version import __version__

FILE_NAME = "a2sf_config.json"
SCHEMA_VERSION = 2
PROVEN = "adopt"
"""What the evidence says in "status" of a policy that is proven on samples that were not searched."""

_REQUIRED = ("schema_version", "library_version", "model", "task", "policy")
_OPTIONAL = ("alpha_model", "guard", "evidence")


@dataclass(frozen=True)
class A2SFConfig:
    """A tuned policy with the model and the task that it is for, and the evidence that it holds.

    Attributes:
        model: from `fingerprint`.
        task: name of the task that the policy was tuned on.
        policy: what to keep.
        alpha_model: the alpha regressor as plain numbers, or None.
        guard: thresholds of the safety valve, or None.
        evidence: quality difference with interval, cache fraction, sample counts, data hash, run ids.

    Raises:
        A2SFError: if the policy and the fingerprint disagree on the number of layers or KV heads.
    """

    model: dict[str, Any]
    task: str
    policy: Policy
    alpha_model: dict[str, Any] | None = None
    guard: dict[str, Any] | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    library_version: str = __version__

    def __post_init__(self) -> None:
        check_keys(self.model, FINGERPRINT, SHAPE, "model fingerprint")
        if len(self.policy.layers) != self.model["n_layers"]:
            raise A2SFError(
                f"the policy has {len(self.policy.layers)} layers but the model fingerprint has "
                f"{self.model['n_layers']}; they must be exported together."
            )
        self.policy.check_heads(self.model["n_kv_heads"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, in the order in which a reader wants it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "library_version": self.library_version,
            "model": self.model,
            "task": self.task,
            "policy": self.policy.to_dict(),
            "alpha_model": self.alpha_model,
            "guard": self.guard,
            "evidence": self.evidence,
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = FILE_NAME) -> A2SFConfig:
        """Read what `to_dict` wrote.

        Raises:
            A2SFError: naming the unknown, missing or mistyped field, or the newer schema version.
        """
        written = data.get("schema_version") if isinstance(data, dict) else None
        if is_int(written) and written > SCHEMA_VERSION:
            raise A2SFError(
                f"{where} has schema version {written}, but this a2sf-tune reads up to {SCHEMA_VERSION}; "
                "upgrade a2sf-tune."
            )
        check_keys(data, (*_REQUIRED, *_OPTIONAL), _REQUIRED, where)
        if written not in (1, SCHEMA_VERSION) or not is_int(written):
            raise A2SFError(
                f"{where}: schema_version must be {SCHEMA_VERSION}, not {written!r}; export the file again."
            )
        for name in ("library_version", "task"):
            if not isinstance(data[name], str):
                raise A2SFError(f"{where}: {name} must be a string, not {data[name]!r}.")
        for name in _OPTIONAL:
            if not isinstance(data.get(name), dict | None):
                raise A2SFError(f"{where}: {name} must be a JSON object or null, not {data[name]!r}.")
        try:
            return cls(
                dict(check_keys(data["model"], FINGERPRINT, SHAPE, "model")),
                data["task"],
                Policy.from_dict(upgraded(data["policy"]) if written == 1 else data["policy"]),
                data.get("alpha_model"),
                data.get("guard"),
                data.get("evidence") or {},
                data["library_version"],
            )
        except A2SFError as error:
            raise A2SFError(f"{where}: {error}") from None

    def save_pretrained(self, directory: str | os.PathLike[str]) -> Path:
        """Write a2sf_config.json into `directory` (made if missing) and return its path.

        The file appears whole or not at all: it is written beside its place and then moved there.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise A2SFError(
                f"the config holds something that JSON cannot ({error}); use plain finite numbers."
            ) from None
        write_whole(folder / FILE_NAME, text)
        return folder / FILE_NAME

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> A2SFConfig:
        """Read a folder that holds a2sf_config.json, or the file itself.

        Raises:
            A2SFError: if there is no such file, it is not JSON (with the line), or its content is not valid.
        """
        file = Path(path)
        if file.is_dir():
            file = file / FILE_NAME
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise A2SFError(
                f"cannot read {file} ({getattr(error, 'strerror', None) or 'not UTF-8 text'}); "
                f"give a folder that holds {FILE_NAME} or the file itself."
            ) from None
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise A2SFError(
                f"{file}, line {error.lineno}: not valid JSON ({error.msg}); mend it there or export the file again."
            ) from None
        return cls.from_dict(data, str(file))

    def attach(self, model: Any) -> AbstractContextManager[Any]:
        """`with config.attach(model): model.generate(...)`; see `a2sf_core.switch.attach`.

        Warns, once in a process, if the evidence says that the policy is not proven.

        Raises:
            A2SFError: if the model has another shape, saying what differs.
        """
        here = fingerprint(model)
        differs = [
            f"{name} is {here[name]!r}, not {self.model[name]!r}" for name in SHAPE if here[name] != self.model[name]
        ]
        if differs:
            raise A2SFError(
                f"this policy was tuned for another model: {'; '.join(differs)}. Tune for this model instead."
            )
        if (status := self.evidence.get("status", PROVEN)) != PROVEN:
            _warn_once(
                f"The A2SF policy for task {self.task!r} is {status}. {self.evidence.get('verdict', '')}".strip()
            )
        from a2sf_core.switch import attach  # here, so that a config can be read without torch

        return attach(self.policy, model)


@cache
def _warn_once(said: str) -> None:
    warnings.warn(said, stacklevel=3)
