"""The playground: what each decoder writes, the history over restarts, choices, and its view by ipywidgets' own clicks."""

import json
import types

import pytest
import torch
from fakes import FakeScorer
from matplotlib.figure import Figure
from PIL import Image
from tiny_policy import tiny_policy

from promptlab.decoding import DECODERS
from promptlab.lab import choose
from promptlab.lab.playground import CANDIDATES, Playground
from promptlab.preferences import plan
from promptlab.rewards import Calibration
from promptlab.runtime import PromptlabError


class LongScorer(FakeScorer):
    """Pays for the number of words, and remembers on which seeds it was asked to choose."""

    def __init__(self):
        super().__init__()
        self.calibration, self.asked = Calibration(10.0, 0.5, 0.5), []
        self.gallery.generator = types.SimpleNamespace(encode=lambda texts: None)

    def rewards(self, plain, written, seeds):
        self.asked.append(list(seeds))
        return torch.tensor([float(len(text.split())) for text in written])


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


@pytest.fixture
def play(policy, tmp_path):
    return Playground(LongScorer(), policy, "a frog", folder=tmp_path)


def rows(play):
    return [json.loads(line) for line in play.path.read_text().splitlines()]


def test_every_decoder_writes_what_the_policy_writes(play, policy):
    play.draw("a red castle")
    assert list(play.texts) == ["plain", *DECODERS] and play.texts["plain"] == "a red castle"
    for decode in ("sample", "greedy", "beam", "diverse_beam"):
        assert play.texts[decode] == policy.rewrite(["a red castle"], decode=decode)[0]
    drawn = policy.rewrite(["a red castle"] * CANDIDATES, decode="sample")
    assert len(play.texts["best_of_n"].split()) == max(len(text.split()) for text in drawn), "the one that is paid most"
    assert play.sheet.seeds == [11, 12] * 6, "one noise for all"


def test_greedy_is_asked_for_where_a_policy_decodes_otherwise_by_habit(tmp_path):
    class Habit:
        def rewrite(self, prompts, n=1, decode="beam"):
            return [f"{p}, {decode}" for p in prompts]

    assert Playground(LongScorer(), Habit(), folder=tmp_path, decode="greedy").draw().texts["greedy"] == "a frog, greedy"


def test_best_of_n_is_chosen_on_other_pictures_than_are_shown(play):
    play.draw(decode="best_of_n", n=3)
    words = [len(play.texts[f"best_of_n {i}"].split()) for i in (1, 2, 3)]
    assert words == sorted(words, reverse=True) and play.scorer.asked and not set(play.scorer.asked[0]) & set(play.seeds)


def test_sampling_draws_anew_in_every_try_and_each_text_once(play, policy):
    first = play.draw(decode="sample", n=4).texts
    again = play.draw().texts
    assert first != again and len(set(again.values())) == len(again)
    assert list(again)[1] == "sample 1" and again["sample 1"] == policy.rewrite(["a frog"], 4, "sample", seed=1)[0][0]


def test_what_does_not_go_together_is_said(play, tmp_path):
    with pytest.raises(PromptlabError, match="decode='bean' is no way to decode. There is 'every decoder', 'sample'"):
        play.draw(decode="bean")
    for n in (0, 5, "two"):
        with pytest.raises(PromptlabError, match="no number of rewrites"):
            play.draw(n=n)
    with pytest.raises(PromptlabError, match="no try 1: the history holds 0"):
        play.back(1)
    with pytest.raises(PromptlabError, match="Draw something first"):
        play.choose()
    assert not play.path.exists()


def test_the_history_survives_a_restart_and_goes_back_without_writing_anew(play, policy, tmp_path):
    play.draw("a red castle", decode="sample", n=2)
    before, scores = dict(play.texts), play.scores("sample 2")
    play.draw("a blue frog", decode="beam", n=1)
    later = Playground(LongScorer(), None, folder=tmp_path)  # no policy: nothing can be written
    assert [row["prompt"] for row in later.history] == ["a red castle", "a blue frog"]
    assert later.back(1).texts == before and later.prompt == "a red castle" and len(rows(later)) == 2
    assert later.scores("sample 2").keys() == scores.keys()
    assert later.labels()[1].startswith("2: a blue frog (beam, best reward ")


def test_going_back_takes_the_seeds_along(policy, tmp_path):
    Playground(LongScorer(), policy, "a frog", (21, 22, 23), tmp_path, "greedy").draw()
    later = Playground(LongScorer(), policy, "a red castle", (11, 12), tmp_path, "greedy").draw()
    assert later.widget and later._stepper.options == (11, 12)
    later.back(1)
    assert later.sheet.seeds == [21, 22, 23] * 2 and later._stepper.options == (21, 22, 23) and "Seed 21, 1 of 3" in later._line.value


def test_damaged_and_foreign_lines_are_passed_over(policy, tmp_path):
    good = {"preset": "fake", "prompt": "a frog", "seeds": [11], "texts": {"beam": ["a frog, vivid"]}}
    bad = [
        {**good, "preset": "paper"},
        {**good, "texts": {"beam": [1]}},
        {**good, "texts": 3},
        {**good, "seeds": []},
        {**good, "prompt": " "},
        [1],
    ]
    lines = ["{half a li", *map(json.dumps, bad), json.dumps(good)]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    play = Playground(LongScorer(), policy, folder=tmp_path)
    assert [row["prompt"] for row in play.history] == ["a frog"] and play.labels() == ["1: a frog (beam)"]
    assert play.back(1).texts == {"plain": "a frog", "beam": "a frog, vivid"}


