"""Figures of the evaluation: rows by rule, the numbers they are given, words counted under the right kind."""

import numpy as np
import pytest
from drawn import draw, text_of
from fakes import FakeScorer

from promptlab import evaluation
from promptlab.lab import figures
from promptlab.runtime import PromptlabError

RECORDS = [
    {"x": "a blue frog", "set": "in_domain", "kind": "MC", "subjects": ["frog"]},
    {"x": "a fox, oil painting", "set": "in_domain", "kind": "MCM", "subjects": ["fox"]},
    {"x": "a pizza and a frog", "set": "out_of_domain", "kind": "pair", "subjects": ["pizza", "frog"]},
    {"x": "a castle", "set": "out_of_domain", "kind": "held out", "subjects": ["castle"]},
]


def tidy():
    """Records of three methods; PPO, trained twice, gains 1 in reward in domain and 2 outside."""
    inside = np.array([r["set"] == "in_domain" for r in RECORDS])
    plain = {m: np.zeros(4) for m in evaluation.METRICS}
    ppo = [{m: np.where(inside, 1.0, 2.0) + shift for m in evaluation.METRICS} for shift in (-0.1, 0.1)]
    return evaluation.results({"plain": [plain], "sft": [plain], "ppo": ppo}, RECORDS)


def labels(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def test_a_forest_shows_every_method_set_and_training_seed():
    figure = figures.forest(tidy(), "reward")
    left, right = figure.axes
    assert labels(left) == ["SFT", "PPO"] and (left.get_title(), right.get_title()) == ("in domain: 2 prompts", "out of domain: 2 prompts")
    assert "+1.00" in text_of(figure) and "+2.00" in text_of(figure)
    assert sum("no difference" in t for t in text_of(figure)) == 2, "SFT wrote what plain wrote"
    rings = [line for line in left.lines if line.get_marker() == "o"]
    assert list(rings[0].get_xdata()) == [0.9, 1.1] and "2 training seeds" in figure.get_supxlabel()
    assert len(draw(figure)) > 5_000


def test_a_forest_of_a_finer_set_has_one_panel_and_an_unknown_one_is_named():
    figure = figures.forest(tidy(), "intent", "sft", sets=("in_domain: MC",), margin=-3)
    assert [ax.get_title() for ax in figure.axes] == ["in domain: MC: 1 prompts"]
    assert [-3, -3] in [list(line.get_xdata()) for line in figure.axes[0].lines]
    with pytest.raises(PromptlabError, match="moon"):
        figures.forest(tidy(), sets=("moon",))


def test_bars_stand_at_their_numbers():
    ax = figures.bars({"paired": (1.0, 0.5, 1.5), "not paired": {"mean": 1, "low": -1, "high": 3, "per_seed": [0.9, 1.1]}}, what="reward").axes[0]
    assert labels(ax) == ["paired", "not paired"] and ax.get_xlabel() == "reward"
    assert [0.5, 1.5] in [list(line.get_xdata()) for line in ax.lines] and [-1, 3] in [list(line.get_xdata()) for line in ax.lines]


def test_best_median_and_worst_are_chosen_by_rule():
    assert figures.ranks([3, 9, 1, 5, 7]) == {"best": [1], "median": [3], "worst": [2]}
    assert figures.ranks([1, 1, 1, 1, 1, 1], 2) == {"best": [0, 1], "median": [2, 3], "worst": [4, 5]}, "ties stay in order"
    with pytest.raises(PromptlabError, match="at least 6"):
        figures.ranks([1, 2, 3], 2)


def test_a_grid_has_a_row_for_each_chosen_prompt_and_a_column_for_each_method():
    plain = [r["x"] for r in RECORDS]
    texts = {"plain": plain, "sft": plain, "ppo": [f"{x}, " + ", ".join(["vivid colors, at sunset"] * 3) for x in plain]}
    measured = {m: {"reward": np.array([0.0, 3.0, 1.0, -2.0]) * (m == "ppo"), "gold": np.full(4, 5.0)} for m in texts}
    figure = figures.grid(FakeScorer(), texts, measured, seed=1)
    assert len(figure.axes) == 9
    shown = text_of(figure)
    assert [t for t in shown if t.startswith(("best", "median", "worst"))] == ["best\n+3.00", "median\n+1.00", "worst\n-2.00"]
    words = [t.replace("\n", " ") for t in shown]
    assert "PPO a castle, " + ", ".join(["vivid colors, at sunset"] * 3) in words and "SFT a castle" in words
    assert shown.count("gold 5.0") == 9 and "reward -2.00" in shown
    draw(figure)


def test_only_words_that_were_not_typed_count_as_added():
    assert figures.added("a frog, oil painting", "a frog, oil painting, at sunset") == ["at sunset"]
    assert figures.added("a frog", "a frog") == []


def test_words_are_counted_under_the_kind_of_the_first_subject():
    texts = ["a blue frog, neon sign", "a fox, oil painting, at sunset", "a pizza and a frog, at sunset", "a castle"]
    kinds, phrases, table = figures.shares(RECORDS, texts)
    assert kinds == ["wild", "food", "place"] and phrases == ["at sunset", "neon sign"]
    np.testing.assert_allclose(table, [[0.5, 0.5], [1, 0], [0, 0]])
    figure = figures.words_by_kind(RECORDS, texts, count=1, title="PPO")
    assert labels(figure.axes[0]) == kinds and [t for t in text_of(figure) if t] == ["50", "100", "0", "PPO"]
    draw(figure)
    nothing = figures.words_by_kind(RECORDS, [r["x"] for r in RECORDS])
    assert any("adds no word" in t for t in text_of(nothing)) and draw(nothing)
