"""The clickable parts: their state and logic without a browser, and their views by ipywidgets' own click and drag."""

import math
import random
import types

import nbformat
import pytest
import torch
from fakes import FakeScorer, make_sheet
from matplotlib.figure import Figure

from promptlab.course import notebooks
from promptlab.lab import widgets
from promptlab.pictures.sheets import ContactSheet
from promptlab.rewards import Calibration, promptist_reward
from promptlab.runtime import PromptlabError

CALIBRATION = Calibration(relevance_slope=10.0, relevance_threshold=0.5, aesthetic_scale=0.5)


# --- sliders --------------------------------------------------------------------------------------------------------


def test_sliders_start_at_the_papers_reward():
    sheet = make_sheet()
    sliders = widgets.RewardSliders(sheet, CALIBRATION)
    assert sliders.values == {"aesthetic": 0.5, "slope": 10.0, "threshold": 0.5}
    assert torch.equal(sliders.reward(), promptist_reward(sheet.scores, CALIBRATION))
    assert sliders.rank() == sheet.top(promptist_reward(sheet.scores, CALIBRATION)) and len(sliders.rank()) == 16


def test_sliders_rank_by_one_term_where_the_other_is_silent():
    sheet = make_sheet()
    s = sheet.scores
    assert widgets.RewardSliders(sheet, CALIBRATION).set(slope=0).rank(5) == sheet.top(s.aesthetic - s.aesthetic_plain, 5)
    all_pay = widgets.RewardSliders(sheet, CALIBRATION).set(aesthetic=0, threshold=99)
    assert all_pay.values["threshold"] == pytest.approx(float(s.relevance.max())), "a value beyond the slider stops at its end"
    assert all_pay.rank(5) == sheet.top(s.relevance, 5)


def test_sliders_name_a_wrong_control():
    with pytest.raises(PromptlabError, match="'weight': use aesthetic, slope, threshold"):
        widgets.RewardSliders(make_sheet(), CALIBRATION).set(weight=1)


def test_dragging_moves_pictures_and_draws_none():
    sheet = make_sheet()
    sliders = widgets.RewardSliders(sheet, CALIBRATION)
    assert len(sliders.widget.children) == 5 and len(sliders._sliders) == 3
    before, known = sliders._grid.value, set(sliders._tags)
    drawn = sheet.scorer.gallery.drawn
    for value in (0, 1, 2, 10):
        sliders._sliders["slope"].value = value
    assert sliders.values["slope"] == 10 and sliders._grid.value == before
    sliders._sliders["slope"].value = 0
    assert sliders._grid.value != before
    assert sheet.scorer.gallery.drawn - drawn == len(set(sliders._tags) - known), "a thumbnail is read once"
    sliders.set(slope=10)
    assert sliders._sliders["slope"].value == 10 and sliders._grid.value == before


def test_what_breaks_in_a_drag_is_said_in_the_widget_and_the_next_drag_mends_it(monkeypatch):
    sheet, broken = make_sheet(), [KeyError("<b>gold</b>"), PromptlabError("No pictures today.")]
    sliders = widgets.RewardSliders(sheet, CALIBRATION)
    said, top = (sliders.widget, sliders._line.value)[1], sheet.top
    monkeypatch.setattr(sheet, "top", lambda *_: (_ for _ in ()).throw(broken.pop(0)) if broken else top(*_))
    sliders._sliders["slope"].value = 0
    assert 'role="alert"' in sliders._line.value and "KeyError: &#x27;&lt;b&gt;gold" in sliders._line.value
    assert "<summary>Where</summary>" in sliders._line.value and "in _refresh" in sliders._line.value
    sliders._sliders["slope"].value = 1
    assert "<b>\u26a0 No pictures today.</b></div>" in sliders._line.value, "a sentence of ours needs no traceback"
    sliders._sliders["slope"].value = 10
    assert sliders._line.value == said


def test_grid_says_everything_in_words_and_escapes_what_people_type():
    plain, evil = "a blue frog", 'a blue frog <img src=x onerror="alert(1)">'
    sheet = ContactSheet(FakeScorer(wrong=[evil]), [plain], [evil], [1])
    grid = widgets.RewardSliders(sheet, CALIBRATION).html()
    assert "onerror=&quot;" in grid and "<img src=x" not in grid and 'onerror="' not in grid
    assert "<b>1.</b>" in grid and "seed 1" in grid and "words lost" in grid and "gold 6.0" in grid
    assert "0 of 1 still show" in widgets.RewardSliders(sheet, CALIBRATION).summary()


