"""YAML as tasks are written in it: each key once, no aliases, and what is wrong said with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from a2sf_core.errors import A2SFError


class _UniqueKeys(yaml.SafeLoader):
    """yaml.safe_load, but a key written twice is an error instead of silently the later value, and so is an alias: ten
    lines of them say a billion values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"the alias *{event.anchor} is not read here; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                first = seen[key.value]
                problem = f"the key {key.value!r} is written twice, first on line {first}; remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def parse_mapping(path: Path, text: str) -> dict[str, Any]:
    """The fields that `text` says; `path` is where it was read.

    Raises:
        A2SFError: naming the line that is wrong.
    """
    try:
        fields = yaml.load(text, _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        # A bracket or quote left open is noticed far below the line to mend.
        start = f" ({error.context} that begins on line {error.context_mark.line + 1})" if error.context_mark else ""
        raise A2SFError(f"{path}:{line} {error.problem}{start}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise A2SFError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(fields, dict):
        raise A2SFError(f"{path} must hold 'field: value' lines such as 'title: My task', not {_kind(fields)}.")
    return fields


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
