"""Counts how a notebook teaches: the aims of the course that a program can count, and the few limits that no notebook may break.

`python tests/teaching.py` prints one table: a row per aim, a column per notebook, `!` where it is missed. What needs a
reader (is every term explained, every picture read, every number given its reason, every failure shown) is not in it.
"""

import ast
import builtins
import dataclasses
import dis
import re
import statistics
import types
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[1]
LINES, RUN, EXERCISES = 25, 150, 3  # limits: lines of a code cell, words between two code cells, exercises
GIVEN = {*dir(builtins), "display", "get_ipython", "In", "Out", "_"}  # names that every kernel knows
IN_PLACE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}  # nested code that runs where it stands
PREDICT = r"^#+ (?:Predict|Guess)|\*\*(?:Predict|Guess|Before you (?:look|run))\b"  # a heading or a bold word
BELIEF = r"Misconception (\d+)|\*\*[\"“]([^*]+)[\"”]"  # by number, or a belief in quotes and bold


@dataclasses.dataclass(eq=False)  # a cell is itself: two load cells with the same lines are two
class Code:
    """A code cell: what it says, where it stands, and the names it takes and leaves."""

    id: str
    source: str
    section: tuple  # number and heading
    words: int  # between the code cell before and this one
    bare: bool  # no text stands above it
    load: bool  # begins its section and says so
    needs: set
    gives: set

    @property
    def lines(self) -> int:
        return sum(bool(line.strip()) for line in self.source.splitlines())


def read(notebook) -> list[Code]:
    """The code cells of a notebook in order. A section begins with each `## ` heading, also in the middle of a text cell."""
    cells, section, restart, run, bare = [], (0, "the opening"), False, 0, True
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in without_fences(cell.source).splitlines():
                if line.startswith("## "):
                    section, restart = (section[0] + 1, line[3:].strip()), False
                restart |= "restart here" in line.lower()
            run, bare = run + words(cell.source), False
        elif cell.cell_type == "code" and cell.source.strip():
            first = not cells or cells[-1].section != section
            load = first and (restart or says_load(cell.source))
            cells.append(Code(cell.get("id", len(cells)), cell.source, section, run, bare, load, *names(cell.source)))
            run, bare = 0, True
    return cells


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


def python(source) -> str:
    """A cell's source with its %magics as calls."""
    return TransformerManager().transform_cell(source)


def unmet(cells) -> dict[tuple, list[str]]:
    """By section: the names its cells miss when a fresh kernel has run the setup cell, and then this section from its start."""
    missing = {}
    for cell in cells:
        if cell.section not in missing:
            missing[cell.section], known = [], set(cells[0].gives)  # the first code cell is the setup
        missing[cell.section] += [f"{cell.id} needs {n}" for n in sorted(cell.needs - known)]
        known |= cell.gives
    return missing


def chained(cells, load_cells_count=False) -> list[Code]:
    """Cells that take a name from another cell, the setup apart and, unless they count, the load cell of their own section."""
    giver, found = {}, []
    for cell in cells:
        givers = {giver[n] for n in cell.needs if n in giver} - {cells[0]}
        if any(load_cells_count or not (g.load and g.section == cell.section) for g in givers):
            found.append(cell)
        giver |= dict.fromkeys(cell.gives, cell)
    return found


def says_load(source) -> bool:
    return source.startswith("# Load cell")


def without_fences(markdown) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M)


