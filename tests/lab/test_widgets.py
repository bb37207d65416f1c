"""The clickable parts: their state and logic without a browser, and their views by ipywidgets' own click and drag."""

import types

import pytest
import torch
from fakes import FakeScorer, make_sheet
from matplotlib.figure import Figure

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
