"""Two processes that share a model's KV heads prune as one does: each cuts its own heads to their own budgets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from a2sf_core import A2SFError
from a2sf_core.placement import local_heads
from tests.tuner.models import tiny

PROGRAM = Path(__file__).parent / "shared_heads.py"


def run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def written(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    model, alone, shared = tmp_path / "model", tmp_path / "alone", tmp_path / "shared"
    tiny("llama").save_pretrained(model)
    run(str(PROGRAM), str(model), str(alone))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run(*torchrun, str(PROGRAM), str(model), str(shared))
    expected, found = written(Path(f"{alone}.0")), [written(Path(f"{shared}.{rank}")) for rank in range(2)]
    assert found[0] == found[1], "processes that measure different figures would part in the middle of a search"
    assert not expected.pop("refused")
    assert "several processes share takes no limit of memory" in found[0]["refused"]
    for name, value in expected.items():
        if name.endswith(("gathered", "attached")):
            assert np.abs(np.array(found[0][name]) - np.array(value)).max() < 1e-5, name
        else:
            assert found[0][name] == value, name


def test_heads_that_nobody_shares_out_are_refused() -> None:
    assert local_heads(3, 3) == range(3)
    sentence = "the policy is for 3 KV heads but the layer has 2; use a policy made for this model."
    with pytest.raises(A2SFError, match=re.escape(sentence)):
        local_heads(2, 3)
