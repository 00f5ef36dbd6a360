"""An initialisation that starts a small Llama with working induction heads.

From random weights, matching a key in a question with the same key in the context takes more training than we have:
a head must find what stood before a token, another must match it, a third must copy it, and none pays off alone. Set up
by hand, training keeps, sharpens and extends them within a few hundred steps.

Layer 0 looks one token back (first KV head) and a few tokens back (second), by position alone, and writes the identity
of what it saw, in a random code, into the residual stream. Layer 1 matches the current token with that code and copies
the token that it finds; the later layers copy too. All else stays as the library initialises it.
"""

from __future__ import annotations

import math

import torch
from transformers import LlamaForCausalLM

EMBEDDING, CONSTANT = 0.1, 0.06
SHARP, BROAD, WRITE, MATCH, COPY = 8.0, 3.0, 0.3, 20.0, 1.0
# Pairs of rotary dimensions below this index turn too fast to match a token far away.
SLOW = 6


@torch.no_grad()
def give_induction_heads(model: LlamaForCausalLM, seed: int) -> None:
    """Set embeddings and attention matrices in place; the shape must have 2 KV heads with 2 query heads each."""
    generator = torch.Generator().manual_seed(seed)
    width, size = model.config.hidden_size, model.config.head_dim
    pairs = size // 2
    speeds = [model.config.rope_parameters["rope_theta"] ** (-i / pairs) for i in range(pairs)]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    # Dimension 0 is the same for all tokens: attention by position alone needs something constant to turn.
    embedding = model.model.embed_tokens.weight  # [vocab, width]
    embedding.copy_(EMBEDDING * normal(*embedding.shape))
    embedding[:, 0] = CONSTANT * math.sqrt(width)
    constant = embedding[0, 0].item() / math.sqrt(EMBEDDING**2 + CONSTANT**2)  # after the norm of layer 0

    codes = [normal(size, width) / math.sqrt(width) for _ in range(2)]  # token -> code, [size, width]
    places = [torch.linalg.qr(normal(width, size))[0] for _ in range(2)]  # code -> residual stream, [width, size]
    for code in codes:
        code[:, 0] = 0
    slow = torch.tensor([float(i % pairs >= SLOW) for i in range(size)])[:, None]  # [size, 1]

    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    looks = ((0, (0, 1, 2), 1, SHARP), (1, (1, 2, 3, 4), 3, BROAD))
    for kv_head, used, distance, gain in looks:
        weight = math.sqrt(gain * math.sqrt(size)) / constant
        query, key = torch.zeros(size, width), torch.zeros(size, width)
        for pair in used:
            query[pair, 0] = weight
            key[pair, 0] = weight * math.cos(speeds[pair] * distance)
            key[pair + pairs, 0] = weight * math.sin(speeds[pair] * distance)
        kv_rows = slice(kv_head * size, (kv_head + 1) * size)
        first.k_proj.weight[kv_rows] = key
        first.v_proj.weight[kv_rows] = codes[kv_head]
        second.k_proj.weight[kv_rows] = math.sqrt(MATCH) * slow * places[kv_head].T
        for head in (2 * kv_head, 2 * kv_head + 1):
            rows = slice(head * size, (head + 1) * size)
            first.q_proj.weight[rows] = query + 0.02 * normal(size, width)
            first.o_proj.weight[:, rows] = WRITE / 2 * places[kv_head]
        matching = slice(2 * kv_head * size, (2 * kv_head + 1) * size)
        second.q_proj.weight[matching] = math.sqrt(MATCH) * codes[kv_head]

    for layer in model.model.layers[1:]:
        for kv_head in (0, 1):
            copied = normal(size, width) / math.sqrt(width)  # [size, width]
            copied[:, 0] = 0
            layer.self_attn.v_proj.weight[kv_head * size : (kv_head + 1) * size] = copied
            for head in (2 * kv_head, 2 * kv_head + 1):
                layer.self_attn.o_proj.weight[:, head * size : (head + 1) * size] = COPY / 2 * copied.T
