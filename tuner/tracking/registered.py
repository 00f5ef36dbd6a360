"""What `mlflow.pyfunc.load_model` makes of a registered config: the model that it is for, pruned by it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from a2sf_core.config import A2SFConfig
from tuner.inputs.greedy import greedily
from tuner.inputs.models import load_model
from tuner.tracking.registry import MOST_NEW_TOKENS

if TYPE_CHECKING:
    from pandas import DataFrame


class PrunedModel:
    """Writes greedily on from prompts, one by one, and keeps what the policy says."""

    def __init__(self, config: A2SFConfig, model: Any, tokenizer: Any) -> None:
        """Raises A2SFError if the model is not the one that the config is for."""
        config.check_fits(model)
        self._config, self._model, self._tokenizer = config, model, tokenizer
        self._one_at_a_time = threading.Lock()

    def predict(self, data: DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """An answer for every row of the column `prompt`; `max_new_tokens` in `params`."""
        most = int((params or {}).get("max_new_tokens", MOST_NEW_TOKENS))
        with self._one_at_a_time, self._config.attach(self._model):
            return [self._answer(str(prompt), most) for prompt in data["prompt"]]

    def _answer(self, prompt: str, most: int) -> str:
        ids = self._tokenizer(prompt, return_tensors="pt").to(self._model.device)
        with torch.no_grad(), greedily(self._model, self._tokenizer, most) as settings:
            output = self._model.generate(
                input_ids=ids.input_ids, attention_mask=ids.attention_mask, generation_config=settings
            )
        written = output[0, ids.input_ids.shape[1] :]
        return str(self._tokenizer.decode(written, skip_special_tokens=True))


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> PrunedModel:
    """MLflow's name for it. `model_config` may be overridden: where the model lies is another matter on every machine.

    Raises:
        A2SFError: if the model cannot be loaded, or is not the one that the config is for.
    """
    adapter = model_config.get("adapter")
    model, tokenizer = load_model(
        model_config["model"], model_config["device"], model_config["dtype"], Path(adapter) if adapter else None
    )
    return PrunedModel(A2SFConfig.from_pretrained(path), model, tokenizer)
