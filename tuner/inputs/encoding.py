"""From samples to token ids: prompts that fit the model, where answers begin, the three parts of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from a2sf_core.cuts import CONTEXT, PROMPT
from a2sf_core.errors import A2SFError
from studies.samples import Sample
from tuner.inputs.prompting import Prompting
from tuner.inputs.tasks import Task

# A context that is cut to less than this says too little to judge a cache by.
MIN_CONTEXT = 16


@dataclass(frozen=True)
class Encoded:
    """One sample as token ids. `answer_ids` end with eos if the tokenizer has one and the task wants it.

    `prompt_ids` are read before tokens are dropped. Where a task is cut after its context they end there, equal for all
    questions on one context, and `question_ids` are the rest of the prompt, read over what is kept.
    `answer` is the reference as text, `other_answers` are as right, `facts` are what a right one states, `choice_ids`
    are answers to choose from as they follow the prompt, the right one first;
    `context_key` is equal for equal contexts.
    """

    id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    answer: str
    truncated: bool
    context_key: str
    other_answers: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    choice_ids: tuple[tuple[int, ...], ...] = ()
    question_ids: tuple[int, ...] = ()

    @property
    def whole_prompt(self) -> tuple[int, ...]:
        """All that stands before the answer."""
        return (*self.prompt_ids, *self.question_ids)

    @property
    def references(self) -> tuple[str, ...]:
        """All right answers, of which a metric on text takes the best; `answer_ids` are those of the first."""
        return (self.answer, *self.other_answers)


class EncodedList(list[Encoded]):
    """The encoded samples, with the ids of those that were left out because they do not fit."""

    def __init__(self, encoded: Sequence[Encoded], dropped: Sequence[str]) -> None:
        super().__init__(encoded)
        self.dropped = tuple(dropped)

    @property
    def n_truncated(self) -> int:
        """How many contexts were cut."""
        return sum(each.truncated for each in self)


def encode(samples: Sequence[Sample], tokenizer: Any, task: Task, max_tokens: int) -> EncodedList:
    """Token ids of every sample that fits `max_tokens` with its answer, and with what may be generated.

    A context that is too long loses its middle, as in LongBench: the ends of a text say most. Question, system message,
    examples and answer are never cut; a sample that keeps too little context is left out.

    Raises:
        A2SFError: if no sample fits, or the tokenizer's chat template fails.
    """
    encoder = _Encoder(tokenizer, task, max_tokens)
    if task.cut == CONTEXT:
        encoder.share_contexts(samples)
    encoded: list[Encoded] = []
    dropped: list[str] = []
    for sample in samples:
        each = encoder.encode(sample)
        if each is None:
            dropped.append(sample.id)
        else:
            encoded.append(each)
    if samples and not encoded:
        reserve, around = encoder.needs(samples[0])
        raise A2SFError(
            f"No sample fits the model's {max_tokens} tokens: in {samples[0].id!r} the answer and "
            "max_new_tokens need "
            f"{reserve} and the prompt around the context {around}, which leaves "
            f"{max(0, max_tokens - reserve - around)} "
            f"of at least {MIN_CONTEXT} for the context; lower max_new_tokens of task {task.name!r}, use "
            "shorter "
            "answers, or take a model with a longer context."
        )
    return EncodedList(encoded, dropped)


class _Encoder:
    def __init__(self, tokenizer: Any, task: Task, max_tokens: int) -> None:
        self.tokenizer, self.task, self.max_tokens = tokenizer, task, max_tokens
        self.prompting = Prompting(task, tokenizer)
        self.most_needed: dict[str, int] = {}
        # Data sets ask several questions on one long text, one after the other: tokenise it once.
        self.last_context: tuple[str, list[int], list[tuple[int, int]] | None] = ("", [], [])

    def encode(self, sample: Sample) -> Encoded | None:
        """None if the sample does not fit."""
        reserve, around = self.needs(sample)
        room = self.max_tokens - self.most_needed.get(sample.context, reserve + around)
        n_context = len(self._context(sample.context)[1])
        truncated = n_context > room
        keep = min(n_context, room)
        while True:
            if truncated and keep < MIN_CONTEXT:
                return None
            context = self._cut(sample.context, keep) if truncated else sample.context
            prompt_ids, answer_ids = self._boundary(sample, context)
            excess = len(prompt_ids) + reserve - self.max_tokens
            if excess <= 0:
                break
            # Tokens merge differently at the seams, so the whole can be a few longer than its parts.
            truncated, keep = True, keep - excess
        key = hashlib.sha256(sample.context.encode()).hexdigest()[:16]
        ids = tuple(prompt_ids), tuple(answer_ids)
        choices = self._choices(sample, context, ids[0], ids[1]) if sample.choices else ()
        made = Encoded(sample.id, *ids, sample.answer, truncated, key, sample.other_answers, sample.facts, choices)
        if self.task.cut == PROMPT:
            return made
        before = self._ids(self.prompting.up_to_context(context, sample.question))
        n = max(1, _in_common(ids[0], before))  # of an empty context the first token stands for it
        return replace(made, prompt_ids=ids[0][:n], question_ids=ids[0][n:])

    def share_contexts(self, samples: Sequence[Sample]) -> None:
        """Cut a context that is too long alike for all its questions, as they are to be answered from one reading."""
        for sample in samples:
            self.most_needed[sample.context] = max(self.most_needed.get(sample.context, 0), sum(self.needs(sample)))

    def _choices(
        self, sample: Sample, context: str, prompt_ids: tuple[int, ...], right: tuple[int, ...]
    ) -> tuple[tuple[int, ...], ...]:
        """Token ids of the right answer and of all others, behind the same prompt."""
        found = [right]
        for other in (each for each in sample.choices if each != sample.answer):
            prompt, answer = self._boundary(replace(sample, answer=other), context)
            # What an answer has in common with its prompt's end may differ; the prompt that is read is one.
            whole = [*prompt, *answer]
            found.append(tuple(whole[len(prompt_ids) :] if tuple(whole[: len(prompt_ids)]) == prompt_ids else answer))
        return tuple(found)

    def needs(self, sample: Sample) -> tuple[int, int]:
        """Tokens to keep free after the prompt, and tokens of the prompt without its context."""
        prompt_ids, answer_ids = self._boundary(sample, "")
        return max(len(answer_ids), self.task.max_new_tokens), len(prompt_ids)

    def _boundary(self, sample: Sample, context: str) -> tuple[list[int], list[int]]:
        """Prompt and answer as they are tokenised together, which is what the model would read and write.

        The prompt on its own can end in tokens that the whole does not have: a space at its end joins the
        first word of the answer, and some tokenizers close every text with eos. So the prompt is what both
        have in common from the start, and the answer is all the rest.
        """
        prompt = self.prompting.text(context, sample.question)
        alone = self._ids(prompt)
        whole = self._ids(prompt + self.prompting.space_after(prompt) + sample.answer)
        common = _in_common(alone, whole)
        answer = whole[common:]
        eos = self.tokenizer.eos_token_id
        if eos is not None:
            answer = answer[:-1] if answer[-1:] == [eos] else answer
            answer = [*answer, eos] if self.task.eos else answer
        return whole[:common], answer

    def _ids(self, text: str) -> list[int]:
        # verbose=False: the warning about the model's limit is not news here.
        ids = self.tokenizer(text, add_special_tokens=not self.prompting.is_chat, verbose=False).input_ids
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids  # the prompt writes it out itself

    def _context(self, context: str) -> tuple[str, list[int], list[tuple[int, int]] | None]:
        """The text, its ids, and where in it each token lies (None if the tokenizer is not a fast one)."""
        if context != self.last_context[0]:
            fast = self.tokenizer.is_fast
            tokens = self.tokenizer(context, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
            self.last_context = (context, tokens.input_ids, tokens.offset_mapping if fast else None)
        return self.last_context

    def _cut(self, context: str, keep: int) -> str:
        """The first and the last half of `keep` tokens, as text: the prompt stays what its text says."""
        _, ids, offsets = self._context(context)
        head, tail = keep - keep // 2, keep // 2
        if offsets is None:
            return self.tokenizer.decode(ids[:head]) + self.tokenizer.decode(ids[len(ids) - tail :])
        return context[: offsets[head - 1][1]] + context[offsets[len(ids) - tail][0] :]


def _in_common(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(some, others, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(some), len(others)))
