"""Each notebook keeps the limits of teaching.py, and the counter itself notices what it should.

`python tests/teaching.py` prints the counts as one table, the aims beside them; the first test here prints it too.
"""

import nbformat
import pytest
import teaching
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

COURSE = teaching.course(teaching.ROOT / "notebooks")  # those beyond the course too
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
    "**In short.** A sum is one number. Many numbers go in.\n\n**Check yourself.** Why add?\n\n"
    "<details><summary>Answer</summary>\nTo know how many.\n</details>\n\n**Next step:** [subtract](02_minus.ipynb).",
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
    "a long end": ({"cell12": GOOD[12] + MANY}, "the end: 170 words"),
    "a wide line": ({"cell5": "total = " + " + ".join(["10"] * 30)}, "c5: 155 characters in a line, at most 100: total = 10"),
    "no goals": ({"cell0": "# A lesson\n\n**You need:** numbers."}, "no goals as questions"),
    "no prerequisites": ({"cell0": "# A lesson\n\nWhat? Why?"}, "no prerequisites"),
    "no next step": ({"cell12": "That is all."}, "no next step"),
    "a next step without a link": ({"cell12": "[Here](a.ipynb).\n\n**Next step:** subtract."}, "no next step"),
}


@pytest.mark.parametrize("changes, fault", BROKEN.values(), ids=BROKEN)
def test_a_broken_lesson_is_found_out(changes, fault):
    faults = teaching.faults(lesson(**changes))
    assert len(faults) == 1 and fault in faults[0]


def test_blank_lines_comments_and_folded_answers_do_not_count():
    folded = f"<details><summary>Answer</summary>\n{MANY}\n</details>\n\n```python\n## no heading\n{MANY}\n```"
    assert teaching.faults(lesson(cell4=folded, cell5="x = 1\n\n  # why\n" * 25)) == []
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


def test_chained_cells_are_those_that_lean_on_a_cell_other_than_setup():
    """The lesson has six code cells, five of them no setup; in cell 5 one leans on the load cell, which the rubric counts."""
    rubric, ours = (
        "code cells that need another cell's name (the rubric's count)",
        "the same, the load cell of their section apart (our own)",
    )
    assert (counted()[rubric], counted()[ours]) == ("20%", "0%")
    assert counted(cell2="## 1. Adding")[ours] == "0%"  # a first line `# Load cell` says it as well
    assert counted(cell2="## 1. Adding", cell3="numbers = [1]")[ours] == "20%"  # a cell like any other
    changed = {"cell5": "numbers = [n + 1 for n in numbers]", "cell6": "Go on.", "cell7": "print(numbers)"}
    assert (counted(**changed)[rubric], counted(**changed)[ours]) == ("40%", "20%")  # the cell after it made them anew
    assert counted(cell3="# Load cell\nfrom data import numbers")[rubric] == "0%"  # what is imported may stand anywhere
    only = counted(cell3="from data import numbers", cell5="total = sum(numbers)", cell7="print(total)")
    assert only[rubric] == "25%"  # a cell that only imports is setup itself
    assert counted(cell2="## Setup", cell3="numbers = [config]", cell4="## 1. Adding")[rubric] == "0%"  # the rubric: all below "Setup"
    assert counted(cell3="import numbers\nnumbers = [1]\nnumbers += [2]")[rubric] == "0%"  # the rare price of reading names, not values


def test_what_the_words_of_a_notebook_are_counted_by():
    known = counted(
        cell4='### Predict, then see: a sum\n\n**Predict by clicking.** So **"it is four"** is false.\n\n**Turn a knob:** 1 to 3.'
    )
    assert known["predict, then see / per 1,000 words"].startswith("2 / ")
    assert known["misconceptions named / per 1,000 words"].startswith("1 / ")
    assert known["guesses typed or clicked, then used"] == "2"
    assert known["knobs"] == "2"
    unused = counted(cell5="GUESS_SUM = None\nprint(sum(numbers))")
    assert unused["guesses typed or clicked, then used"] == "0"


