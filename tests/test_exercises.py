"""Every exercise of the course, four ways: blank, with its folded answer, and with the mistakes its hints are for."""

import contextlib
import io
import re
import types
from pathlib import Path

import nbformat
import pytest
import torch

from promptlab.rewards import Scores

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"

# (notebook, function): wrong bodies, each with a piece of the hint it must get
MISTAKES = {
    ("00_tour", "gain"): {
        "return mean(new.values()) - mean(plain.values())": "one dict only must not count",
        "return mean(plain[s] - new[s] for s in plain.keys() & new.keys())": "better must be positive",
    },
    ("00_tour", "report"): {"return max(chosen)": "luck included", "return max(fresh)": "now the new seeds choose"},
    ("00_tour", "cost"): {"return prompts * n * k": "plain ones cost too", "return 2 * prompts * n * k": "draw plain ones once"},
    ("02_rewards", "my_penalty"): {
        "return (k * (relevance - r0)).mean(1).clamp(max=0)": "Clamp inside, average outside",
        "return (k * (relevance - r0)).clamp(min=0).mean(1)": "cuts the wrong side",
        "return (k * (relevance - r0)).mean(1)": "Nothing is clamped",
        "return (k * (relevance - r0)).clamp(max=0).sum(1)": "add up where you should average",
        "return (k * (relevance - r0)).clamp(max=0).mean(0)": "mean(1) runs along a row",
    },
    ("02_rewards", "my_budget"): {
        "return math.ceil(sd / target)": "the square is missing",
        "return int((sd / target) ** 2)": "Round up",
    },
    ("02_rewards", "silhouettes_please"): {
        'return -sheet.similarity("a silhouette")': "is a sign turned round",
        'return s.aesthetic + sheet.similarity("a silhouette")': "Weigh it up",
        "return s.aesthetic": "Which words would",
    },
}


def exercise_cells(name):
    """The code cells of a notebook's exercises: functions to fill in and their checks."""
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    start = next(i for i, c in enumerate(cells) if c.cell_type == "markdown" and re.match(r"## .*xercises", c.source))
    return [c for c in cells[start:] if c.cell_type == "markdown" or re.search(r"^def ", c.source, re.M)]


def folded_answer(name, function):
    """The lines of the answer that stands folded behind an exercise, as a function body."""
    cells = exercise_cells(name)
    at = next(i for i, c in enumerate(cells) if c.cell_type == "code" and c.source.startswith(f"def {function}("))
    text = next(c.source for c in cells[at:] if c.cell_type == "markdown" and "<summary>Answer" in c.source)
    block = re.search(r"<summary>Answer</summary>\s*```python\ndef .*?\n(.*?)```", text, re.S)
    return block[1] if block else "    " + re.search(r"<summary>Answer</summary>\s*`(.*?)`", text, re.S)[1]


def said(name, function=None, body=None):
    """What the checks of a notebook print, by exercise, once `body` stands in one of its functions."""
    known = {"torch": torch, **silhouettes()}
    printed, names = [], []
    for cell in exercise_cells(name):
        if cell.cell_type == "markdown":
            continue
        source, head = cell.source, re.match(r"def (\w+)\(.*\):\n", cell.source)
        if head and not head[1].startswith("check"):
            names.append(head[1])
            if head[1] == function:
                source = re.sub(r"^    .*$", lambda _: body, source, count=1, flags=re.M)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(source, known)
        printed += out.getvalue().splitlines()
    return dict(zip(names, printed, strict=True))


def silhouettes():
    """Sixty pictures, a third of them silhouettes, which CLIP finds a little more like "a silhouette" and the head ugly."""
    torch.manual_seed(0)
    dark = torch.arange(60) % 3 == 0
    column = torch.rand(60)
    scores = Scores(
        torch.arange(60),
        torch.ones(60),
        5 + torch.randn(60) - dark.float(),
        5 + torch.randn(60),
        0.3 + 0.1 * column,
        0.3 + 0.1 * torch.rand(60),
    )
    likeness = 0.2 + 0.05 * dark + 0.005 * torch.rand(60)
    sheet = types.SimpleNamespace(
        similarity=lambda text: likeness,
        facts=[{"medium": "silhouette" if d else "photo"} for d in dark],
        gold=torch.rand(60),
        top=lambda values, count=16: values.argsort(descending=True, stable=True)[:count].tolist(),
    )
    return {"s": scores, "sheet": sheet, "c": types.SimpleNamespace(relevance_threshold=0.35)}


@pytest.mark.parametrize("name", sorted({name for name, _ in MISTAKES}))
def test_blank_exercises_say_not_yet(name):
    known = {f for n, f in MISTAKES if n == name}
    assert said(name) == dict.fromkeys(known, "not yet"), "every exercise of the notebook needs its row in MISTAKES"


@pytest.mark.parametrize("name, function", MISTAKES)
def test_folded_answers_pass(name, function):
    lines = said(name, function, "    import math\n" + folded_answer(name, function))
    assert lines.pop(function).lower().startswith("right")
    assert set(lines.values()) == {"not yet"}


@pytest.mark.parametrize("name, function, body, hint", [(n, f, b, h) for (n, f), wrong in MISTAKES.items() for b, h in wrong.items()])
def test_mistakes_get_their_own_hint(name, function, body, hint):
    said_here = said(name, function, f"    import math\n    {body}")[function]
    assert hint in said_here and not said_here.lower().startswith("right.")
