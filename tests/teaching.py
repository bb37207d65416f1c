"""Counts how a notebook teaches: the aims of the course that a program can count, and the few limits that no notebook may break.

`python tests/teaching.py` prints one table: a row per aim, a column per notebook, `!` where it is missed. It counts as the rubric of
the audit counts, and says so where it adds a row of its own. What needs a reader (is every term explained, every picture read, every
number given its reason, every failure shown, every sentence true) is not in it.
"""

import re
import statistics
from pathlib import Path

import nbformat
from lesson_code import Code, exercises, live_widgets, names, says_load, typed

from promptlab.course.notebooks import course

ROOT = Path(__file__).resolve().parents[1]
LINES, RUN, EXERCISES = 25, 150, 3  # limits: lines of a code cell, words between two code cells, exercises
WIDTH = 100  # characters of a line of code that a reader sees, at most
PREDICT = r"^#+ (?:Predict|Guess)|\*\*(?:Predict|Guess|Before you (?:look|run))\b"  # a heading or a bold word
# What a lesson is about, where its first picture does not show it yet: in the code of the first cell that does.
SUBJECT = {"02": r"""\w*rewards?\(|["']reward["']""", "04": r"Compare\(|measure\(|\bscores?\(|score_table"}
RECAP = r"\brecap|\bin short\b|\bin (?:two|three|four|five) sentences|\bwhat you (?:have )?(?:learn|know|saw)"


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
            folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
            setup = not cells or bool(re.match(r"setup\b", section[1], re.I))  # the first cell, and all below a heading "Setup"
            cells.append(Code(cell.get("id", len(cells)), cell.source, section, run, bare, load, folded, setup, *names(cell.source)))
            run, bare = 0, True
    return cells


def unmet(cells) -> dict[tuple, list[str]]:
    """By section: the names its cells miss when a fresh kernel has run the setup cells, and then this section from its start."""
    missing = {}
    for cell in (c for c in cells if not c.setup):
        if cell.section not in missing:
            missing[cell.section], known = [], set().union(*(c.gives for c in cells if c.setup))
        missing[cell.section] += [f"{cell.id} needs {n}" for n in sorted(cell.needs - known)]
        known |= cell.gives
    return missing


def chained(cells, load_cells_count=True) -> list[Code]:
    """Cells that take a name from another cell, what is imported and the setup cells apart, and on request the load cell of their section."""
    giver, found = {}, []
    for cell in (c for c in cells if not c.setup):
        givers = {giver[n] for n in cell.needs if giver.get(n)}
        if any(load_cells_count or not (g.load and g.section == cell.section) for g in givers):
            found.append(cell)
        giver |= dict.fromkeys(cell.gives, cell) | dict.fromkeys(cell.imports)
    return found


def without_fences(markdown) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M)


