"""What an earlier study hands to a new one: its best points, and its profile where model and task are the same.

Parameters speak of depth, of the profile and of shares, not of layer numbers, so they carry over to another task and to
another model of the family. Whether they help there is said at the end of a run, not assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from a2sf_core.cuts import PROMPT
from tuner.search.hypervolume import front, hypervolume
from tuner.search.objectives import MEMORY, points_of
from tuner.search.profile import PROFILE_FILE
from tuner.search.profile_file import Profiled
from tuner.search.records import FirstTrial, Params, TrialRecord
from tuner.search.storage import read_front, read_identity

N_SEEDS = 8
METHOD = "warm start"


@dataclass(frozen=True)
class WarmStart:
    """The seeds, with parameters of the space they come from, the profile if one fits, and what to beware of."""

    seeds: list[FirstTrial]
    profile: Profiled | None
    remark: str = ""


def read_warm_start(folders: Sequence[Path], identity: Mapping[str, str]) -> WarmStart:
    """Up to `N_SEEDS` points of each study in `folders`, spread along its front.

    Args:
        identity: of the new study; a profile of the same model, task and data is taken over.

    Raises:
        A2SFError: if a folder holds no study with a finished trial.
    """
    seeds: dict[str, FirstTrial] = {}
    profile, cut, remarks = None, identity.get("cut", PROMPT), []
    for folder in folders:
        best = [record for record in read_front(folder) if record.params and record.metrics[MEMORY] < 1]
        step = max(1, -(-len(best) // N_SEEDS))
        for record in best[::step]:
            label = f"seed from {folder.name}, trial {record.number}"
            seeds[label] = FirstTrial(label, "seed", METHOD, _named(record.params))
        known = read_identity(folder)
        if (other := known.get("cut", PROMPT)) != cut:
            remarks.append(f"{folder} was tuned for cut: {other}, this run is for cut: {cut}; its points may not suit.")
        if all(known.get(name) == identity[name] for name in ("model", "task", "data")):
            path = folder / PROFILE_FILE
            profile = Profiled.load(path) if path.is_file() else profile
    return WarmStart(list(seeds.values()), profile, " ".join(remarks))


def _named(params: Params) -> Params:
    """Studies from before rules had names say `window`, 0 or 1."""
    if "window" not in params:
        return params
    rest = {name: value for name, value in params.items() if name != "window"}
    return rest | {"rule": "window" if params["window"] else "decay"}


def what_transferred(records: Sequence[TrialRecord]) -> str:
    """One sentence on what the seeds of a warm start were worth; empty if there were none."""
    done = [record for record in records if record.state == "complete"]
    seeds = [record for record in done if record.method == METHOD]
    if not seeds:
        return ""
    points = points_of(done)
    on_front = sum(done[place].method == METHOD for place in front(points))
    share = hypervolume(points_of(seeds))
    whole = hypervolume(points)
    return (
        f"Warm start: {on_front} of {len(seeds)} points taken over are still on the front; "
        f"alone they reach {share / whole:.0%} of its hypervolume."
    )
