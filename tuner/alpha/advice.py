"""`a2sf-tune suggest`: the exported regressor's answer, in words."""

from __future__ import annotations

from pathlib import Path

from a2sf_core.config import FILE_NAME, A2SFConfig
from a2sf_core.cuts import CONTEXT
from a2sf_core.errors import A2SFError
from a2sf_core.half_life import alpha_of
from tuner.alpha.model import AlphaModel
from tuner.alpha.schema import MOST_TOKENS


def suggest_alpha(tokens: int, where: Path | None) -> str:
    """One line: half-life and alpha for an input of `tokens`, and where the answer comes from.

    Raises:
        A2SFError: for fewer than one token, or where there is no finished run.
    """
    if not 1 <= tokens <= MOST_TOKENS:
        raise A2SFError(f"--tokens is {tokens}; expected 1 or more, and at most {MOST_TOKENS}.")
    path = where or _latest()
    config = A2SFConfig.from_pretrained(path)
    if config.alpha_model is None:
        raise A2SFError(f"{path} holds no alpha regressor; tune again with this version.")
    model = AlphaModel.from_dict(config.alpha_model, f"{path}: alpha_model")
    half_life, remark = model.suggest(tokens)
    alpha = alpha_of(half_life)
    task = f"task {config.task}" + (" cut before the question" if config.cut == CONTEXT else "")
    answer = f"alpha {alpha:.4g} (half-life {half_life:g} tokens) for {tokens} tokens, {task}, from {path}"
    return f"{answer}\n{remark[0].upper()}{remark[1:]}." if remark else answer


def _latest() -> Path:
    found = sorted(Path("runs").glob(f"*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise A2SFError("there is no finished run under ./runs; give one with --run FOLDER, or tune first.")
    return found[-1]
