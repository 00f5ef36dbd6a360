"""The exported file, a2sf_config.json: what the tuner hands to serving. A reader can audit it by eye."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a2sf_core.cuts import CUTS, PROMPT
from a2sf_core.errors import A2SFError, warn_once
from a2sf_core.fields import check_keys, is_int
from a2sf_core.files import readable_json, write_whole
from a2sf_core.foreign import MEGABYTE, parse_json, read_text, shortened
from a2sf_core.policy import Policy
from a2sf_core.schema import upgraded
from a2sf_core.shape import SHAPE, check_fingerprint, fingerprint
from a2sf_core.version import __version__

FILE_NAME = "a2sf_config.json"
SCHEMA_VERSION = 4
"""3 had no `LayerPolicy.growth`, and 2 neither `Policy.by_prompt` nor what a learned rule says in nats: all may be left
out."""
ADDED_TOKENS = 1024
"""A vocabulary may grow by added tokens and by padding; which tokens a cache keeps does not hang on it."""
MAX_BYTES = 16 * MEGABYTE
"""A policy of a hundred layers with a budget per head has 100 kB, its evidence 10."""
PROVEN = "adopt"
"""What the evidence says in "status" of a policy that is proven on samples that were not searched."""

_REQUIRED = ("schema_version", "library_version", "model", "task", "policy")
_OBJECTS = ("alpha_model", "guard", "evidence")
_OPTIONAL = ("cut", *_OBJECTS)


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
        cut: what is read before tokens are dropped: the whole "prompt", or the "context" alone, of which many questions
            are asked then. Files from before it was written say nothing and mean "prompt".

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
    cut: str = PROMPT

    def __post_init__(self) -> None:
        check_fingerprint(self.model)
        if self.cut not in CUTS:
            raise A2SFError(f"cut must be one of {', '.join(CUTS)}, not {shortened(self.cut)}.")
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
            "cut": self.cut,
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
        if not is_int(written) or written < 1:
            raise A2SFError(
                f"{where}: schema_version must be {SCHEMA_VERSION}, not {shortened(written)}; export the file again."
            )
        for name in ("library_version", "task", "cut"):
            if not isinstance(data.get(name, PROMPT), str):
                raise A2SFError(f"{where}: {name} must be a string, not {shortened(data[name])}.")
        for name in _OBJECTS:
            if not isinstance(data.get(name), dict | None):
                raise A2SFError(f"{where}: {name} must be a JSON object or null, not {shortened(data[name])}.")
        try:
            return cls(
                dict(check_fingerprint(data["model"])),
                data["task"],
                Policy.from_dict(upgraded(data["policy"]) if written == 1 else data["policy"]),
                data.get("alpha_model"),
                data.get("guard"),
                data.get("evidence") or {},
                data["library_version"],
                data.get("cut", PROMPT),
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
            text = readable_json(self.to_dict())
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
        file = config_file(Path(path))
        text = read_text(file, "the policy", f"give a folder that holds {FILE_NAME} or the file itself.", MAX_BYTES)
        return cls.from_dict(parse_json(text, str(file), "mend it there or export the file again."), str(file))

    def check_fits(self, model_or_config: Any) -> None:
        """Raise A2SFError if a transformers model (or its config) has another shape, saying what differs."""
        here = fingerprint(model_or_config)
        differs = [
            f"{name} is {here[name]!r}, not {self.model[name]!r}" for name in SHAPE if here[name] != self.model[name]
        ]
        if len(differs) == 1 and 0 < abs(here["vocab_size"] - self.model["vocab_size"]) <= ADDED_TOKENS:
            differs = []
        if differs:
            raise A2SFError(
                f"this policy was tuned for another model: {'; '.join(differs)}. Tune for this model instead."
            )

    @property
    def doubt(self) -> str:
        """What to warn of where the evidence says that the policy is not proven; empty where it is."""
        status = self.evidence.get("status", PROVEN)
        said = f"The A2SF policy for task {self.task!r} is {status}. {self.evidence.get('verdict', '')}"
        return "" if status == PROVEN else said.strip()

    def attach(self, model: Any) -> AbstractContextManager[Any]:
        """`with config.attach(model): model.generate(...)`; see `a2sf_core.switch.attach`.

        Warns, once in a process, if the evidence says that the policy is not proven, and inside the block if tokens are
        dropped at another place than the one that the policy was tuned for.

        Raises:
            A2SFError: if the model has another shape, saying what differs.
        """
        self.check_fits(model)
        if self.doubt:
            warn_once(self.doubt)
        from a2sf_core.switch import attach  # here, so that a config can be read without torch

        return attach(self.policy, model, self.cut)


def config_file(path: Path) -> Path:
    """`path` itself, or a2sf_config.json in it if it is a folder."""
    try:
        return path / FILE_NAME if path.is_dir() else path
    except OSError:  # a loop of links, of which reading will tell
        return path
