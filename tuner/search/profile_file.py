"""profile.json: which profile shapes the search, why, and what it says, kept so that it is measured once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from a2sf_core.foreign import parse_json, read_text
from tuner.schemas import validated
from tuner.search.cut_alone import CutAlone
from tuner.search.fisher import Fisher
from tuner.search.profile import Profile
from tuner.search.profile_schema import ProfiledSchema
from tuner.search.reconstruction import Reconstruction

KINDS: dict[str, type[CutAlone] | type[Fisher] | type[Reconstruction]] = {
    kind.kind: kind for kind in (CutAlone, Fisher, Reconstruction)
}


@dataclass(frozen=True)
class Profiled:
    """The profile that is used, and how it came to that.

    Attributes:
        others: of other kinds, which were measured and predicted worse.
        why: one sentence.
        losses: KL to the full cache in nats per token on held-out search prompts, by kind and by budget.
    """

    used: Profile
    others: tuple[Profile, ...] = ()
    why: str = ""
    losses: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write JSON to `path`, whole or not at all."""
        measured = {profile.kind: profile.to_dict() for profile in (self.used, *self.others)}
        about = {"used": self.used.kind, "why": self.why, "held_out_kl": self.losses}
        write_whole(path, json.dumps(about | {"measured": measured}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Profiled:
        """Read what `save` wrote.

        Raises:
            A2SFError: if the file is not a profile, or one of another grid.
        """
        mend, where = "delete it, it is measured anew.", f"{path} is not a profile"
        read = validated(ProfiledSchema, parse_json(read_text(path, "the profile", mend), where, mend), where, mend)
        tables = read.measured.model_dump(by_alias=True, exclude_none=True)
        try:
            measured: dict[str, Profile] = {kind: KINDS[kind].from_dict(known) for kind, known in tables.items()}
        except ValueError as error:
            raise A2SFError(f"{path} is not a profile ({error}); {mend}") from error
        used = measured.pop(read.used)
        return cls(used, tuple(measured.values()), read.why, read.held_out_kl)

    def check_shape(self, n_layers: int, n_kv_heads: int, path: Path) -> None:
        """Raise A2SFError unless it is of a model with so many layers and KV heads; `path` is where it was read."""
        found = self.used.budgets(0.5).shape
        if found != (n_layers, n_kv_heads):
            raise A2SFError(
                f"{path} is of a model with {found[0]} layers and {found[1]} KV heads, not {n_layers} and "
                f"{n_kv_heads}; delete it, it is measured anew."
            )
