"""Imports of the command line and of the claims go one way, those inside functions too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "curvature"
FILES = [*sorted((PACKAGE / "claims").glob("*.py")), *(PACKAGE / f"{name}.py" for name in ("cli", "validation"))]
FILES += [PACKAGE / f"{name}.py" for name in ("configs", "console", "errors")]


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imported(source: str) -> set[str]:
    """Full names of all that a file imports, of modules and of what is taken from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


GRAPH = {module_name(path): imported(path.read_text()) for path in FILES}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(graph[name] & set(graph)):
            if ring := visit(other, [*way, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := visit(name, []))), [])


def test_no_module_imports_itself_by_a_detour():
    assert cycle(GRAPH) == []
    assert cycle({"a": {"b"}, "b": {"c", "x"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize("name", [name for name in GRAPH if name.startswith("curvature.claims")])
def test_claims_know_nothing_of_the_command_line(name):
    above = {"curvature.cli", "curvature.engine", "curvature.console", "curvature.validation", "curvature.papers"}
    assert not GRAPH[name] & above


@pytest.mark.parametrize("name", ["curvature.configs", "curvature.errors"])
def test_leaves_import_nothing_of_the_package(name):
    assert not {other for other in GRAPH[name] if other.startswith("curvature")}
