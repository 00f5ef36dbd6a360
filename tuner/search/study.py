"""The Optuna study: two objectives, known points first, kept in a journal file that survives being killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses, Seen, share_kept
from tuner.search.dimensions import Options, Range
from tuner.search.hypervolume import WORST_LOSS, stood_still
from tuner.search.kept import Kept, Turn
from tuner.search.objectives import DIRECTIONS, MEMORY, QUALITY, points_of, summary, values_of
from tuner.search.racing import Race
from tuner.search.records import FirstTrial, Params, TrialRecord, Value
from tuner.search.samplers import make_sampler
from tuner.search.space import Space
from tuner.search.storage import Storage
from tuner.search.trials import TrialResult

TOGETHER = 8
"""Trials asked for at once where prompts must be read anew: they share one reading."""
LEAST_GAIN = 0.002
"""A hypervolume that grew by less than this share of everything has stood still."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Plan:
    """How a study is run.

    trials: how many, those before a resume included. sampler: see `tuner.search.samplers`. racing: stop trials that
    cannot win. patience: stop when so many trials have not grown the hypervolume; None runs them all. seeds: further
    first trials, from a warm start; their points may be those of another space.
    """

    trials: int
    sampler: str = "tpe"
    racing: bool = True
    patience: int | None = None
    seeds: Sequence[FirstTrial] = ()


@dataclass(frozen=True)
class _Asked:
    """A trial that is to be run, of one of the two studies in memory, its policy, and whose turn it is."""

    study: optuna.Study
    trial: Trial
    policy: Policy
    turn: Turn


