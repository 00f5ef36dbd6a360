"""Samplers by name: seeded, and modelling only after what the study starts with."""

from __future__ import annotations

import optuna
import pytest

from tuner.choices import SAMPLERS
from tuner.search.samplers import N_STARTUP, make_sampler


def drawn(name: str, seed: int, n: int = 8) -> list[float]:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(name, seed, 0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0, 1)
        return x, 1 - x

    study.optimize(objective, n)
    return [trial.params["x"] for trial in study.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_decides(name: str) -> None:
    assert drawn(name, 1) == drawn(name, 1)
    assert drawn(name, 1) != drawn(name, 2)


@pytest.mark.parametrize(("n_enqueued", "startup"), [(0, N_STARTUP), (24, 24)])
def test_nothing_is_modelled_before_the_first_trials_are_done(n_enqueued: int, startup: int) -> None:
    assert make_sampler("tpe", 0, n_enqueued)._n_startup_trials == startup


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no sampler is called 'annealing'"):
        make_sampler("annealing", 0, 0)