def test_grid_is_small_enough_to_drag():
    assert len(widgets.RewardSliders(make_sheet(), CALIBRATION).html()) < 200_000


def test_still_picture_where_nobody_can_click(monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    sliders = widgets.RewardSliders(make_sheet(), CALIBRATION)
    sliders._ipython_display_()
    assert isinstance(shown[0], Figure) and "widget" not in sliders.__dict__
    text = shown[0].get_suptitle()
    assert "relevance slope 10" in text and "mean gold" in text


def test_live_only_in_a_kernel_with_a_reader(monkeypatch):
    monkeypatch.delenv("PROMPTLAB_HEADLESS", raising=False)
    assert not widgets.live()
    monkeypatch.setattr("IPython.get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    assert widgets.live()
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    assert not widgets.live()


# --- the exercises of 02_rewards --------------------------------------------------------------------------------------


def check_of(name, **names):
    """A check function, as the folded cell of the notebook defines it."""
    cells = nbformat.read(notebooks.find(["02_rewards"])[0], as_version=4).cells
    source = next(c.source for c in cells if c.cell_type == "code" and f"def {name}(" in c.source)
    space = {"torch": torch} | names
    exec(source[: source.rindex("print(")], space)
    return space[name]


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda r, k, r0: None, "not yet"),
        (lambda r, k, r0: (k * (r - r0)).clamp(max=0).mean(1), "Right."),
        (lambda r, k, r0: (k * (r - r0)).mean(1).clamp(max=0), "average first"),
        (lambda r, k, r0: (k * (r - r0)).clamp(min=0).mean(1), "wrong side"),
        (lambda r, k, r0: (k * (r - r0)).mean(1), "Nothing is clamped"),
        (lambda r, k, r0: (k * (r - r0)).clamp(max=0).sum(1), "add up"),
        (lambda r, k, r0: (k * (r - r0)).clamp(max=0).mean(0), "over prompts"),
        (lambda r, k, r0: (k * (r - r0)).clamp(max=0), "Not this"),
        (lambda r, k, r0: 3, "tensor"),
    ],
)
def test_exercise_one_knows_its_wrong_answers(answer, says):
    torch.manual_seed(0)
    assert says in check_of("check_penalty")(answer)


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda sd, target: None, "not yet"),
        (lambda sd, target: math.ceil((sd / target) ** 2), "Right."),
        (lambda sd, target: math.ceil(sd / target), "square is missing"),
        (lambda sd, target: int((sd / target) ** 2), "Round up"),
        (lambda sd, target: round((sd / target) ** 2), "Round up"),
        (lambda sd, target: 1000, "pictures give"),
    ],
)
def test_exercise_two_knows_its_wrong_answers(answer, says):
    random.seed(0)
    assert says in check_of("check_budget")(answer)


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda s: None, "not yet"),
        (lambda s: 100 * s.dark, "Right: 16"),
        (lambda s: -s.dark, "sign"),
        (lambda s: 0.5 * s.dark + 3 * s.aesthetic, "Outvoted"),
        (lambda s: s.aesthetic, "Which words"),
        (lambda s: promptist_reward(s, CALIBRATION), "Which words"),
        (lambda s: 1.0, "one number per picture"),
    ],
)
def test_exercise_three_knows_its_wrong_answers(answer, says):
    torch.manual_seed(0)
    sheet = make_sheet(100)
    sheet.prompts, sheet.facts = ["a fox, silhouette" if i % 4 == 0 else "a fox, photo" for i in range(200)], [{"gold": 5.0}] * 200
    s = sheet.scores
    s.dark = torch.tensor([float("silhouette" in p) for p in sheet.prompts])
    sheet.similarity = lambda text: 0.2 * s.dark + 0.01 * torch.rand(200)
    s.aesthetic = s.aesthetic - s.dark  # a head that dislikes them, as ours does
    assert says in check_of("check_silhouettes", sheet=sheet, s=s, c=CALIBRATION)(answer(s))
