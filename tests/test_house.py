"""The house: imports run down only and never in a circle, read from the source, those inside functions too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "promptlab"
# From the ground up; a file or room may import those on a lower floor and its own room. What shares a floor does not know each other.
FLOORS = (
    ("runtime",), ("config",), ("prompts",), ("models",), ("referee",), ("pictures",), ("processes",), ("sharding",),
    ("objective", "restart", "rewrites"), ("decoding",), ("policy", "rewards"), ("sft", "ppo", "evaluation", "diagnosis", "preferences"),
    ("evolution",), ("pocket",), ("lab", "course"), ("__main__",),
)  # fmt: skip
NAME_POCKET = ("promptlab.referee", "promptlab.pictures.load")  # besides the world itself; and notebooks


def house() -> dict[str, str]:
    """The source of every module, by its dotted name; a package goes by the name of its folder."""
    paths = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}
    return {name.removesuffix(".__init__"): p.read_text(encoding="utf-8") for name, p in paths.items()}


def arrows(modules) -> dict[str, set[str]]:
    """Which modules each module imports; `from room import module` counts as the module."""
    found = {}
    for name, source in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                told = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: an import names its module in full"
                told = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in told:
                hit = target if target in modules else target.rpartition(".")[0]
                found[name] |= {hit} & modules.keys() - {name}
    return found


def faults(modules) -> list[str]:
    """Every arrow that does not run down, every name of the pocket world where it does not belong, and the first circle."""
    floor = {part: level for level, parts in enumerate(FLOORS) for part in parts}
    graph, found = arrows(modules), []
    for name, target in ((name, target) for name, targets in graph.items() for target in sorted(targets)):
        here, there = ((part.split(".") + [""])[1] for part in (name, target))
        if here == there:
            continue
        if missing := [part for part in (here, there) if part not in floor]:
            found.append(f"{name} imports {target}: FLOORS does not say where {missing[0] or 'the house as a whole'} stands")
        elif there == "pocket" and name not in NAME_POCKET:
            found.append(f"{name} names the pocket world: {target}")
        elif there != "pocket" and floor[there] >= floor[here]:
            found.append(f"{name} imports {target}, which is not below it")
    return found + circle(graph)


def circle(graph) -> list[str]:
    """A circle of imports, as one line, or nothing."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [" -> ".join([*path[path.index(name) :], name])]
        if name in done:
            return []
        path.append(name)
        found = next((f for f in map(visit, sorted(graph[name])) if f), [])
        path.pop(), done.add(name)
        return found

    return next((f for f in map(visit, sorted(graph)) if f), [])


def test_imports_run_down_and_never_in_a_circle():
    assert faults(house()) == []


@pytest.mark.parametrize(
    "name, line, said",
    [
        ("promptlab.config", "from promptlab import ppo", "promptlab.config imports promptlab.ppo, which is not below it"),
        ("promptlab.models.clip", "import promptlab.pictures.gallery", "promptlab.models.clip imports promptlab.pictures.gallery, which"),
        ("promptlab.lab.live", "from promptlab.course.colab import setup", "promptlab.lab.live imports promptlab.course.colab, which"),
        ("promptlab.pocket.pairs", "from promptlab.lab import plots", "promptlab.pocket.pairs imports promptlab.lab.plots, which"),
        ("promptlab.evaluation", "from promptlab.pocket import taste", "promptlab.evaluation names the pocket world: promptlab.pocket.taste"),
        ("promptlab.ppo", "from promptlab import __version__", "FLOORS does not say where the house as a whole stands"),
        ("promptlab.extra", "from promptlab import ppo", "FLOORS does not say where extra stands"),
        ("promptlab.prompts.words", "from promptlab.prompts.load import load", "promptlab.prompts.words -> promptlab.prompts.load"),
        ("promptlab.prompts.words", "from promptlab.prompts import load_prompts", "-> promptlab.prompts.words -> promptlab.prompts"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_planted_violation_is_found(name, line, said, inside):
    modules = house()
    modules[name] = modules.get(name, "") + ("\n\ndef planted():\n    " if inside else "\n") + line + "\n"
    assert any(said in fault for fault in faults(modules)), faults(modules)
