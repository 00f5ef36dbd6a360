"""What each actor gets: never more than fits, whatever the machines are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from a2sf_core.errors import A2SFError
from tuner.measuring.sharing import Share, shared_out


def cpu(*cores: int) -> list[dict[str, float]]:
    return [{"CPU": each} for each in cores]


def gpu(*gpus: int) -> list[dict[str, float]]:
    return [{"CPU": 16, "GPU": each} for each in gpus]


@pytest.mark.parametrize(
    ("machines", "wanted", "spreads", "share"),
    [
        (cpu(2), None, False, Share(2, 1, 0)),
        (cpu(1), None, False, Share(1, 1, 0)),
        (cpu(16), 3, False, Share(3, 5, 0)),
        (cpu(8, 8), 3, False, Share(3, 4, 0)),
        (cpu(4, 4, 4), 4, False, Share(4, 2, 0)),
        (cpu(16, 16, 16), 5, False, Share(5, 8, 0)),
        (cpu(4, 64, 64), None, False, Share(3, 32, 0)),
        ([{}, *cpu(64, 64)], None, False, Share(2, 64, 0)),
        (gpu(8), None, False, Share(8, 1, 1)),
        (gpu(1, 1, 1, 1), 2, True, Share(2, 1, 1)),
        (gpu(8), 2, True, Share(2, 1, 4)),
        (gpu(8), 2, False, Share(2, 1, 1)),
        ([*cpu(64), *gpu(2)], None, False, Share(2, 1, 1)),
    ],
)
def test_each_gets_as_much_as_all_can_have(
    machines: Sequence[Mapping[str, float]], wanted: int | None, spreads: bool, share: Share
) -> None:
    assert shared_out(machines, wanted, True, spreads) == share
    what, each = ("GPU", share.gpus) if share.gpus else ("CPU", share.cores)
    assert sum(int(machine.get(what, 0)) // each for machine in machines) >= share.count, "all of them find a place"


def test_gpus_are_left_alone_where_the_model_is_on_the_cpu() -> None:
    assert shared_out(gpu(8), None, False, False) == Share(2, 8, 0)


@pytest.mark.parametrize(
    ("machines", "wanted", "what"), [(gpu(2), 4, "GPU"), (cpu(2), 3, "core"), ([{}], None, "core")]
)
def test_more_than_there_is_room_for_is_refused(
    machines: Sequence[Mapping[str, float]], wanted: int | None, what: str
) -> None:
    with pytest.raises(A2SFError, match=f"need a {what} each"):
        shared_out(machines, wanted, True, False)
