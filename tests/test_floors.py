"""The floors of the house: imports point down only and in no circle, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    {"choices", "printing", "schemas", "watch"}, {"settings", "database"}, {"inputs"}, {"measuring"}, {"search"},
    {"judging", "tracking", "workers"}, {"alpha"}, {"reporting"}, {"job"}, {"run", "serving"}, {"options", "service"},
    {"cli"},
)  # fmt: skip
"""The rooms of `tuner` from the ground up; those that share a floor do not import each other."""
LIGHT = (
    "tuner", "tuner.choices", "tuner.watch", "tuner.settings", "tuner.reporting.console", "tuner.serving.command",
    "tuner.serving.lineup", "tuner.service.command", "tuner.service.job",
    "a2sf_core", "a2sf_core.rules.catalogue", "a2sf_core.policy", "a2sf_core.config",
)  # fmt: skip

Imports = Mapping[str, Collection[str]]
"""What every module imports, by name."""


def imports_of(package: str) -> dict[str, set[str]]:
    """Of every module of `package`, inside functions too; not what only a type checker reads."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: set(imported(ast.parse(path.read_text()))) for name, path in zip(names, paths, strict=True)}


def imported(node: ast.AST) -> Iterator[str]:
    """`from a.b import c` gives a.b and a.b.c, either of which may be the module; so does `import_module("a.b")`."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for child in node.orelse:
            yield from imported(child)
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import, which this cannot place"
        yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


def wrong_way(imports: Imports) -> list[str]:
    """Imports in `tuner` that point up, or to the neighbour on the same floor."""
    level = {f"tuner.{room}": place for place, rooms in enumerate(FLOORS) for room in rooms}

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    return [
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in targets
        if room(module) in level and room(target) in level and room(module) != room(target)
        if level[room(target)] >= level[room(module)]
    ]


def circle(imports: Imports) -> list[str]:
    """Modules that import each other round, the first one again at the end; empty if there are none."""
    done: set[str] = set()

    def search(path: list[str]) -> list[str]:
        for target in sorted(set(imports[path[-1]]) & set(imports) - done):
            if target in path:
                return [*path[path.index(target) :], target]
            if found := search([*path, target]):
                return found
        done.add(path[-1])
        return []

    return next(filter(None, (search([module]) for module in imports if module not in done)), [])


def test_a_wrong_import_is_found() -> None:
    assert wrong_way({"tuner.inputs.data": {"tuner.search.space"}}) == ["tuner.inputs.data imports tuner.search.space"]
    assert wrong_way({"tuner.judging.proof": {"tuner.tracking.child"}}), "neighbours on one floor"
    assert not wrong_way({"tuner.judging.proof": {"tuner.judging.choice", "tuner.search.space", "torch"}})
    assert circle({"a": {"b"}, "b": {"c", "x"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert set(imported(ast.parse("def f():\n    from a.b import c"))) == {"a.b", "a.b.c"}
    assert set(imported(ast.parse("if TYPE_CHECKING:\n    import a\nelse:\n    import b"))) == {"b"}
    assert set(imported(ast.parse("if not TYPE_CHECKING:\n    import a"))) == {"a"}
    assert set(imported(ast.parse('x = importlib.import_module("a.b")'))) == {"a.b"}


def test_every_room_of_the_tuner_has_its_floor() -> None:
    rooms = {name.split(".")[1] for name in imports_of("tuner") if "." in name}
    assert rooms <= set().union(*FLOORS)


def test_in_the_tuner_imports_point_down() -> None:
    assert wrong_way(imports_of("tuner")) == []


@pytest.mark.parametrize("package", ["tuner", "a2sf_core", "studies"])
def test_nothing_goes_in_a_circle(package: str) -> None:
    assert circle(imports_of(package)) == []


def test_the_core_stands_alone_and_nothing_needs_the_command_line() -> None:
    everything = {**imports_of("a2sf_core"), **imports_of("studies"), **imports_of("tuner")}
    for module, targets in everything.items():
        assert "tuner.cli" not in targets, module
        if module.startswith("a2sf_core"):
            assert not {target.split(".")[0] for target in targets} & {"tuner", "studies"}, module


def test_what_must_be_light_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "optuna", "mlflow", "sklearn", "scipy", "matplotlib", "sqlalchemy"}
    for name in LIGHT:
        code = f"import sys, {name}; print(sorted({heavy} & set(sys.modules)))"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.stdout.strip() == "[]", (name, result.stdout, result.stderr)
