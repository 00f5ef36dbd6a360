"""Greedy generation with settings of our own, all of them: none of those that a model comes with changes a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig


def greedy_settings(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    """One text per prompt, the likeliest token each time: no beams, no penalties, no drafts, a growing cache.

    Only what ends a text, and what fills up a row that has ended, is the model's or the tokenizer's.
    """
    ends = end_tokens(model, tokenizer)
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_length=0,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        use_cache=True,
        cache_implementation=None,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        prompt_lookup_num_tokens=None,
        return_dict_in_generate=False,
        output_scores=False,
        output_logits=False,
        output_attentions=False,
        output_hidden_states=False,
        eos_token_id=ends or None,
        pad_token_id=filler,
        bos_token_id=tokenizer.bos_token_id,
    )


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: the model's own, of which instruct models have several, else the tokenizer's."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    given = tokenizer.eos_token_id if own is None else own
    return [] if given is None else list(given) if isinstance(given, list) else [given]


@contextmanager
def greedily(model: Any, tokenizer: Any, max_new_tokens: int) -> Iterator[GenerationConfig]:
    """Yields settings for `model.generate(..., generation_config=...)`, and puts away the model's own meanwhile.

    generate fills what a caller leaves None from the model's settings, and None is how one says "no static cache".
    """
    before, settings = model.generation_config, greedy_settings(model, tokenizer, max_new_tokens)
    model.generation_config = settings
    try:
        yield settings
    finally:
        model.generation_config = before
