"""Which profile shapes a search: what is worth its price is measured, and the one whose policies lose least on other
search prompts is used.

The Fisher profile costs a backward pass over the texts of a few prompts, however deep the model is. Where a model gives
no gradients, or they mislead, there is reconstruction, three readings of a few prompts, which tells nothing of a model
that cannot repeat a text. Cutting alone finds what a small model needs of its task, but it takes some evaluations a
layer, and heads that stand in for each other hide from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from tuner.measuring.engine import Engine
from tuner.search.dimensions import Dimensions
from tuner.search.fisher import Fisher
from tuner.search.gradients import READINGS as FISHER_READINGS
from tuner.search.gradients import can_measure_fisher, measure_fisher
from tuner.search.profile import PART_FILE, PROFILE_FILE, Profile
from tuner.search.profile_file import Profiled
from tuner.search.profile_part import Part
from tuner.search.profiling import PROFILE_BLOCKS, measure_profile
from tuner.search.reconstruction import Reconstruction
from tuner.search.rereading import TwiceReader, measure_reconstruction, prompts_to_look_at
from tuner.search.space import Space
from tuner.watch import Count, Progress, Watch, silent

READINGS_PAID = 2
"""What profiling may cost: reading all search prompts so many times."""
SHALLOW = 8
"""Layers up to which cutting alone is always worth its price."""
LEAST_CUTS_A_LAYER = 4
"""Evaluations a layer without which cutting alone is not begun: one at each of its budgets."""
FEWEST_JUDGES = 8
"""Samples that no profile was measured on, without which all but those looked at closely compare them."""
JUDGED_AT = (0.12, 0.27)
"""Budgets at which the profiles' policies are compared; the search begins with them, so that they cost nothing."""
FLOORS = (0.5, 1.0)
"""Weaker forms of the profile of a few prompts, tried beside it: half of it, and none, which is all heads alike."""
HALF_LIVES_TRIED = (16.0, 64.0, 256.0)
"""That go with it: the right one depends on what lies between the text and the cut."""


def kept_profile(
    folder: Path, known: Profiled | None, engine: Engine, dimensions: Dimensions, limit: int, seed: int, watch: Watch
) -> Profile:
    """The profile of this run's folder, else `known` (of an earlier study of the same model and data), else a new one.

    The others as in `find_profile`.

    Raises:
        A2SFError: if the folder's profile cannot be read.
    """
    path, part = folder / PROFILE_FILE, folder / PART_FILE
    known = Profiled.load(path) if path.exists() else known
    if known:
        known.check_shape(engine.n_layers, engine.n_kv_heads, path)
    if path.exists() and known:
        return known.used
    found = known or find_profile(engine, dimensions, limit, Part(part), seed, watch)
    found.save(path)
    part.unlink(missing_ok=True)
    watch.say(found.why)
    return found.used


def find_profile(engine: Engine, dimensions: Dimensions, limit: int, part: Part, seed: int, watch: Watch) -> Profiled:
    """Measure what is affordable, and choose.

    Args:
        engine: has read the search prompts.
        dimensions: what is searched; says what the policies of a profile are.
        limit: tokens that the model takes.
        part: what a run that was stopped found already.
        seed: of the prompts that are looked at closely; the others judge.
        watch: told of all steps.
    """
    paid = READINGS_PAID * sum(map(len, {sample.prompt_ids for sample in engine.samples}))
    rows = prompts_to_look_at(engine.samples, seed, paid)
    looked = _by_gradients(engine, rows, part, seed, watch) or _by_reading_twice(engine, rows, limit, part, watch)
    affordable = affordable_cuts(engine, paid - looked.cost)
    known: dict[str, Profile] = {}
    remark = ""
    if affordable is None or affordable >= LEAST_CUTS_A_LAYER * engine.n_layers:
        cut_alone = measure_profile(engine, PROFILE_BLOCKS, watch.step("Profiling layers, heads"), affordable, part)
        known[cut_alone.kind] = cut_alone
    else:
        remark = (
            f" Cutting layer by layer was left out: {LEAST_CUTS_A_LAYER * engine.n_layers} evaluations and more, where "
            f"two readings of the search prompts pay for {affordable}."
        )
    judge = _Judge(engine, dimensions, _judges(engine, looked.rows, cut_alone=bool(known)))
    n_compared = len(known) + len(HALF_LIVES_TRIED) + len(FLOORS)
    judge.begin(watch.step("Comparing profiles"), n_compared)
    candidates = known | _forms(judge, looked.profile)
    losses = {name: judge.losses(profile) for name, profile in candidates.items()}
    judge.end()
    how = {looked.profile.kind: looked.how}
    if isinstance(looked.profile, Fisher) and _least(losses) not in (*known, looked.profile.kind):
        # Gradients misled, and nothing else was measured that could do better.
        reread = _by_reading_twice(engine, rows, limit, part, watch)
        judge.begin(watch.step("Comparing again"), len(HALF_LIVES_TRIED) + len(FLOORS))
        candidates = _forms(judge, reread.profile) | candidates
        losses = {name: judge.losses(profile) for name, profile in candidates.items()}
        judge.end()
        how[reread.profile.kind] = reread.how
    best = _least(losses)
    others = {each.kind: each for each in candidates.values() if each.kind != candidates[best].kind}
    return Profiled(candidates[best], tuple(others.values()), _sentence(best, losses, how) + remark, losses)


@dataclass(frozen=True)
class _Looked:
    """The profile of a few prompts: places of these among the samples, what it cost in prompt tokens, and in words how
    it was measured."""

    profile: Fisher | Reconstruction
    rows: Sequence[int]
    cost: float
    how: str


