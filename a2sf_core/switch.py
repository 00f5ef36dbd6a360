"""Switching a model to A2SF attention and back."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import transformers
from torch import nn
from transformers import Cache, DynamicCache

from a2sf_core import attention
from a2sf_core.cache import A2SFCache, policy_layers
from a2sf_core.errors import A2SFError
from a2sf_core.layers.base import PruningLayer, forget_waiting_layer
from a2sf_core.layers.slots import SlotLayer
from a2sf_core.policy import Policy
from a2sf_core.shape import n_kv_heads
from a2sf_core.trial import try_once

_SWITCHING = threading.RLock()
_OF_MODEL = "a2sf_model"
"""Of our hook: the model that it was given to, and that model's own attention. A copied model has the same hook."""
_SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}


@contextmanager
def attach(policy: Policy, model: Any, tuned_for: str | None = None) -> Iterator[Any]:
    """Let `model` prune its cache by `policy` inside the `with` block; afterwards it is as it was.

    Inside, `model(...)` and `model.generate(...)` work as ever. An empty cache made by generate is filled
    with layers of the policy; an `A2SFCache(policy)` or the cache of an earlier call is used as it is (a
    second turn).

    Attach once; every caller of this model is pruned, from any thread. A second attach to it is refused meanwhile, also
    one by another thread; a deepcopy made inside is a model of its own, which is not attached.

    Args:
        policy: one layer policy per decoder layer of the model.
        model: a decoder-only transformers model.
        tuned_for: one of `a2sf_core.cuts.CUTS`: a cut at another place is warned of, once; None for any.

    Yields:
        the model.

    Raises:
        A2SFError: if the model has another number of layers or KV heads or an attention that cannot be scored,
            if it is attached already, or, from inside, if it is called with a cache that cannot be pruned.
    """
    with ExitStack() as stack:
        with _SWITCHING:  # of two threads that attach at once, one is refused
            let_go_of_copy(model)
            check_model(model)
            text = model.config.get_text_config()
            n_layers = text.num_hidden_layers
            if n_layers != len(policy.layers):
                raise A2SFError(
                    f"the policy has {len(policy.layers)} layers but the model has {n_layers}; "
                    "use a policy made for this model."
                )
            policy.check_heads(n_kv_heads(text))
            try_once(model, lambda: _attached(Policy.full(n_layers), model))
            stack.enter_context(_attached(policy, model, None if policy.keeps_all else tuned_for))
        try:
            yield model
        finally:
            with _SWITCHING:
                stack.close()


@contextmanager
def _attached(policy: Policy, model: Any, tuned_for: str | None = None) -> Iterator[None]:
    def give_cache(
        called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if called is not model:
            let_go_of_copy(called)
            return args, kwargs
        given = _with_pruning_cache(policy, name, kwargs)
        given[name].layers[0].tuned_for = tuned_for  # one that speaks is enough
        forget_waiting_layer(isinstance(given[name].layers[0], SlotLayer))
        return args, given

    name = cache_argument(model)
    setattr(give_cache, _OF_MODEL, (model, model.config._attn_implementation))
    hook = model.register_forward_pre_hook(give_cache, with_kwargs=True)
    try:
        with switched(model), _caching(model):
            yield
    finally:
        hook.remove()


def let_go_of_copy(model: Any) -> None:
    """If `model` is a copy of an attached one, made while it was attached, make it what that one was before."""
    hooks = getattr(model, "_forward_pre_hooks", {})
    for key, hook in list(hooks.items()):
        owner, before = getattr(hook, _OF_MODEL, (model, None))
        if owner is not model:
            del hooks[key]
            model._forward_pre_hooks_with_kwargs.pop(key, None)
            model.set_attn_implementation(before)


@contextmanager
def _caching(model: Any) -> Iterator[None]:
    """Settings of the model that would leave no cache, or one of static shape, do not count inside.

    Training leaves `use_cache: false` behind, and some models ship with a static cache.
    """
    settings = getattr(model, "generation_config", None)
    wanted = {} if settings is None else {"use_cache": True, "cache_implementation": None, "cache_config": None}
    before = {name: getattr(settings, name) for name in wanted if hasattr(settings, name)}
    try:
        for name in before:
            setattr(settings, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


@contextmanager
def switched(model: Any) -> Iterator[None]:
    """Only the attention implementation: A2SF inside, what it was outside."""
    before = model.config._attn_implementation
    forget_waiting_layer(is_static=False)
    try:
        model.set_attn_implementation(attention.NAME)
        yield
    finally:
        model.set_attn_implementation(before)


def check_model(model: Any) -> None:
    """Raise A2SFError, with the reason, if A2SF cannot serve this model or it is attached already."""
    config = getattr(model, "config", None)
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        raise A2SFError(
            "attach needs the model inside this PeftModel: give model.get_base_model(), which has the adapter."
        )
    if config is None or not isinstance(model, transformers.PreTrainedModel):
        raise A2SFError(f"attach needs a transformers model, not {type(model).__name__}.")
    kind = type(model).__name__
    if config.is_encoder_decoder:
        raise A2SFError(f"{kind} is an encoder-decoder model; A2SF prunes decoder-only models.")
    if config._attn_implementation == attention.NAME:
        raise A2SFError(
            f"this {kind} is attached to a policy already: attach once, every caller of this model is pruned; leave "
            "that `with` block before you attach another policy."
        )
    text = config.get_text_config()
    odd = set(getattr(text, "layer_types", None) or ()) - _SUPPORTED_LAYERS
    if odd:
        raise A2SFError(f"{kind} has layers of type {', '.join(sorted(odd))}; A2SF prunes full and sliding attention.")
    modules = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    indices = {getattr(module, "layer_idx", None) for module in modules}
    if indices != set(range(text.num_hidden_layers)) or not model._can_set_attn_implementation():
        raise A2SFError(
            f"the attention modules of {kind} do not carry a layer_idx each or do not use the transformers "
            "attention interface, so A2SF cannot serve them; use a decoder-only architecture that does."
        )


def cache_argument(model: Any) -> str:
    """The forward's name for the cache: "cache" from transformers 5.24 on, "past_key_values" before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _with_pruning_cache(policy: Policy, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    if kwargs.get("use_cache") is False:
        raise A2SFError("use_cache=False leaves nothing to prune; call the attached model with use_cache on.")
    if name != "past_key_values" and "past_key_values" in kwargs:
        kwargs = dict(kwargs)
        kwargs.setdefault(name, kwargs.pop("past_key_values"))
    cache = kwargs.get(name)
    if cache is None:
        return {**kwargs, name: A2SFCache(policy), "use_cache": True}
    if isinstance(cache, Cache) and cache.layers and all(isinstance(layer, PruningLayer) for layer in cache.layers):
        if len(cache.layers) != len(policy.layers):
            raise A2SFError(
                f"the cache has {len(cache.layers)} layers but the model has {len(policy.layers)}; "
                "make one with A2SFCache(policy)."
            )
        return kwargs
    if type(cache) is not DynamicCache or cache.offloading:
        offloads = " with offloading" if getattr(cache, "offloading", False) else ""
        raise A2SFError(
            f"a {type(cache).__name__}{offloads} cannot be pruned; "
            "leave cache_implementation and the cache argument out, or pass an A2SFCache(policy)."
        )
    if cache.get_seq_length() > 0:
        raise A2SFError(
            "the cache passed in was filled without this policy, so its tokens have no scores; start from "
            "an A2SFCache(policy) or leave the cache out."
        )
    # generate keeps hold of the object it made, so its contents change and not the object.
    cache.layers[:] = policy_layers(policy)
    return kwargs