def words(markdown) -> int:
    """Words as a reader meets them: of what is folded only the summary, of a link what it shows, no code block."""
    text = re.sub(r"</summary>.*?</details>", "", without_fences(markdown), flags=re.S)
    text = re.sub(r"\]\([^)]*\)|<[^>\n]+>", " ", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def beliefs(text) -> set[str]:
    """Wrong beliefs that a text names: by number ("Misconception 3"), and in paragraphs without a number those in quotes and bold."""
    found = set()
    for paragraph in text.splitlines():
        numbers = re.findall(r"misconception (\d+)", paragraph, re.I)
        found |= set(numbers or re.findall(r"\*\*[\"“]([^*]+)[\"”]", paragraph))
    return found


def knobs(cells, text) -> set[str]:
    """Settings that the reader is asked to turn: lines of code whose comment says knob, sentences such as "Knob: ...", rows of a table of knobs."""
    found = {line.strip() for c in cells for line in c.source.splitlines() if re.search(r"#.*\bknobs?\b", line, re.I)}
    found |= {line for line in text.splitlines() if re.search(r"\bknobs?:", line, re.I)}
    for table in re.findall(r"^\|\s*\**knobs?\b[^\n]*\n\|[-:| ]+\n((?:\|[^\n]*\n?)*)", text, re.M | re.I):
        found |= set(table.splitlines())
    return found


def first_result(cells, number="") -> tuple[int, int]:
    """Code cells up to and with the first that shows what the lesson is about, and the words before it."""

    def shows(cell):
        picture = re.search(r"\b(plots|plt|figures)\.\w+\(", cell.source) or live_widgets([cell])
        if number not in SUBJECT:
            return picture
        return (picture or "print(" in cell.source) and re.search(SUBJECT[number], "\n".join(cell.lines))

    at = next((i for i, c in enumerate(cells, 1) if shows(c)), len(cells))
    return at, sum(c.words for c in cells[:at])


def frame(notebook) -> dict[str, bool]:
    """What stands around the lesson: which of it is there."""
    text = [c.source for c in notebook.cells if c.cell_type == "markdown"] or [""]
    *_, check = "\n\n".join(text).partition("Check yourself")
    step = re.search(r"\*\*[^*]*next step.*", text[-1], re.I | re.S)
    return {
        "goals as questions": text[0].count("?") >= 2,
        "prerequisites": bool(re.search(r"\*\*(You need|Before|Prerequisites)\b", text[0])),
        "recap": recap(text) >= 2,
        "self-check": bool(re.search(r"<details>.*?</summary>.*?\w.*?</details>", check, re.S)),
        "next step": bool(step and re.search(r"\]\([^)\s]+\)", step[0])),
    }


def recap(text) -> int:
    """Sentences of the recap in the last quarter of a notebook's texts, folds and lists apart: below a heading, or behind a bold word, of RECAP."""
    closing = "\n\n".join(text[-max(3, len(text) // 4) :])
    parts = re.sub(r"<details>.*?</details>", "", without_fences(closing), flags=re.S).split("\n\n")
    most, below = 0, False
    for part in map(str.strip, parts):
        heading, bold = re.match(r"#+ (.*)", part), re.match(r"\*\*(.+?)\*\*", part)
        if heading or bold:
            below = bool(re.search(RECAP, (heading or bold)[1], re.I))
        if below:
            told = [line for line in part.removeprefix(bold[0] if bold else "").splitlines() if not re.match(r"#|[-*|] |\|", line)]
            most = max(most, len(re.findall(r"[a-z\d)%*\"”][.!?](?=[\s*\"”]|$)", " ".join(told))))
    return most


def tail(notebook) -> int:
    """Words after the last code cell."""
    last = max((i for i, c in enumerate(notebook.cells) if c.cell_type == "code"), default=-1)
    return sum(words(c.source) for c in notebook.cells[last + 1 :])


def wide(cells, width) -> list[tuple[str, str]]:
    """Cell and line of the code that a reader sees, the setup cell apart, wherever it is wider than so many characters."""
    seen = [c for c in cells[1:] if not c.folded]
    return [(c.id, line) for c in seen for line in c.source.splitlines() if len(line) > width]


def faults(notebook) -> list[str]:
    """The limits that a notebook breaks, each with the place."""
    cells, after = read(notebook), tail(notebook)
    found = [f"section {title!r} does not start from setup: {m}" for (_, title), missing in unmet(cells).items() for m in missing]
    found += [f"{c.id}: a load cell that does not begin its section" for c in cells if says_load(c.source) and not c.load]
    found += [f"{c.id}: {len(c.lines)} lines of code, at most {LINES}" for c in cells if len(c.lines) > LINES]
    found += [f"{c}: {len(line)} characters in a line, at most {WIDTH}: {line.strip()[:40]} ..." for c, line in wide(cells, WIDTH)]
    found += [f"{c.id}: no text before this code" for c in cells if c.bare]
    found += [f"{c.id}: {c.words} words without code before it, at most {RUN}" for c in cells if c.words > RUN]
    found += [f"the end: {after} words without code, at most {RUN}"] if after > RUN else []
    found += [f"exercises: {exercises(cells)}, at least {EXERCISES}"] if len(exercises(cells)) < EXERCISES else []
    return found + [f"no {part}" for part in ("goals as questions", "prerequisites", "next step") if not frame(notebook)[part]]


def count(notebook, number="") -> dict[str, tuple[str, str, bool]]:
    """By what is counted: the aim (empty: for comparison only), the count, and whether it meets the aim; `number` is the lesson's, "02"."""
    cells, rows = read(notebook), {}
    text = "\n\n".join(without_fences(c.source) for c in notebook.cells if c.cell_type == "markdown")
    total, lines = words(text), [len(c.lines) for c in cells]
    known = [c for c in cells if not (c.setup or c.only_imports)]  # the rubric's code cells that are no setup

    def row(what, value, aim="", met=True):
        rows[what] = (aim, str(value), bool(met))

    def share(what, some, every, most=None):
        aim = f"<= {most:.0%}" if most else ""
        row(what, f"{len(some) / max(len(every), 1):.0%}", aim, not most or len(some) <= most * len(every))

    def often(what, number, least, per_thousand):
        density = 1000 * number / max(total, 1)
        row(what, f"{number} / {density:.1f}", f">= {least} / {per_thousand:g}", number >= least and density >= per_thousand)

    row("code cells", len(cells))
    row("words of text", total)
    share("code cells that need another cell's name (the rubric's count)", chained(cells), known, 0.35)
    share("the same, the load cell of their section apart (our own)", chained(cells, load_cells_count=False), known)
    restart = [not missing for missing in unmet(cells).values()]
    row("sections that start from the setup cells", f"{sum(restart)} of {len(restart)}", "all", all(restart))
    first, before = first_result(cells, number)
    row("code cells / words up to the first result", f"{first} / {before}", "3 / 120", first <= 3 and before <= 120)
    often("predict, then see / per 1,000 words", len(re.findall(PREDICT, text, re.M)), 4, 2.5)
    guesses = len(typed(cells)) + len(re.findall(r"\*\*Predict by click", text))
    row("guesses typed or clicked, then used", guesses, ">= 3", guesses >= 3)
    often("misconceptions named / per 1,000 words", len(beliefs(text)), 4, 2)
    row("exercises", len(exercises(cells)), f">= {EXERCISES}", len(exercises(cells)) >= EXERCISES)
    middle = statistics.median(lines)
    row("lines of a code cell, median", f"{middle:g}", "3-7", 3 <= middle <= 7)
    row("lines of the longest code cell", max(lines), f"<= {LINES}", max(lines) <= LINES)
    share("code cells above 15 lines", [n for n in lines if n > 15], cells, 0.05)
    broad = len(wide(cells, WIDTH))
    row(f"lines of code wider than {WIDTH} characters", broad, "0", not broad)
    row("words per code cell", round(total / len(cells)), "50-110", 50 <= total / len(cells) <= 110)
    run = max([c.words for c in cells] + [tail(notebook)])
    row("longest run of words", run, f"<= {RUN}", run <= RUN)
    row("code cells with no text before them", sum(c.bare for c in cells), "0", not any(c.bare for c in cells))
    turned = len(knobs(cells, text))
    row("knobs", turned, ">= 6", turned >= 6)
    row("live widgets", len(live_widgets(cells)), ">= 2", len(live_widgets(cells)) >= 2)
    there = frame(notebook).values()
    row("goals, prerequisites, recap, self-check, linked next step", f"{sum(there)} of 5", "5 of 5", all(there))
    return rows


def table(paths) -> str:
    """One row per aim, one column per notebook; `!` marks a miss."""
    counts = {path.stem: count(nbformat.read(path, 4), path.stem[:2]) for path in paths}
    rows = [["", "aim", *counts]]
    for what, (aim, _, _) in next(iter(counts.values())).items():
        rows.append([what, aim, *(c[what][1] + ("" if c[what][2] else " !") for c in counts.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    print(table(course(ROOT / "notebooks")))
