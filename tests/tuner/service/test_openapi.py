"""What /openapi.json promises is held to: schemathesis sends what it allows and what it does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Service

pytestmark = pytest.mark.long

SETTINGS = """
[generation]
mode = "all"

[checks]
# A body may be well-formed and ask for what is not there: samples, a model, a metric.
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "413", "422", "429", "503"]
# A path that is none is no study of anybody's, and who has too many jobs waiting is told that first.
negative_data_rejection.expected-statuses = ["400", "401", "404", "405", "406", "413", "415", "422", "429", "503"]
missing_required_header.expected-statuses = ["400", "401", "403", "404", "406", "415", "422"]
"""
EXAMPLES = 6
"""Per operation and phase; docs/service.md has the command for more."""


STUDIES, VALIDATIONS = "/v1/studies", "/v1/validations"


@pytest.mark.parametrize(
    ("which", "phases"),
    [
        # A stream ends with its study, and nothing works here.
        (
            ("--exclude-path", f"{STUDIES}/{{study}}/events", "--exclude-path", STUDIES, "--exclude-path", VALIDATIONS),
            "examples,coverage,fuzzing",
        ),
        # What is well-formed is looked at by a process of its own, and coverage sends five hundred of each.
        (("--include-path", STUDIES, "--include-path", VALIDATIONS), "examples,fuzzing"),
    ],
)
def test_schemathesis_finds_nothing(
    service: Service, study: str, tmp_path: Path, which: tuple[str, ...], phases: str
) -> None:
    assert study
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    found = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--no-color", "--seed", "1",
            "-H", f"Authorization: Bearer {service.tokens['anna']}", "--max-examples", str(EXAMPLES), *which,
            "--request-timeout", "120", "--phases", phases, "--suppress-health-check", "all",
            "--generation-database", "none",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert re.search(r"(\d+) generated, \1 passed|No issues found", found.stdout), found.stdout[-3000:]
