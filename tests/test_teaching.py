"""Each notebook keeps the limits of teaching.py, and the counter itself notices what it should.

`python tests/teaching.py` prints the counts as one table, the aims beside them; the first test here prints it too.
"""

import nbformat
import pytest
import teaching
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

COURSE = sorted((teaching.ROOT / "notebooks").glob("[0-9]*.ipynb"))
each = pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)


def test_counts_are_printed(capsys):
    table = teaching.table(COURSE)
    with capsys.disabled():  # also in the log of a run that keeps its output to itself
        print(f"\n{table}\n")
    assert all(path.stem in table for path in COURSE)


@each
def test_notebook_keeps_the_limits(path):
    faults = teaching.faults(nbformat.read(path, 4))
    assert not faults, "\n".join(faults)


@each
def test_every_exercise_has_two_named_wrong_answers(path):
    from test_exercises import MISTAKES

    wrong = {function: len(bodies) for (name, function), bodies in MISTAKES.items() if name == path.stem}
    assert set(wrong) == set(teaching.exercises(teaching.read(nbformat.read(path, 4))))
    assert min(wrong.values(), default=0) >= 2, wrong


# A small lesson without faults: text and code take turns. Each test below breaks it in one place.
GOOD = [
    "# A lesson\n\nWhat is a sum? Why add?\n\n**You need:** numbers. **Time:** 5 minutes.",
    "import math\nconfig = 1",
    "## 1. Adding\n\n**Restart here.**",
    "# Load cell\nnumbers = [1, 2, config]",
    "**Predict:** the sum? *Misconception 1: it is four.*",
    "GUESS_SUM = None  # knob\nprint(GUESS_SUM, sum(numbers))",
    "## 2. Exercises\n\nFirst.",
    "def one():\n    ...",
    "Second.",
    "def two():\n    return None",
    "Third.",
    "def three():\n    pass",
    "**Check yourself.** Why add?\n\n**Next step:** subtract.",
]


def lesson(**changes):
    """GOOD with other cells in some places: `cell5="..."`; an empty text leaves the cell out."""
    sources = [changes.get(f"cell{i}", source) for i, source in enumerate(GOOD)]
    made = [(new_code_cell if i % 2 else new_markdown_cell)(source, id=f"c{i}") for i, source in enumerate(sources) if source]
    return new_notebook(cells=made)


def counted(**changes):
    return {what: value for what, (_, value, _) in teaching.count(lesson(**changes)).items()}


def test_the_good_lesson_has_no_faults():
    assert teaching.faults(lesson()) == []


MANY = " word" * 151
BROKEN = {
    "a name of an earlier section": (
        {"cell7": "def one():\n    ...\nprint(numbers)"},
        "section '2. Exercises' does not start from setup: c7 needs numbers",
    ),
    "a section in the middle of a text": (
        {"cell4": "So far.\n\n## Two\n\nNew."},
        "section 'Two' does not start from setup: c5 needs numbers",
    ),
    "a name that nobody gives": ({"cell5": "print(sum(number))"}, "c5 needs number"),
    "a name that comes too late": ({"cell3": "print(later)", "cell5": "later = 1"}, "c3 needs later"),
    "a second load cell": ({"cell5": "# Load cell\nmore = 1"}, "c5: a load cell that does not begin its section"),
    "a long cell": ({"cell5": "x = 1\n" * 26}, "c5: 26 lines of code"),
    "a bare cell": ({"cell8": ""}, "c9: no text before this code"),
    "two exercises": ({"cell11": "def three():\n    return 3"}, "exercises: ['one', 'two']"),
    "a long run": ({"cell4": MANY}, "c5: 151 words"),
    "a long run over two cells": ({"cell4": "Done.", "cell5": "", "cell6": "## 2. Exercises" + MANY}, "c7: 154 words"),
    "a long end": ({"cell12": GOOD[12] + MANY}, "the end: 158 words"),
    "no goals": ({"cell0": "# A lesson\n\n**You need:** numbers."}, "no goals as questions"),
    "no prerequisites": ({"cell0": "# A lesson\n\nWhat? Why?"}, "no prerequisites"),
    "no next step": ({"cell12": "That is all."}, "no next step"),
}


@pytest.mark.parametrize("changes, fault", BROKEN.values(), ids=BROKEN)
def test_a_broken_lesson_is_found_out(changes, fault):
    faults = teaching.faults(lesson(**changes))
    assert len(faults) == 1 and fault in faults[0]


def test_blank_lines_and_folded_answers_do_not_count():
    folded = f"<details><summary>Answer</summary>\n{MANY}\n</details>\n\n```python\n## no heading\n{MANY}\n```"
    assert teaching.faults(lesson(cell4=folded, cell5="x = 1\n\n" * 25)) == []
    assert teaching.words("[a link](http://a.b/c%20d) | `code`, <b>bold</b> - 3") == 5


@pytest.mark.parametrize(
    "source, needs",
    [
        ("x = x + 1", {"x"}),
        ("x = 1\nx += y", {"y"}),
        ("for i in range(n):\n    print(i)", {"n"}),
        ("rows = [r for r in rows if r > low]", {"rows", "low"}),
        ("import os.path as p, sys\nwith open(p.join(a)) as f:\n    f.read()", {"a"}),
        ("def f(a, b=start):\n    c = a\n    return c + step", {"start", "step"}),
        ("def f():\n    return later\nlater = 1\nf()", set()),
        ("class A:\n    size = width\n    def area(self):\n        return self.size * height\nA()", {"width", "height"}),
        ("best = max(scores, key=lambda s: weight[s])", {"scores", "weight"}),
        ("%matplotlib inline\nprint(f'{mean:.2f}', __name__)\ndisplay(await task)", {"mean", "task"}),
        ("try:\n    x = {k: v for k, v in pairs}\nexcept KeyError as e:\n    print(e)", {"pairs"}),
    ],
)
def test_names_that_a_cell_needs(source, needs):
    assert teaching.names(source)[0] == needs


def test_chained_cells_are_those_that_lean_on_a_cell_other_than_setup_and_load():
    share = "code cells that need another cell's name, load cells apart"
    assert counted()[share] == "0%"
    assert counted()["the same, load cells counted"] == "17%"  # one of six leans on the load cell
    assert counted(cell2="## 1. Adding")[share] == "0%"  # a first line `# Load cell` says it as well
    assert counted(cell2="## 1. Adding", cell3="numbers = [1]")[share] == "17%"  # a cell like any other
    changed = {"cell5": "numbers = [n + 1 for n in numbers]", "cell6": "Go on.", "cell7": "print(numbers)"}
    assert counted(**changed)[share] == "17%"  # the load cell made them, the cell after it made them anew


def test_what_the_words_of_a_notebook_are_counted_by():
    known = counted(
        cell4='### Predict, then see: a sum\n\n**Predict by clicking.** So **"it is four"** is false.\n\n**Turn a knob:** 1 to 3.'
    )
    assert known["predict, then see / per 1,000 words"].startswith("2 / ")
    assert known["misconceptions named / per 1,000 words"].startswith("1 / ")
    assert known["guesses typed or clicked, then used"] == "2"
    assert known["lines that offer a knob"] == "2"
    unused = counted(cell5="GUESS_SUM = None\nprint(sum(numbers))")
    assert unused["guesses typed or clicked, then used"] == "0"
    assert counted(cell3="# Load cell\nnumbers = RankTwelve([1, 2, config])")["live widgets"] == "1"
