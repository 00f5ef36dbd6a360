"""The reference model's tokenizer: a Unigram vocabulary of the generated world, characters and bytes for all else."""

from __future__ import annotations

import math
import random
import string
from collections import Counter

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from studies.world import SCENES

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPACE = "▁"


def build(n_scenes: int, seed: str) -> PreTrainedTokenizerFast:
    """Count the words of ``n_scenes`` generated scenes per task and make every one of them a token.

    Text from elsewhere falls back to characters, then to bytes, so nothing is ever unknown.
    """
    split = pre_tokenizers.Sequence([pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(SPACE, "always")])
    words = pre_tokenizers.Sequence([split, pre_tokenizers.Punctuation("isolated")])
    counts: Counter[str] = Counter()
    for task, scene_of in SCENES.items():
        for index in range(n_scenes):
            scene = scene_of(random.Random(f"{seed}:{task}:{index}"), 300)
            for question in scene.questions:
                text = f"Question: {question.text}\nAnswer: {question.answer}"
                counts.update(piece for piece, _ in words.pre_tokenize_str(text))
            counts.update(piece for piece, _ in words.pre_tokenize_str(scene.context))
    total = sum(counts.values())
    pieces = [(special, 0.0) for special in (PAD, BOS, EOS)]
    pieces += [(f"<0x{byte:02X}>", -40.0) for byte in range(256)]
    pieces += [(piece, math.log(count / total)) for piece, count in counts.most_common()]
    known = {piece for piece, _ in pieces}
    pieces += [(char, -20.0) for char in string.printable.strip() + SPACE if char not in known]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(SPACE, " "), decoders.Replace(" \n ", "\n"),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
