"""The prompt as the model sees it: examples, system message, chat template, the start of the answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from tuner.inputs.tasks import Task

MARK = "\ue000\ue001\ue000"
"""Stands at the end of a context while its place in the prompt is looked for: signs for private use, in no text."""
BETWEEN_EXAMPLES = "\n\n"
OPENING = tuple("\"'“‘«([{")
"""Signs at the end of an answer's prefix after which no space is due."""


class Prompting:
    """Lays the task around a context and a question, for one tokenizer.

    `is_chat` is True where the tokenizer's template is used; what it makes has its special tokens already.

    Raises:
        A2SFError: if the task has a system message and the tokenizer no chat template to put it into.
    """

    def __init__(self, task: Task, tokenizer: Any) -> None:
        self.task, self._tokenizer = task, tokenizer
        self.is_chat = task.chat_template == "auto" and bool(getattr(tokenizer, "chat_template", None))
        if task.system and not self.is_chat:
            raise A2SFError(
                f"Task {task.name!r} has a system message, but the tokenizer has no chat template; write it into the "
                "prompt instead."
            )
        self._gap = self._gap_in_chat() if self.is_chat else None

    @property
    def template(self) -> str:
        """Whose chat template is used, and the first digits of its SHA-256; empty for none."""
        if not self.is_chat:
            return ""
        digest = hashlib.sha256(str(self._tokenizer.chat_template).encode()).hexdigest()
        return f"{Path(str(self._tokenizer.name_or_path)).name or 'tokenizer'} {digest[:12]}"

    def text(self, context: str, question: str) -> str:
        """The whole prompt, to the end of the answer's prefix.

        Raises:
            A2SFError: with its own message, if the chat template fails.
        """
        user = self.task.render(context, question)
        if self.is_chat:
            return self._begun(self._rendered(self._turns(user), begins=True))
        before = [self._begun(self.task.render(each.context, each.question)) for each in self.task.examples]
        shown = [
            text + self.space_after(text) + each.answer for text, each in zip(before, self.task.examples, strict=True)
        ]
        return BETWEEN_EXAMPLES.join([*shown, self._begun(user)])

    def up_to_context(self, context: str, question: str) -> str:
        """The start of the prompt up to where its context ends: all that is read before a question is known.

        Raises:
            A2SFError: if that place cannot be found, because the chat template changes what it is given.
        """
        before, *after = self.text(context + MARK, question).split(MARK)
        if len(after) != 1 or not self.text(context, question).startswith(before):
            raise A2SFError(
                "The tokenizer's chat template changes the text that it is given, so that the end of the context "
                f"cannot be found in the prompt; write chat_template: off or cut: prompt in task {self.task.name!r}."
            )
        return before

    def space_after(self, prompt: str) -> str:
        """What stands between the prompt and the answer: a space, unless one is there or the template wants none."""
        prefix = self.task.answer_prefix
        if prefix:
            return "" if prompt[-1:].isspace() or prefix.endswith(OPENING) else " "
        return self._space(prompt)

    def _space(self, prompt: str) -> str:
        if self._gap is not None:
            return self._gap
        return "" if prompt[-1:].isspace() else " "

    def _begun(self, prompt: str) -> str:
        return prompt + self._space(prompt) + self.task.answer_prefix if self.task.answer_prefix else prompt

    def _turns(self, user: str) -> list[dict[str, str]]:
        """The system message, the examples as turns that are over, and the user's turn."""
        task = self.task
        turns = [("system", task.system)] if task.system else []
        for each in task.examples:
            prefix = task.answer_prefix + self.space_after(task.answer_prefix) if task.answer_prefix else ""
            turns += [("user", task.render(each.context, each.question)), ("assistant", prefix + each.answer)]
        return [{"role": role, "content": content} for role, content in (*turns, ("user", user))]

    def _rendered(self, turns: list[dict[str, str]], begins: bool) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=begins))
        except Exception as error:  # Jinja's own errors, and whatever its expressions raise
            said = " ".join(str(error).split()) or type(error).__name__
            raise A2SFError(
                f"The tokenizer's chat template fails ({said}); mend it, or write chat_template: off in task "
                f"{self.task.name!r}."
            ) from error

    def _gap_in_chat(self) -> str:
        """White space that the template itself puts between the opening of the model's turn and what it says."""
        turns = self._turns("question")
        opened = self._rendered(turns, begins=True)
        whole = self._rendered([*turns, {"role": "assistant", "content": "answer"}], begins=False)
        rest = whole.removeprefix(opened)
        found = rest[: len(rest) - len(rest.lstrip())]
        return found if rest != whole and rest.lstrip().startswith("answer") else ""
