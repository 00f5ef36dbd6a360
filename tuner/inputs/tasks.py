"""A task is one YAML file: how its prompt reads, what counts as good, how its bundled samples are made."""

from __future__ import annotations

import difflib
import hashlib
import json
import string
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from a2sf_core.cuts import CONTEXT
from a2sf_core.errors import A2SFError
from a2sf_core.foreign import MEGABYTE, check_regular, shortened
from studies.samples import SampleSpec
from tuner.inputs.own_metric import find_metric
from tuner.inputs.yaml_file import parse_mapping

SLOTS = ("context", "question")
LATER_FIELDS = ("stop", "eos", "chat_template", "system", "answer_prefix", "examples", "cut")
"""Fields that were not there at first: studies from before are resumed as long as a task does not use them."""


class Example(BaseModel):
    """A context, a question and the right answer, shown to the model before it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: str
    question: str = ""
    answer: str


class Task(BaseModel):
    """One task. `prompt` has the slots {context} and {question}; the answer follows it after a space.

    `default_question` is asked where a sample has no question of its own, as in most summarisation data.
    `samples` may be absent: such a task runs on the user's own data only. Generated text ends before the first of
    `stop`; without `eos` the end token does not count in the likelihood of an answer. `system`, `examples` and
    `answer_prefix` are laid around the prompt; `chat_template` "auto" means the tokenizer's own, if it has one.
    `cut` says what is read before tokens are dropped: the whole "prompt", or the "context" alone, before any question
    is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    title: str
    description: str = ""
    prompt: str
    default_question: str = ""
    metric: str
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)]
    samples: SampleSpec | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    eos: bool = True
    chat_template: Literal["off", "auto"] = "off"
    system: str = ""
    answer_prefix: str = ""
    examples: tuple[Example, ...] = ()
    cut: Literal["prompt", "context"] = "prompt"

    @field_validator("chat_template", mode="before")
    @classmethod
    def _off_is_a_word_here(cls, given: Any) -> Any:
        return "off" if given is False else given  # YAML reads off as false

    @model_validator(mode="after")
    def _system_needs_a_chat(self) -> Task:
        if self.system and self.chat_template == "off":
            raise ValueError("system needs chat_template: auto; add it, or write the message into the prompt")
        return self

    @model_validator(mode="after")
    def _the_context_ends_before_the_question(self) -> Task:
        slots = [name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None]
        if self.cut == CONTEXT and slots != list(SLOTS):
            raise ValueError(
                "cut is 'context', but in this prompt the question is known before the context ends; put {context} "
                "before {question}, or write cut: prompt"
            )
        return self

    @field_validator("stop", mode="before")
    @classmethod
    def _a_list_of_texts(cls, stop: Any) -> Any:
        if isinstance(stop, str):
            raise ValueError(f"is {stop!r}; expected a list of texts, such as {json.dumps([stop])}")
        return stop

    @field_validator("prompt")
    @classmethod
    def _each_slot_once(cls, prompt: str) -> str:
        try:
            slots = [slot for slot in string.Formatter().parse(prompt) if slot[1] is not None]
        except ValueError as error:
            raise ValueError(f"has unbalanced braces ({error}); write {{{{ and }}}} for braces in the text") from None
        for _, name, form, conversion in slots:
            if name not in SLOTS or form or conversion:
                raise ValueError(f"has the slot {{{name}}}, expected only {{context}} and {{question}}")
        for name in SLOTS:
            if [slot[1] for slot in slots].count(name) != 1:
                raise ValueError(f"must contain {{{name}}} exactly once")
        return prompt

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        return find_metric(metric).name

    def render(self, context: str, question: str) -> str:
        """The prompt as text."""
        return self.prompt.format(context=context, question=question or self.default_question)

    def with_cut(self, cut: str | None) -> Task:
        """The same task, cut there; None leaves it as it is.

        Raises:
            A2SFError: if `cut` is none of "prompt" and "context", or the prompt does not allow it.
        """
        if cut is None:
            return self
        try:
            return Task.model_validate({**self.model_dump(), "cut": cut})
        except ValidationError as error:
            raise A2SFError(f"task {self.name!r} with --cut {cut}: {_sentence(error.errors()[0])}") from None

    def digest(self) -> str:
        """SHA-256 of all that the task says; what it leaves to its default in LATER_FIELDS is not part of it."""
        unset: dict[str, Any] = {
            name: True for name in LATER_FIELDS if getattr(self, name) == Task.model_fields[name].default
        }
        if self.samples is not None and self.samples.questions == 1:
            unset["samples"] = {"questions"}
        return hashlib.sha256(self.model_dump_json(exclude=unset).encode()).hexdigest()