class Study:
    """One study in one folder, opened or created.

    Optuna proposes trials in memory; each is written to the journal once, whole, when it is finished. Written step by
    step, as Optuna does by itself, a trial of ten parameters waits a dozen times for the disk.

    Args:
        run_dir: its folder; the journal is the only state.
        identity: what must be the same for a resume to make sense (model, task, data, space): name to value.
        seed: of the sampler. A resumed study draws from another point of the stream: same quality, other trials.
        kept: where the study is kept, if not in a journal in that folder.

    Raises:
        A2SFError: if the folder holds a study with another identity, or cannot be written.
    """

    def __init__(self, run_dir: Path, identity: Mapping[str, str], seed: int, kept: Kept | None = None) -> None:
        self.seed = seed
        self._kept: Kept = kept or Storage(run_dir, identity)
        self._study = optuna.create_study(directions=DIRECTIONS)
        # What no parameters describe is told here, so that the sampler never sees it: one such trial would empty the
        # space that TPE samples jointly.
        self._apart = optuna.create_study(directions=DIRECTIONS)

    def run(self, engine: Engine, space: Space, plan: Plan, on_trial: Callable[[int], None]) -> None:
        """Run until the plan is fulfilled; `on_trial` gets the number of finished trials after each.

        Every study begins with what the profile says, the baselines (`Space.enqueued`) and the seeds of the plan.
        """
        self._check_fits(engine, space)
        # A point under a rule that is not searched here would be another policy under any other.
        seeds = (seed for seed in plan.seeds if seed.params.get("rule", space.fixed[0]) in space.offered)
        given = [*space.enqueued(), *(replace(seed, params=space.complete(seed.params)) for seed in seeds)]
        first = list(
            {trial.label: trial for trial in sorted(given, key=lambda trial: trial.policy is not None)}.values()
        )
        full = engine.evaluate(Policy.full(engine.n_layers))
        # Nothing is worth a loss that nobody would accept, however small its cache: a rival that needs no memory.
        race = Race([0.0], [np.full(len(full.kl), WORST_LOSS)], engine.contexts)
        self._take_in()
        _enter(race, self._kept.trials())
        self._study.sampler = self._sampler(plan, [trial for trial in first if not trial.policy])
        while turns := self._claim(plan, TOGETHER if engine.recomputes else 1, first):
            _enter(race, self._take_in())
            asked = [self._ask(space, turn) for turn in turns]
            self._run_some(engine, asked, full, race, racing=plan.racing)
            on_trial(len(self._kept.trials()))

    def _sampler(self, plan: Plan, points: Sequence[FirstTrial]) -> BaseSampler:
        """`points` are those that the study begins with and the sampler sees."""
        known = {trial.user_attrs.get("label") for trial in self._kept.trials()}
        n_begun = len(self._study.trials) + sum(point.label not in known for point in points)
        return make_sampler(plan.sampler, (self.seed + self._kept.stream + n_begun) % 2**32, len(points))

    def _claim(self, plan: Plan, most: int, first: Sequence[FirstTrial]) -> list[Turn]:
        return self._kept.claim(0 if self._is_over(plan) else plan.trials, most, first)

    def _take_in(self) -> list[FrozenTrial]:
        """Let the sampler know what earlier runs and other workers have finished."""
        fresh = self._kept.fresh()
        self._study.add_trials([trial for trial in fresh if trial.params])
        return fresh

    def _check_fits(self, engine: Engine, space: Space) -> None:
        """Raise A2SFError if the journal holds points of another space or figures of other samples."""
        probe = optuna.create_study(directions=DIRECTIONS).ask()
        ask(probe, space)
        for trial in self._kept.trials():
            seen = len(TrialResult.of(trial).sample_kl)
            if trial.params and trial.distributions != probe.distributions:
                raise A2SFError(f"Trial {trial.number} of the study is of another search space; use --out.")
            if trial.state == TrialState.COMPLETE and seen != len(engine.samples):
                n = len(engine.samples)
                raise A2SFError(
                    f"Trial {trial.number} of the study was measured on {seen} samples, not {n}; use --out."
                )

    def _ask(self, space: Space, turn: Turn) -> _Asked:
        """The trial of this turn: one that the study begins with, or what the sampler proposes."""
        if turn.first is None:
            trial = self._study.ask()
        elif turn.first.policy is None:
            self._study.enqueue_trial(dict(turn.first.params), user_attrs=turn.first.told())
            trial = self._study.ask()
        else:
            trial = self._apart.ask()
            for name, value in turn.first.told().items():
                trial.set_user_attr(name, value)
            return _Asked(self._apart, trial, turn.first.policy, turn)
        return _Asked(self._study, trial, space.policy(ask(trial, space)), turn)

    def _is_over(self, plan: Plan) -> bool:
        if plan.patience is None:
            return False
        searched = points_of(record for record in self.records() if record.kind == "search")
        return stood_still(searched, plan.patience, LEAST_GAIN)

    def _run_some(self, engine: Engine, asked: Sequence[_Asked], full: Losses, race: Race, racing: bool) -> None:
        started = time.time()
        memory = [share_kept(each.policy, engine.n_tokens) for each in asked]

        def is_lost(place: int, seen: Seen) -> bool:
            return race.is_lost(memory[place], seen)

        found = engine.race([each.policy for each in asked], is_lost if racing else None)
        seconds = (time.time() - started) / len(asked)
        for each, cache, seen in zip(asked, memory, found, strict=True):
            self._tell(each, seen, full, {MEMORY: cache, "seconds": seconds, "samples_seen": seen.n})
            if seen.n == len(engine.samples) and seen.losses.finite():
                race.finish(cache, seen.losses.kl)

    def _tell(self, asked: _Asked, seen: Seen, full: Losses, known: Mapping[str, float]) -> None:
        trial, text = asked.trial, json.dumps(asked.policy.to_dict())
        if not seen.losses.finite():
            TrialResult(text, error="the model gave NaN or infinity").write_to(trial)
            self._kept.add(asked.study.tell(trial, state=TrialState.FAIL), asked.turn)
            return
        metrics = {**summary(seen.losses, full.at(seen.rows)), **known}
        kl = [round(value, 9) for value in seen.losses.kl.tolist()]
        trial.set_constraint("loss", metrics[QUALITY] - WORST_LOSS)
        TrialResult(text, metrics, kl).write_to(trial)
        if seen.n < len(full.kl):
            self._kept.add(asked.study.tell(trial, state=TrialState.PRUNED), asked.turn)
        else:
            self._kept.add(asked.study.tell(trial, values_of(metrics)), asked.turn)

    def records(self) -> list[TrialRecord]:
        """Every finished trial; one that was interrupted is not among them."""
        return self._kept.records()

    def count_report_look(self, policies: Sequence[Policy]) -> int:
        """Note which policies the report split is about to be shown, and say how many choices it has seen by now."""
        return self._kept.count_report_look(policies)

    def preparing(self) -> AbstractContextManager[None]:
        """Within it what shapes the search is measured into the run folder, or found there."""
        return self._kept.preparing()

    def concluding(self) -> AbstractContextManager[None]:
        """Within it the result is made. Raises EndsElsewhere where another worker does that."""
        return self._kept.concluding()


def _enter(race: Race, trials: Sequence[FrozenTrial]) -> None:
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            result = TrialResult.of(trial)
            race.finish(result.metrics[MEMORY], np.array(result.sample_kl))


def ask(trial: Trial, space: Space) -> Params:
    """Ask the sampler for a point of `space`."""
    return {name: _ask_one(trial, name, r) for name, r in space.ranges.items()}


def _ask_one(trial: Trial, name: str, r: Range | Options) -> Value:
    if isinstance(r, Options):
        return trial.suggest_categorical(name, r.names)
    if r.whole:
        return trial.suggest_int(name, int(r.low), int(r.high))
    return trial.suggest_float(name, r.low, r.high, log=r.log)
