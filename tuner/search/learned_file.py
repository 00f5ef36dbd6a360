"""Whether learned forgetting is worth its numbers, and learned.json, where a run keeps what it has learned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from a2sf_core.foreign import parse_json, read_text
from a2sf_core.policy import Policy
from a2sf_core.rules.catalogue import read_rule
from a2sf_core.rules.learned import Learned
from tuner.choices import BY_PROMPT, LEARNED
from tuner.measuring.engine import Engine
from tuner.search.learning import drawn_for, learned_rules
from tuner.search.profiles import JUDGED_AT
from tuner.search.space import Space
from tuner.search.storage import LEARNED_FILE
from tuner.watch import Count, Watch

FEWEST = 12
"""Search samples without which nothing is learned."""
JUDGES = 3
"""One in so many search samples says whether the rules are worth it, and is not learned from."""
_MEND = "delete it, the rules are learned anew."


@dataclass(frozen=True)
class Lesson:
    """What was learned: one rule per layer, or none where a single half-life does as well; `why` is one sentence."""

    rules: tuple[Learned, ...]
    why: str

    def save(self, path: Path) -> None:
        """Write JSON to `path`, whole or not at all."""
        write_whole(path, json.dumps({"why": self.why, "rules": [rule.to_dict() for rule in self.rules]}) + "\n")

    @classmethod
    def load(cls, path: Path, n_layers: int, n_kv_heads: int) -> Lesson:
        """Read what `save` wrote.

        Raises:
            A2SFError: if the file holds something else, or rules for a model of another shape.
        """
        data = parse_json(read_text(path, "the learned rules", _MEND), f"{path} is not a list of learned rules", _MEND)
        try:
            rules = tuple(read_rule(each, f"rule {index}") for index, each in enumerate(data["rules"]))
            why = str(data["why"])[:2000]
        except (A2SFError, KeyError, TypeError) as error:
            raise A2SFError(f"{path} is not a list of learned rules ({error}); {_MEND}") from None
        learned = tuple(rule for rule in rules if isinstance(rule, Learned) and len(rule.powers) == n_kv_heads)
        if len(learned) != len(rules) or len(rules) not in (0, n_layers):
            raise A2SFError(f"{path} is not of a model with {n_layers} layers and {n_kv_heads} KV heads; {_MEND}")
        return cls(learned, why)


def kept_lesson(folder: Path, engine: Engine, space: Space, seed: int, watch: Watch) -> Lesson:
    """What another worker found while this one read its prompts, or else what `learn` finds, kept in the folder."""
    path = folder / LEARNED_FILE
    if path.exists():
        found = Lesson.load(path, engine.n_layers, engine.n_kv_heads)
        engine.learn(found.rules)
        return found
    found = learn(engine, space, seed, watch)
    found.save(path)
    watch.say(found.why)
    return found


def learn(engine: Engine, space: Space, seed: int, watch: Watch) -> Lesson:
    """Fit the rules on some of the search samples, let the others compare them with the half-lives of `space`'s seeds.

    `engine` knows the rules afterwards.
    """
    n = len(engine.samples)
    if n < FEWEST:
        return Lesson((), f"Forgetting was not learned: that takes {FEWEST} search samples, and there are {n}.")
    shuffled = np.random.default_rng(seed).permutation(n)
    judges = np.sort(shuffled[: n // JUDGES])
    rows, drawn = set(shuffled[n // JUDGES :].tolist()), drawn_for(space.profile, seed)
    rules = learned_rules(engine, rows, watch.step("Learning to forget"), drawn)
    engine.learn(rules)
    richer = Space.of(space, space.profile, rules)
    names = (space.fixed[0], *richer.offered[len(space.fixed) :])
    count = Count(watch.step("Comparing forgetting"), len(names) * len(JUDGED_AT))
    pairs = {name: [_kl(engine, _policy(richer, name, budget), judges) for budget in count.each(JUDGED_AT)]
             for name in names}  # fmt: skip
    figures = {name: " and ".join(f"{kl:.3f}" for kl in pair) for name, pair in pairs.items()}
    at = " and ".join(f"{budget:.0%}" for budget in JUDGED_AT)
    said = (
        f"KL {figures[LEARNED]} at {at} of the cache on {len(judges)} search samples that it was not learned from, "
        f"{figures[space.fixed[0]]} with one half-life"
    )
    if BY_PROMPT in pairs:
        said += f", {figures[BY_PROMPT]} with budgets dealt out by the prompt"
    best = min(pairs, key=lambda name: sum(np.log(pairs[name])))
    if best == space.fixed[0]:
        return Lesson((), f"Learned forgetting is left out: {said}.")
    return Lesson(rules, f"Learned forgetting: {said}.")


def _policy(space: Space, rule: str, budget: float) -> Policy:
    return space.policy(space.complete(space.seed(budget) | {"rule": rule}))


def _kl(engine: Engine, policy: Policy, judges: np.ndarray) -> float:
    return max(float(engine.evaluate(policy).kl[judges].mean()), 1e-9)
