"""MLflow's model registry: a run's config as a model version under an alias, and back from there.

A version holds `a2sf_config.json` and the name of the model that it is for: no weights, nothing pickled, no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2sf_core.config import FILE_NAME, A2SFConfig
from a2sf_core.errors import A2SFError
from a2sf_core.serve.served import Served
from tuner.choices import REFERENCE, SMOLLM2
from tuner.tracking.database import at_work, open_client
from tuner.tracking.logged import logged_model, pinned
from tuner.tracking.place import Place, place_of

CHAMPION, CHALLENGER = "champion", "challenger"
SCHEME = "models:/"
LOADER = "tuner.tracking.registered"
"""The module that `mlflow.pyfunc.load_model` asks for the model."""
MOST_NEW_TOKENS = 100
"""Of an answer, unless it is asked for otherwise."""
_VERSION_TAG = "a2sf.version"
_SAFE = re.compile(r"[\w.-]{1,100}")
_PACKAGES = ("a2sf-tune", "torch", "transformers")


@dataclass(frozen=True)
class Registered:
    """A model version. `is_new` is False where the registry had one of this content already."""

    name: str
    version: str
    alias: str
    is_new: bool

    @property
    def uri(self) -> str:
        """What MLflow and `a2sf-serve` take."""
        return f"{SCHEME}{self.name}@{self.alias}"


def register(
    run: Path,
    name: str,
    alias: str | None = None,
    address: str | None = None,
    model: str | None = None,
    adapter: Path | None = None,
) -> Registered:
    """Register the config of a finished run and point an alias at it.

    Args:
        run: its folder.
        name: of the registered model, which is made if it is not there.
        alias: None for "champion" if the policy is proven, else "challenger".
        address: where MLflow is; None for MLFLOW_TRACKING_URI or else the database in the folder.
        model, adapter: what the config is for, for `mlflow.pyfunc`; None for what the run says.

    Raises:
        A2SFError: if there is no config or it keeps the whole cache, a name is not plain, or MLflow does not take it.
    """
    _check_plain(name, "the name of a registered model")
    config = A2SFConfig.from_pretrained(run)
    if config.policy.keeps_all:
        raise A2SFError(
            f"the policy in {run} keeps the whole cache, so there is nothing to serve; register another run."
        )
    alias = alias or (CHALLENGER if config.doubt else CHAMPION)
    _check_plain(alias, "an alias")
    of_model = {
        "model": _source(config, model),
        "adapter": _adapter(config, adapter),
        "device": "auto",
        "dtype": "auto",
    }
    place = place_of(run if run.is_dir() else run.parent, address)
    if place.embedded and (place.database is None or not place.database.exists()):
        raise A2SFError(f"{run} has no MLflow database; give the server or database of the run with --mlflow.")
    with at_work(place, "does not take the version"):
        client = open_client(place)
        digest = Served.of(config).version
        version = _found(client, name, digest)
        is_new = version is None
        if version is None:
            version = _create(client, place, name, config, of_model, digest)
        client.set_registered_model_alias(name, alias, version)
    return Registered(name, version, alias, is_new)


@dataclass(frozen=True)
class Alias:
    """models:/NAME@ALIAS in one place."""

    place: Place
    name: str
    alias: str

    @classmethod
    def read(cls, uri: str, address: str | None) -> Alias:
        """From what a user wrote.

        Raises:
            A2SFError: if it is not of that form, or nobody says where the registry is.
        """
        name, _, alias = uri.removeprefix(SCHEME).partition("@")
        if not _SAFE.fullmatch(name) or not _SAFE.fullmatch(alias):
            raise A2SFError(f"{uri!r} must be {SCHEME}NAME@ALIAS, such as {SCHEME}a2sf-chat@champion.")
        place = place_of(Path("."), address)
        if place.embedded:
            raise A2SFError(f"{uri} is in a registry; say in which with --mlflow or MLFLOW_TRACKING_URI.")
        if place.database is not None and not place.database.exists():
            raise A2SFError(f"there is no database {place.database}; give the one that the run was registered in.")
        return cls(place, name, alias)

    def version(self) -> str:
        """The version that it points at now. Raises A2SFError if there is none, or MLflow does not answer."""
        with at_work(self.place, "does not answer"):
            from mlflow.exceptions import MlflowException

            try:
                return str(open_client(self.place).get_model_version_by_alias(self.name, self.alias).version)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                raise A2SFError(
                    f"MLflow at {self.place.shown} has no {self.name}@{self.alias}; a2sf-tune register makes one."
                ) from error

    def fetch(self, version: str, folder: Path) -> Path:
        """Get a version into `folder`, and say where its config lies. Raises A2SFError if MLflow does not answer."""
        with at_work(self.place, "does not answer"):
            from mlflow.artifacts import download_artifacts

            client = open_client(self.place)
            found = download_artifacts(
                client.get_model_version_download_uri(self.name, version),
                dst_path=str(folder), tracking_uri=self.place.uri,
            )  # fmt: skip
            return Path(found) / "data" / FILE_NAME


def _check_plain(name: str, what: str) -> None:
    if not _SAFE.fullmatch(name):
        raise A2SFError(f"{what} must be letters, digits, '.', '_' and '-', at most 100, not {name[:120]!r}.")


def _source(config: A2SFConfig, model: str | None) -> str:
    """A path that is there as an absolute one; names as they are."""
    known = str(_study(config).get("model_name", ""))
    source = model or (known if known in (REFERENCE, SMOLLM2) else str(config.model.get("name") or known))
    if not source:
        raise A2SFError("the run does not say which model it tuned; give it with --model.")
    return str(Path(source).resolve()) if Path(source).exists() else source


def _adapter(config: A2SFConfig, adapter: Path | None) -> str | None:
    if adapter is None and "adapter" in _study(config):
        raise A2SFError("the run tuned a model with a LoRA adapter; give its folder with --adapter.")
    return None if adapter is None else str(adapter.resolve())


def _study(config: A2SFConfig) -> dict[str, Any]:
    """What the run was made with; a file of another hand may say anything."""
    study = config.evidence.get("study")
    return study if isinstance(study, dict) else {}


def _found(client: Any, name: str, digest: str) -> str | None:
    """The version of this content, if the registry has one."""
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(_VERSION_TAG) == digest:
            return str(version.version)
    return None


def _create(client: Any, place: Place, name: str, config: A2SFConfig, of_model: dict[str, Any], digest: str) -> str:
    """A new version."""
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    run_id = str(config.evidence.get("mlflow_run_id") or "none")
    try:
        experiment_id = client.get_run(run_id).info.experiment_id
    except MlflowException as error:
        raise A2SFError(
            f"MLflow at {place.shown} does not have the run {run_id}; give the server or database that it went to with "
            "--mlflow."
        ) from error
    with logged_model(client, experiment_id, name, run_id) as (logged, model, path):
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=LOADER,
            data_path=str(config.save_pretrained(path.parent)),
            model_config=of_model,
            mlflow_model=model,
            signature=_signature(),
            pip_requirements=pinned(_PACKAGES),
        )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="A2SF policies; see a2sf_config.json of each version.")
    said = {"a2sf.task": config.task, "a2sf.status": str(config.evidence.get("status", "")), _VERSION_TAG: digest}
    made = client.create_model_version(
        name, logged.artifact_location, run_id, tags=said, model_id=logged.model_id,
        description=str(config.evidence.get("verdict", "")),
    )  # fmt: skip
    return str(made.version)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        Schema([ColSpec("string", "prompt")]),
        Schema([ColSpec("string", "answer")]),
        ParamSchema([ParamSpec("max_new_tokens", "long", MOST_NEW_TOKENS)]),
    )
