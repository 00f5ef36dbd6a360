"""Files appear whole, with the rights that the user's umask leaves them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from a2sf_core.files import leftovers, readable_json, whole, write_whole


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_counts(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "old")

    def fail() -> None:
        with whole(tmp_path / "a.json") as beside:
            beside.write_text("new")
            assert leftovers(tmp_path) == [beside], "a kill would leave it, and the next run finds it"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a.json").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_readable_json_keeps_numbers_on_one_line_and_means_the_same() -> None:
    given = {
        "powers": [[1, -2.5e-07], [0.25, 3]],
        "said": ["[\n  1,\n  2\n]", "a  b"],
        "none": [],
        "half_lives": [1.0, "inf"],
        "nested": [{"a": [True]}],
    }
    text = readable_json(given)
    assert json.loads(text) == given
    assert '"powers": [\n    [1, -2.5e-07],\n    [0.25, 3]\n  ]' in text
    assert '"half_lives": [1.0, "inf"]' in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        readable_json([float("nan")])
