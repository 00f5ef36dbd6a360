"""What /openapi.json promises is held to: schemathesis sends what it allows and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .conftest import Service

SETTINGS = """
[generation]
mode = "all"

[checks]
# A body may be well-formed and ask for what is not there: samples, a model, a metric.
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "413", "422", "429", "503"]
# A path that is none is no study of anybody's.
negative_data_rejection.expected-statuses = ["400", "401", "404", "405", "406", "413", "415", "422"]
missing_required_header.expected-statuses = ["400", "401", "403", "404", "406", "415", "422"]
"""
EXAMPLES = 12
"""Per operation and phase; docs/service.md has the command for more."""


def test_schemathesis_finds_nothing(service: Service, study: str, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    found = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--no-color", "--seed", "1",
            "-H", f"Authorization: Bearer {service.tokens['anna']}", "--max-examples", str(EXAMPLES),
            # A stream ends with its study, and nothing works here.
            "--exclude-path", "/v1/studies/{study}/events", "--request-timeout", "120",
            "--phases", "examples,coverage,fuzzing",
            "--suppress-health-check", "all", "--generation-database", "none", "--report", "ndjson",
            "--report-dir", str(tmp_path),
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert "No issues found" in found.stdout, found.stdout[-3000:]
    reported = "".join(path.read_text() for path in tmp_path.glob("*.ndjson"))
    assert reported.count("ScenarioFinished") > 20, json.dumps(found.stdout[-2000:])