def _by_gradients(engine: Engine, rows: Sequence[int], part: Part, seed: int, watch: Watch) -> _Looked | None:
    """What the samples `rows` say; None where the model gives no gradients."""
    if not can_measure_fisher(engine):
        return None
    in_bank = [rule.half_life for rule in engine.portion.bank.shared if isinstance(rule, Decay)]
    half_lives = [half_life for half_life in HALF_LIVES_TRIED if half_life in in_bank] or in_bank[:1]
    fisher = measure_fisher(engine, rows, half_lives, seed, part, watch.step("Weighing tokens"))
    cost = FISHER_READINGS * sum(len(engine.samples[row].prompt_ids) for row in rows)
    return _Looked(fisher, rows, cost, f"gradients of {len(rows)} prompts")


def _by_reading_twice(engine: Engine, rows: Sequence[int], limit: int, part: Part, watch: Watch) -> _Looked:
    progress = watch.step("Reading prompts twice")
    reread = measure_reconstruction(TwiceReader.at(engine), engine.samples, rows, limit, part, progress)
    how = f"{len(reread.rows)} prompts read twice"
    if reread.n_shortened:
        how += f", {reread.n_shortened} of them shortened in the middle to {limit // 2} tokens: the model takes {limit}"
    return _Looked(reread.profile, reread.rows, reread.cost, how)


def _judges(engine: Engine, looked_at: Sequence[int], cut_alone: bool) -> np.ndarray:
    """Places of the samples that compare profiles: none that was looked at closely, and none that was measured for
    cutting alone either, where that leaves enough; where it does not, that profile has seen its judges."""
    known = {engine.samples[row].prompt_ids for row in looked_at}
    apart = [row for row, sample in enumerate(engine.samples) if sample.prompt_ids not in known]
    everyone = np.array(apart or np.setdiff1d(np.arange(len(engine.samples)), looked_at))
    if not cut_alone:
        return everyone
    fresh = np.setdiff1d(everyone, engine.evaluate_blocks(Policy.full(engine.n_layers), PROFILE_BLOCKS).rows)
    return fresh if len(fresh) >= FEWEST_JUDGES else everyone


class _Judge:
    """How well profiles predict."""

    def __init__(self, engine: Engine, dimensions: Dimensions, judges: np.ndarray) -> None:
        """Only the samples at the places `judges` count."""
        self._engine, self._dimensions, self._judges = engine, dimensions, judges
        self._count = Count(silent, 0)

    def begin(self, progress: Progress, n_profiles: int) -> None:
        """`progress` is told of the measurements of so many profiles."""
        self._count = Count(progress, n_profiles * len(JUDGED_AT))

    def end(self) -> None:
        """Nothing more is compared; some policies may have been the same."""
        self._count.close()

    def losses(self, profile: Profile) -> dict[str, float]:
        """Mean KL to the full cache, nats per token, of the profile's own policies, by budget."""
        found = {}
        for budget in JUDGED_AT:
            policy = own_policy(self._dimensions, profile, budget)
            is_new = not self._engine.knows(policy)
            found[f"{budget:g}"] = float(self._engine.evaluate(policy).kl[self._judges].mean())
            if is_new:
                self._count.one()
        return found


def _least(losses: Mapping[str, Mapping[str, float]]) -> str:
    return min(losses, key=lambda name: sum(losses[name].values()))


def _forms(judge: _Judge, profile: Fisher | Reconstruction) -> dict[str, Profile]:
    """The profile with the half-life that suits it best, as it is and weakened, by name."""
    half_lives = profile.half_lives if isinstance(profile, Fisher) else HALF_LIVES_TRIED
    tried = {f"{half_life:g}": replace(profile, half_life=half_life) for half_life in half_lives}
    best = tried[_least({name: judge.losses(each) for name, each in tried.items()})]
    half, none = (replace(best, floor=floor) for floor in FLOORS)
    return {best.kind: best, f"{best.kind}, weakened": half, "heads alike": none}


def affordable_cuts(engine: Engine, tokens: float) -> int | None:
    """Evaluations of the profile's blocks that cost as much as reading so many prompt tokens; None: any number.

    A token of an answer counts like one of a prompt, which fits models that are worth this care: there the weights are
    what is read, and what is kept of the prompt is small beside them.
    """
    if engine.n_layers <= SHALLOW:
        return None
    answers = sum(len(sample.answer_ids) for sample in engine.samples)
    of_blocks = answers * min(1.0, PROFILE_BLOCKS / engine.n_blocks)
    return int(max(0.0, tokens) / max(1.0, of_blocks))


def own_policy(dimensions: Dimensions, profile: Profile, budget: float) -> Policy:
    """What `profile` itself would keep of `budget`: the same policy as the search's first trials."""
    space = Space.of(dimensions, profile)
    return space.policy(space.complete(space.seed(budget)))


def _sentence(best: str, losses: Mapping[str, Mapping[str, float]], how: Mapping[str, str]) -> str:
    """`how`: by kind, how it was measured."""

    def figures(name: str) -> str:
        return " and ".join(f"{loss:.3f}" for loss in losses[name].values())

    def named(name: str) -> str:
        return f"{name} ({how[name]})" if name in how else name

    shares = " and ".join(f"{share:.0%}" for share in JUDGED_AT)
    others = ", ".join(f"{named(name)} {figures(name)}" for name in losses if name != best)
    return (
        f"Profile: {named(best)}. At {shares} of the cache its policies lose KL {figures(best)} on the other search "
        f"prompts; {others}."
    )
