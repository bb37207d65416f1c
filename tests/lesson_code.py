"""What a code cell of a notebook says: the names it takes and leaves, exercises, typed guesses, widgets; read from its source, never run."""

import ast
import builtins
import dataclasses
import dis
import functools
import re
import types
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

LAB = Path(__file__).resolve().parents[1] / "promptlab" / "lab"
GIVEN = {*dir(builtins), "display", "get_ipython", "In", "Out", "_"}  # names that every kernel knows
IN_PLACE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}  # nested code that runs where it stands


@dataclasses.dataclass(eq=False)  # a cell is itself: two load cells with the same lines are two
class Code:
    """A code cell: what it says, where it stands, and the names it takes and leaves."""

    id: str
    source: str
    section: tuple  # number and heading
    words: int  # between the code cell before and this one
    bare: bool  # no text stands above it
    load: bool  # begins its section and says so
    folded: bool  # the reader does not see it: checks of exercises
    setup: bool  # the cell that opens every notebook, or below a heading "Setup"
    needs: set
    gives: set

    @property
    def lines(self) -> list[str]:
        """Without blanks and comments."""
        return [line for line in self.source.splitlines() if line.strip() and not line.strip().startswith("#")]

    @property
    def imports(self) -> set:
        """The names it imports."""
        found = [n for n in ast.walk(ast.parse(python(self.source))) if isinstance(n, (ast.Import, ast.ImportFrom))]
        return {(alias.asname or alias.name).split(".")[0] for line in found for alias in line.names}

    @property
    def only_imports(self) -> bool:
        """Whether it only imports."""
        return all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in ast.parse(python(self.source)).body)


def names(source) -> tuple[set, set]:
    """The names a cell must find when it starts, and those it leaves; a function is taken to be called in its own cell.

    Read from the compiled cell, which knows the scopes and the order in which names are used.
    """
    needs, later, gives = set(), set(), set()

    def walk(code, in_place, own):
        for step in dis.get_instructions(code):
            if isinstance(step.argval, types.CodeType):
                walk(step.argval, in_place and step.argval.co_name in IN_PLACE, set())
            elif step.opname in ("STORE_NAME", "STORE_GLOBAL"):
                (own if step.opname == "STORE_NAME" else gives).add(step.argval)  # in the body of a class, the class's own
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in own | GIVEN:
                if not in_place:
                    later.add(step.argval)
                elif step.argval not in gives:
                    needs.add(step.argval)

    walk(compile(python(source), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), True, gives)
    return {n for n in needs | (later - gives) if not re.fullmatch("__.*__", n)}, gives


@functools.cache
def python(source) -> str:
    """A cell's source with its %magics as calls."""
    return TransformerManager().transform_cell(source)


def says_load(source) -> bool:
    return source.startswith("# Load cell")


def exercises(cells) -> list[str]:
    """Functions that a cell leaves for the reader to fill in: their body is `...`, `pass` or `return None`."""
    found = []
    for cell in cells:
        for f in ast.parse(python(cell.source)).body[:1]:
            if isinstance(f, ast.FunctionDef) and [ast.unparse(line) for line in f.body] in (["..."], ["pass"], ["return None"]):
                found.append(f.name)
    return found


def typed(cells) -> list[str]:
    """Cells where the reader types a guess (GUESS_... = "same", BETS = ..., my_... = None) that the same cell uses again."""
    found = []
    for cell in cells:
        nodes = list(ast.walk(ast.parse(python(cell.source))))
        used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        plain = [n for n in nodes if isinstance(n, ast.Assign) and not any(isinstance(v, (ast.Name, ast.Call)) for v in ast.walk(n.value))]
        given = {n.id for line in plain for n in ast.walk(line) if isinstance(n, ast.Name)}
        if any(re.match(r"guess|bets?$|my_", name, re.I) for name in used & given):
            found.append(cell.id)
    return found


@functools.cache
def widget_classes() -> dict[str, set[str]]:
    """By name of each widget of promptlab: its methods that return the widget, so that a chain of calls still shows it."""
    rooms = [ast.parse(p.read_text(encoding="utf-8")) for p in LAB.glob("*.py")]
    classes = {c.name: c for room in rooms for c in room.body if isinstance(c, ast.ClassDef)}
    found = {}

    def above(name):
        """The bases of a class, and theirs."""
        bases = [b.id for b in classes[name].bases if isinstance(b, ast.Name)] if name in classes else []
        return bases + [base for some in map(above, bases) for base in some]

    for name in classes:
        if "_View" in above(name):
            bodies = [f for c in (name, *above(name)) if c in classes for f in classes[c].body if isinstance(f, ast.FunctionDef)]
            found[name] = {f.name for f in bodies if any(ast.unparse(n) == "return self" for n in ast.walk(f) if isinstance(n, ast.Return))}
    return found


def live_widgets(cells) -> list[str]:
    """Widgets of promptlab that a reader gets to see: the last line of a cell, or what it hands to `display`, is one, or a name of one."""
    classes, called, shown = widget_classes(), {}, []

    def kind(node):
        """The widget that an expression is, if it is one."""
        if isinstance(node, ast.Name):
            return called.get(node.id)
        if not isinstance(node, ast.Call):
            return None
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name in classes:
            return name
        before = kind(node.func.value) if isinstance(node.func, ast.Attribute) else None
        return before if before and name in classes[before] else None

    for cell in cells:
        body = ast.parse(python(cell.source)).body
        for node in (n for line in body for n in ast.walk(line)):
            if isinstance(node, ast.Assign):
                called |= {t.id: kind(node.value) for t in node.targets if isinstance(t, ast.Name)}
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "display":
                shown += map(kind, node.args)
        if body and isinstance(body[-1], ast.Expr) and not cell.source.rstrip().endswith(";"):
            shown.append(kind(body[-1].value))
    return [name for name in shown if name]