def words(markdown) -> int:
    """Words as a reader meets them: of what is folded only the summary, of a link what it shows, no code block."""
    text = re.sub(r"</summary>.*?</details>", "", without_fences(markdown), flags=re.S)
    text = re.sub(r"\]\([^)]*\)|<[^>\n]+>", " ", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


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


def live_widgets(cells) -> list[str]:
    """Widgets of promptlab that the cells make, each time one is made."""
    modules = [p.read_text(encoding="utf-8") for p in (ROOT / "promptlab").rglob("*.py")]
    classes = {n for text in modules if "import ipywidgets" in text for n in re.findall(r"^class ([A-Z]\w+)", text, re.M)}
    return [n for c in cells for n in re.findall(r"\b([A-Z]\w+)\(", c.source) if n in classes]


def frame(notebook) -> dict[str, bool]:
    """What stands around the lesson: which of it is there."""
    text = [c.source for c in notebook.cells if c.cell_type == "markdown"] or [""]
    return {
        "goals as questions": text[0].count("?") >= 2,
        "prerequisites": bool(re.search(r"\*\*(You need|Before|Prerequisites)\b", text[0])),
        "time": "**Time" in text[0],
        "self-check": any("**Check yourself" in t for t in text),
        "next step": bool(re.search(r"\*\*[^*]*next step", text[-1], re.I)),
    }


def tail(notebook) -> int:
    """Words after the last code cell."""
    last = max((i for i, c in enumerate(notebook.cells) if c.cell_type == "code"), default=-1)
    return sum(words(c.source) for c in notebook.cells[last + 1 :])


def faults(notebook) -> list[str]:
    """The limits that a notebook breaks, each with the place."""
    cells, after = read(notebook), tail(notebook)
    found = [f"section {title!r} does not start from setup: {m}" for (_, title), missing in unmet(cells).items() for m in missing]
    found += [f"{c.id}: a load cell that does not begin its section" for c in cells if says_load(c.source) and not c.load]
    found += [f"{c.id}: {c.lines} lines of code, at most {LINES}" for c in cells if c.lines > LINES]
    found += [f"{c.id}: no text before this code" for c in cells if c.bare]
    found += [f"{c.id}: {c.words} words without code before it, at most {RUN}" for c in cells if c.words > RUN]
    found += [f"the end: {after} words without code, at most {RUN}"] if after > RUN else []
    found += [f"exercises: {exercises(cells)}, at least {EXERCISES}"] if len(exercises(cells)) < EXERCISES else []
    return found + [f"no {part}" for part in ("goals as questions", "prerequisites", "next step") if not frame(notebook)[part]]


def count(notebook) -> dict[str, tuple[str, str, bool]]:
    """By what is counted: the aim (empty: for comparison only), the count, and whether it meets the aim."""
    cells, rows = read(notebook), {}
    text = "\n\n".join(without_fences(c.source) for c in notebook.cells if c.cell_type == "markdown")
    code = [line.strip() for c in cells for line in c.source.splitlines()]
    total, lines = words(text), [c.lines for c in cells]

    def row(what, value, aim="", met=True):
        rows[what] = (aim, str(value), bool(met))

    def share(what, some, most=None):
        aim = f"<= {most:.0%}" if most else ""
        row(what, f"{len(some) / len(cells):.0%}", aim, not most or len(some) <= most * len(cells))

    def often(what, number, least, per_thousand):
        density = 1000 * number / max(total, 1)
        row(what, f"{number} / {density:.1f}", f">= {least} / {per_thousand:g}", number >= least and density >= per_thousand)

    row("code cells", len(cells))
    row("words of text", total)
    share("code cells that need another cell's name, load cells apart", chained(cells), 0.35)
    share("the same, load cells counted", chained(cells, load_cells_count=True))
    restart = [not missing for missing in unmet(cells).values()]
    row("sections that start from the setup cell", f"{sum(restart)} of {len(restart)}", "all", all(restart))
    first = next((i for i, c in enumerate(cells, 1) if re.search(r"\b(plots|plt)\.\w+\(", c.source) or live_widgets([c])), len(cells))
    before = sum(c.words for c in cells[:first])
    row("code cells / words up to the first picture", f"{first} / {before}", "3 / 120", first <= 3 and before <= 120)
    often("predict, then see / per 1,000 words", len(re.findall(PREDICT, text, re.M)), 4, 2.5)
    guesses = len(typed(cells)) + len(re.findall(r"\*\*Predict by click", text))
    row("guesses typed or clicked, then used", guesses, ">= 3", guesses >= 3)
    often("misconceptions named / per 1,000 words", len(set(re.findall(BELIEF, text))), 4, 2)
    row("exercises", len(exercises(cells)), f">= {EXERCISES}", len(exercises(cells)) >= EXERCISES)
    middle = statistics.median(lines)
    row("lines of a code cell, median", f"{middle:g}", "3-7", 3 <= middle <= 7)
    row("lines of the longest code cell", max(lines), f"<= {LINES}", max(lines) <= LINES)
    share("code cells above 15 lines", [n for n in lines if n > 15], 0.05)
    row("lines of code wider than 140 characters", sum(len(line) > 140 for line in code))
    row("words per code cell", round(total / len(cells)), "50-110", 50 <= total / len(cells) <= 110)
    run = max([c.words for c in cells] + [tail(notebook)])
    row("longest run of words", run, f"<= {RUN}", run <= RUN)
    row("code cells with no text before them", sum(c.bare for c in cells), "0", not any(c.bare for c in cells))
    knobs = {line for line in code + text.splitlines() if re.search(r"\bknobs?\b", line, re.I)}
    row("lines that offer a knob", len(knobs), ">= 6", len(knobs) >= 6)
    row("live widgets", len(live_widgets(cells)), ">= 2", len(live_widgets(cells)) >= 2)
    there = frame(notebook).values()
    row("goals, prerequisites, time, self-check, next step", f"{sum(there)} of 5", "5 of 5", all(there))
    return rows


def table(paths) -> str:
    """One row per aim, one column per notebook; `!` marks a miss."""
    counts = {path.stem: count(nbformat.read(path, 4)) for path in paths}
    rows = [["", "aim", *counts]]
    for what, (aim, _, _) in next(iter(counts.values())).items():
        rows.append([what, aim, *(c[what][1] + ("" if c[what][2] else " !") for c in counts.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    print(table(sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))))