def bundled_tasks() -> list[str]:
    """The names of the tasks that come with the project: one per file in `studies/tasks`."""
    return sorted(path.stem for path in _bundled_folder().glob("*.yaml"))


def load_task(name_or_path: str) -> Task:
    """A bundled task by name, or a user's task by the path of its YAML file.

    Raises:
        A2SFError: naming the file and the line or field, or the nearest bundled name.
    """
    if name_or_path in bundled_tasks():
        return _read_task(_bundled_folder() / f"{name_or_path}.yaml")
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or path.exists() or "/" in name_or_path or "\\" in name_or_path:
        return _read_task(path)
    near = difflib.get_close_matches(name_or_path, bundled_tasks(), n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise A2SFError(
        f"There is no task {name_or_path!r};{hint} the tasks are {', '.join(bundled_tasks())}, "
        "or give the path of a .yaml file of your own."
    )


def _bundled_folder() -> Path:
    return Path(str(files("studies"))) / "tasks"


def _read_task(path: Path) -> Task:
    fields = {"name": path.stem, **_read_mapping(path, ())}
    try:
        return Task.model_validate(fields)
    except ValidationError as error:
        raise A2SFError(f"{path}: {_sentence(error.errors()[0])}") from None


def _read_mapping(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    """The file's mapping, laid over that of the file it includes."""
    text = _read_text(path)  # first, since only what can be read can be resolved
    if path.resolve() in including:
        chain = " -> ".join(each.name for each in (*including, path))
        raise A2SFError(f"{path}: the includes form a circle ({chain}); remove one of them.")
    fields = parse_mapping(path, text)
    include = fields.pop("include", None)
    if include is None:
        return fields
    if not isinstance(include, str):
        raise A2SFError(f"{path}: field 'include' must be the path of one .yaml file, not {include!r}.")
    base = path.parent / Path(include).expanduser()
    if not base.exists() and (_bundled_folder() / include).exists():
        base = _bundled_folder() / include
    inherited = _read_mapping(base, (*including, path.resolve()))
    inherited.pop("name", None)
    return _over(inherited, fields)


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` laid over `base`; mappings inside (`samples`) are merged, all else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _read_text(path: Path) -> str:
    try:
        if not path.is_dir():
            check_regular(path, "the task file", MEGABYTE)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [each.name for each in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path."
        raise A2SFError(f"There is no task file {path}; {hint}") from None
    except IsADirectoryError:
        raise A2SFError(f"{path} is a folder; give the path of one .yaml file in it.") from None
    except UnicodeDecodeError:
        raise A2SFError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise A2SFError(f"{path} cannot be read: {error.strerror}.") from None


def _sentence(error: ErrorDetails) -> str:
    """One sentence on the first thing that is wrong with a field."""
    # pydantic puts the place in a tuple's type into the location; a reader knows "samples.tokens" only.
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"field {where!r} is missing; add it."
    if error["type"] == "extra_forbidden":
        inner: dict[str, type[BaseModel]] = {"samples": SampleSpec, "examples": Example}
        owner = inner.get(str(error["loc"][0]), Task) if len(error["loc"]) > 1 else Task
        known = [*owner.model_fields, "include"] if owner is Task else list(owner.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}."
        return f"there is no field {where!r}; {hint}"
    if error["type"] == "value_error":
        said = f"{f'field {where!r}' if where else 'the field'} {error['ctx']['error']}"
        return said if said.endswith("?") else f"{said}."
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"field {where!r} is {shortened(error['input'])}: {message}."
