"""Contact sheets: one row per picture, with everything known about it."""

import pytest
import torch
from fakes import FakeScorer, make_sheet

from promptlab.pictures.sheets import ENDINGS, PLAIN, ContactSheet, cross
from promptlab.runtime import PromptlabError


def test_sheet_has_one_row_per_picture():
    sheet = ContactSheet(FakeScorer(wrong=["a frog, swapped"]), ["a frog", "a frog"], ["a frog, kept", "a frog, swapped"], [1, 2])
    assert len(sheet) == 4 and sheet.prompts == ["a frog, kept"] * 2 + ["a frog, swapped"] * 2 and sheet.seeds == [1, 2, 1, 2]
    assert sheet.kept.tolist() == [True, True, False, False]
    assert sheet.gold.tolist() == [6, 7, 6, 7]
    assert sheet.pictures([3, 0]).shape == (2, 128, 128, 3) and sheet.similarity("a frog").shape == (4,)
    assert sheet.similarity(sheet.prompts).shape == (4,)


def test_sheet_top_is_best_first_and_ties_keep_their_order():
    assert make_sheet(2).top(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3) == [1, 3, 0]


def test_sheet_pictures_side_by_side_and_on_axes():
    import matplotlib.pyplot as plt

    sheet = make_sheet(4)
    assert sheet.collage([0, 1, 2], columns=2).shape == (256, 256, 3) and (sheet.collage([0, 1, 2], columns=2)[128:, 128:] == 255).all()
    figure, ax = plt.subplots()
    y = torch.arange(8.0)
    assert sheet.scatter(ax, torch.zeros(8) + 0.1 * y, y, count=3)[:2] == [7, 0] and len(ax.artists) == 3
    assert len(sheet.scatter(ax, y, y, count=99)) == 8
    plt.close(figure)


def test_sheet_says_what_the_judge_cannot_know():
    with pytest.raises(PromptlabError, match="sofa"):
        ContactSheet(FakeScorer(), ["a sofa"], ["a sofa, photo"], [1]).kept  # noqa: B018
    with pytest.raises(PromptlabError, match="'fake' has no judge"):
        make_sheet(1, judge=False).gold  # noqa: B018


def test_cross_has_every_prompt_with_every_ending():
    from promptlab.pocket.captions import content_of

    sheet = cross(FakeScorer(), ["a frog", "a fox"], ["photo", "neon sign"], [1, 2])
    assert sheet.prompts[::2] == ["a frog, photo", "a frog, neon sign", "a fox, photo", "a fox, neon sign"]
    assert sheet.plain == ["a frog"] * 4 + ["a fox"] * 4 and sheet.seeds == [1, 2] * 4
    assert all(content_of(x) for x in PLAIN) and len(set(ENDINGS)) == 24
