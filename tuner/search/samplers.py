"""Which of Optuna's samplers proposes the trials; docs/search.md has the comparison that the default rests on."""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler

from tuner.choices import SAMPLERS

N_STARTUP = 10
"""Trials before a model is fitted: random ones, unless the study starts with as many of its own."""
POPULATION = 20


def make_sampler(name: str, seed: int, n_enqueued: int) -> BaseSampler:
    """A seeded sampler that begins to model after the enqueued trials, or `N_STARTUP` random ones if there are fewer.

    Args:
        name: one of `tuner.choices.SAMPLERS`.
        n_enqueued: trials that the study starts with, baselines and seeds.
    """
    startup = max(n_enqueued, N_STARTUP)
    match name:
        case "tpe" | "tpe-univariate":
            return optuna.samplers.TPESampler(
                multivariate=name == "tpe", constant_liar=True, seed=seed, n_startup_trials=startup
            )
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
    raise ValueError(f"no sampler is called {name!r}; there are {', '.join(SAMPLERS)}")