def test_a_belief_counts_once_numbered_quoted_or_both():
    text = '**"it is four"** (Misconception 1) is false.\n\nMisconception 2: **"five"**.\n\n**Misconception 3: "six"**\n\nMisconception 2 again.\n\n**"seven"** too.'
    assert len(teaching.beliefs(text)) == 4


def test_knobs_are_comments_sentences_and_rows_of_a_table():
    text = "**Knob:** turn it.\n\nThe next cell has knobs.\n\n| knob | range |\n|---|---|\n| `a` | 1 |\n| `b` | 2 |\n\n| other | x |\n|---|---|\n| c | 3 |"
    assert counted(cell4=text, cell5="knob = 1\na = 2  # knob, 1 to 3")["knobs"] == "4"


@pytest.mark.parametrize(
    "code, shown",
    [
        ("RankTwelve(1, 2, 3)", 1), ("twelve = ranking.RankTwelve(1, 2, 3)\ntwelve", 1), ("display(widgets.Compare(s, m).draw(progress=True))", 1),
        ("twelve = RankTwelve(1, 2, 3)", 0), ("twelve = RankTwelve(1, 2, 3)\ntwelve.ranks()", 0), ("twelve = RankTwelve(1, 2, 3)\ntwelve;", 0),
        ("for k in range(5):\n    print(reward_lab.RewardLab(s).set(slope=k).summary())", 0), ("Compare(s, m)\nprint(1)", 0), ("Plain(1)", 0),
    ],
)  # fmt: skip
def test_a_widget_counts_where_it_is_shown(code, shown):
    assert counted(cell5=code)["live widgets"] == str(shown)


def test_a_widget_made_in_one_cell_and_shown_in_another_counts_once():
    assert counted(cell3="# Load cell\ntwelve = RankTwelve(1, 2, 3)", cell5="twelve")["live widgets"] == "1"


FRAME = "goals, prerequisites, recap, self-check, linked next step"


@pytest.mark.parametrize(
    "end, there",
    [
        (GOOD[12], 5),
        (GOOD[12].replace(" Many numbers go in.", ""), 4),  # one sentence is no recap
        (GOOD[12].replace("**In short.** ", ""), 4),  # nothing says that it is one
        (GOOD[12].replace("**In short.** ", "## 3 · Recap\n\n"), 5),
        (GOOD[12].replace("A sum is one number. Many numbers go in.", "\n\n- A sum. One number.\n- Many."), 4),  # a list is none
        (GOOD[12].replace("\nTo know how many.\n", ""), 4),  # asked, never answered
        (GOOD[12].replace("**Check yourself.**", "## Check yourself\n\n"), 5),
        (GOOD[12].replace("[subtract](02_minus.ipynb)", "subtract"), 4),
    ],
)
def test_the_frame_of_a_lesson(end, there):
    assert counted(cell12=end)[FRAME] == f"{there} of 5"


def test_the_first_result_is_the_lessons_subject():
    """By default the first picture; where that is not what the lesson is about, the first cell that shows it."""
    drawn = lesson(cell3="# Load cell\nplots.wall(pictures)", cell5="print(scorer.rewards(x, y, seeds))")
    cells = teaching.read(drawn)
    assert teaching.first_result(cells)[0] == 2 and teaching.first_result(cells, "02")[0] == 3
    assert teaching.first_result(cells)[1] == 18, "words before it"


def test_only_what_a_reader_sees_has_a_width():
    line = "total = " + " + ".join(["10"] * 20)
    found = lesson(cell1=line, cell5=line, cell7=f"def one():\n    ...\n{line}")
    assert [cell for cell, _ in teaching.wide(teaching.read(found), 100)] == ["c5", "c7"], "the setup cell is the same everywhere"
    found.cells[5].metadata["jupyter"] = {"source_hidden": True}
    assert [cell for cell, _ in teaching.wide(teaching.read(found), 100)] == ["c7"]
    assert teaching.count(found)["lines of code wider than 100 characters"] == ("0", "1", False)
