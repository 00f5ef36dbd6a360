"""The real command killed with SIGKILL in three of its stages and resumed: nothing is lost, doubled or torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import kill_and_resume

pytestmark = pytest.mark.long


def test_killed_in_any_stage_and_resumed(tmp_path: Path) -> None:
    kills, at_the_end = kill_and_resume(tmp_path, ["study opened", "trials", "trials done"], seed=3)
    assert [kill.findings for kill in kills] == [()] * 3
    assert at_the_end == ()
    assert any(kill.finished > 0 for kill in kills if not kill.ended_before)