def test_two_notebooks_share_a_history(policy, tmp_path):
    one, other = (Playground(LongScorer(), policy, folder=tmp_path, decode="greedy") for _ in range(2))
    one.draw("a frog"), other.draw("a castle")
    assert other.history[0]["prompt"] == "a frog" and len(rows(one)) == 2
    assert one.widget and len(one._tries.options) == 1
    one.widget.children[0].selected_index = 3
    assert [label[:11] for label, _ in one._tries.options] == ["2: a castle", "1: a frog ("], "the latest on top"


def test_pairs_set_each_first_rewrite_against_plain_and_the_one_before(policy, tmp_path):
    made = [
        ("a frog", "beam", ["b1", "b2"]),
        ("a frog", "sample", ["s1"]),
        ("a frog", "sample", ["s2"]),
        ("a cat", "beam", ["b1"]),
        ("a frog", "beam", ["b1"]),
    ]
    lines = [json.dumps({"preset": "fake", "prompt": p, "seeds": [11, 12], "texts": {d: t}}) for p, d, t in made]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    pairs = Playground(LongScorer(), policy, folder=tmp_path).pairs()
    sides = {(p["prompt"], p["seed"], p["text_a"], p["text_b"]) for p in pairs}
    assert sides == {
        ("a frog", 11, "b1", "a frog"), ("a frog", 11, "a frog", "s1"), ("a frog", 11, "b1", "s1"), ("a frog", 11, "a frog", "s2"),
        ("a cat", 11, "b1", "a cat"), ("a frog", 11, "b1", "s2"),
    }  # fmt: skip
    assert len(pairs) == len(sides) == len(plan(pairs, "fake", 0)), "each can be asked, and once"


def test_choices_go_where_the_reward_lab_reads_them(play, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    chooser = play.draw().choose()
    chooser.answer(1, "1")
    assert chooser.path == tmp_path.resolve() / "fake" / "choose" / "choices.jsonl" and chooser.path.exists()


# --- the view ---------------------------------------------------------------------------------------------------------


def test_the_view_draws_chooses_saves_and_goes_back(play, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    monkeypatch.setattr(choose, "HASTE", -1.0)
    view = play.widget
    pages = view.children[0]
    assert [pages.get_title(i) for i in range(4)] == ["Draw", "Seed and keep", "Choose", "History"] and play._again.disabled
    play._text.value, play._decode.value, play._number.value = "a red castle", "sample", 3
    play._button.click()
    assert (
        play.texts["plain"] == "a red castle"
        and rows(play)[0]["texts"].keys() == {"sample"}
        and play._grid.value.count("<img") == len(play.texts)
    )
    assert not play._again.disabled and play._tries.options[0][0].startswith("1: a red castle (sample")

    play._which.value = "sample 1"
    play._keep.click()
    (path,) = tmp_path.glob("*.png")
    with Image.open(path) as picture:
        assert picture.text["prompt"] == play.texts["sample 1"] and picture.text["typed"] == "a red castle" and picture.text["seed"] == "11"

    pages.selected_index = 2
    (chooser_view,) = play._choosing.children
    assert play._grid.layout.display == "none", "blind"
    assert "Which picture" in str([child.value for child in walk(chooser_view) if hasattr(child, "value")])
    pages.selected_index = 0
    play.draw("a blue frog", decode="greedy")
    assert (play._decode.value, play._text.value) == ("greedy", "a blue frog")
    pages.selected_index = 3
    assert play._grid.layout.display == ""
    play._tries.value = 1
    play._again.click()
    assert play.prompt == play._text.value == "a red castle" and len(rows(play)) == 2


def test_choosing_in_the_view_goes_on_where_it_was(play, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    monkeypatch.setattr(choose, "HASTE", -1.0)
    pages = play.widget.children[0]
    pages.selected_index = 2
    assert 'role="alert"' in play._line.value and "Draw something first" in play._line.value
    play.draw()
    pages.selected_index = 0
    pages.selected_index = 2
    first = play._choosing.children
    pages.selected_index = 1
    pages.selected_index = 2
    assert play._choosing.children == first, "the same question, not a new view"
    play.draw("a castle")
    pages.selected_index = 0
    pages.selected_index = 2
    assert play._choosing.children != first


def test_what_people_type_is_shown_as_typed(play):
    assert play.widget
    play._text.value = "a frog <script>run=1</script>"
    play._button.click()
    assert "<script" not in play._grid.value and "&lt;script&gt;" in play._grid.value


def test_a_click_that_cannot_be_kept_says_so(policy, tmp_path):
    (tmp_path / "file").write_text("")
    play = Playground(LongScorer(), policy, folder=tmp_path / "file", decode="greedy")
    assert play.widget
    play._button.click()
    assert 'role="alert"' in play._line.value and "PROMPTLAB_HOME" in play._line.value and not play._button.disabled


def test_where_nobody_can_click_it_is_a_wall(play, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    play._ipython_display_()
    assert isinstance(shown[0], Figure) and len(shown[0].axes) == 2 * len(play.texts) and len(rows(play)) == 1


def walk(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from walk(child)
