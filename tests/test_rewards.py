"""Scores and the paper's reward, recomputed by hand and by numpy."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
import torch

from promptlab import rewards
from promptlab.config import COLAB
from promptlab.rewards import (
    Calibration,
    Scores,
    calibrate,
    load_calibration,
    mean_per_pair,
    promptist_reward,
)
from promptlab.runtime import PromptlabError

PLAIN, REWRITTEN, SEEDS = ["a frog", "a castle", "a blue dog"], ["a frog, oil painting", "a castle", "a cat, neon sign"], [5, 3]


# --- the reward -----------------------------------------------------------------------------------------------------


def scores(aesthetic, plain, relevance, pair=None):
    t = torch.tensor
    return Scores(t(pair or [0] * len(plain)), t(list(range(len(plain)))), t(aesthetic), t(plain), t(relevance), t(relevance))


PAPER = Calibration(20.0, 0.28, 1.0)


def test_the_papers_reward_by_hand():
    """20 x (cos - .28), never above 0, plus the aesthetic gain."""
    s = scores([6.0, 5.0, 5.5], [5.5, 5.5, 5.5], [0.26, 0.30, 0.28])
    torch.testing.assert_close(promptist_reward(s, PAPER), torch.tensor([0.5 - 0.4, -0.5, 0.0]))
    torch.testing.assert_close(promptist_reward(s, Calibration(10.0, 0.29, 2.0)), torch.tensor([1.0 - 0.3, -1.0, -0.1]))


def test_each_picture_is_clamped_before_the_mean():
    """Relevances .38 and .18 average .28, which costs nothing; but one picture lost the subject, and that costs 2 / 2."""
    s = scores([5.0, 5.0], [5.0, 5.0], [0.38, 0.18])
    assert mean_per_pair(promptist_reward(s, PAPER), s).tolist() == pytest.approx([-1.0])
    averaged_first = scores([5.0], [5.0], [0.28])
    assert promptist_reward(averaged_first, PAPER).tolist() == pytest.approx([0.0], abs=1e-6)


def test_means_are_per_pair_in_any_order():
    s = scores([1.0] * 5, [0.0] * 5, [0.5] * 5, pair=[2, 0, 2, 1, 2])
    assert mean_per_pair(torch.tensor([3.0, 5.0, 6.0, 7.0, 0.0]), s).tolist() == [5.0, 7.0, 3.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_names_its_pair(bad):
    s = scores([1.0] * 4, [0.0] * 4, [0.5] * 4, pair=[0, 0, 1, 1])
    with pytest.raises(PromptlabError, match=rf"pair 1 is \[1\.0, {bad}\]"):
        mean_per_pair(torch.tensor([0.0, 0.0, 1.0, bad]), s)


def test_a_calibration_explains_itself():
    text = str(Calibration(31.25, 0.1234, 1.5))
    for part in ("31.2", "0.123", "1.50", "20", "0.28", "0.40"):
        assert part in text


# --- scoring --------------------------------------------------------------------------------------------------------


def test_plain_and_rewritten_prompts_share_their_seeds(tiny_scorer, monkeypatch):
    drawn, generate = [], tiny_scorer.gallery.generator.generate
    monkeypatch.setattr(tiny_scorer.gallery.generator, "generate", lambda p, s: drawn.extend(zip(p, s, strict=True)) or generate(p, s))
    tiny_scorer.score(PLAIN, REWRITTEN, SEEDS)
    assert set(drawn) == {(p, s) for p in PLAIN + REWRITTEN for s in SEEDS}
    assert len(drawn) == len(set(drawn)), "an unchanged prompt is drawn once"


def test_scores_have_a_row_per_picture(tiny_scorer, tiny_generator):
    s = tiny_scorer.score(PLAIN, REWRITTEN, SEEDS)
    assert len(s) == 6 and s.pair.tolist() == [0, 0, 1, 1, 2, 2] and s.seed.tolist() == [5, 3] * 3
    draw = lambda prompts: tiny_scorer.clip.embed_images(tiny_generator.generate([p for p in prompts for _ in SEEDS], SEEDS * 3))  # noqa: E731
    before, after = draw(PLAIN), draw(REWRITTEN)
    words = tiny_scorer.clip.embed_texts([p for p in PLAIN for _ in SEEDS])
    for found, expected in [(s.aesthetic, tiny_scorer.rate(after)), (s.aesthetic_plain, tiny_scorer.rate(before)),
                            (s.relevance, (after * words).sum(1)), (s.relevance_plain, (before * words).sum(1))]:  # fmt: skip
        assert found.dtype == torch.float32 and found.shape == (6,)
        np.testing.assert_allclose(found.numpy(), np.asarray(expected), atol=2e-4)
    assert torch.equal(s.aesthetic[2:4], s.aesthetic_plain[2:4]), "an unchanged prompt gains exactly nothing"
    assert s.relevance.unique().numel() == 6, "every picture counts"


def test_relevance_is_measured_against_what_the_person_typed(tiny_scorer):
    """Trap 8 of the peers: not against the rewrite, and not against the first prompt of the batch."""
    together = tiny_scorer.score(PLAIN, REWRITTEN, SEEDS)
    for i in range(3):
        alone = tiny_scorer.score(PLAIN[i : i + 1], REWRITTEN[i : i + 1], SEEDS)
        assert torch.equal(alone.relevance, together.relevance[2 * i : 2 * i + 2])
    other = tiny_scorer.score(["a whale"] * 3, REWRITTEN, SEEDS)
    assert not torch.equal(other.relevance, together.relevance) and torch.equal(other.aesthetic, together.aesthetic)


def test_rewards_are_the_mean_over_seeds(tiny_scorer):
    s, c = tiny_scorer.score(PLAIN, REWRITTEN, SEEDS), tiny_scorer.calibration
    n = {k: getattr(s, k).numpy().astype(float) for k in ("aesthetic", "aesthetic_plain", "relevance")}
    per_image = c.aesthetic_scale * (n["aesthetic"] - n["aesthetic_plain"]) + np.minimum(
        0, c.relevance_slope * (n["relevance"] - c.relevance_threshold)
    )
    np.testing.assert_allclose(tiny_scorer.rewards(PLAIN, REWRITTEN, SEEDS).numpy(), per_image.reshape(3, 2).mean(1), atol=1e-4)


@pytest.mark.parametrize(
    "plain, rewritten, seeds", [(["a frog"], [], [1]), ([], [], [1]), (["a frog"], ["a frog"], []), (["a", "b"], ["a"], [1])]
)
def test_lists_that_do_not_fit_are_refused(tiny_scorer, plain, rewritten, seeds):
    with pytest.raises(PromptlabError, match=f"got {len(plain)}, {len(rewritten)}, {len(seeds)}"):
        tiny_scorer.score(plain, rewritten, seeds)


def test_an_empty_prompt_is_named(tiny_scorer):
    with pytest.raises(PromptlabError, match="' '"):
        tiny_scorer.score([" "], ["a frog"], [1])


def test_scoring_again_draws_and_embeds_nothing(tiny_scorer, monkeypatch):
    first = tiny_scorer.score(PLAIN, REWRITTEN, SEEDS)
    for owner, name in ((tiny_scorer.gallery.generator, "generate"), (tiny_scorer.clip, "embed_images"), (tiny_scorer.clip, "embed_texts")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("computed again"))
    again = tiny_scorer.score(PLAIN, REWRITTEN, SEEDS)
    assert all(torch.equal(getattr(first, f.name), getattr(again, f.name)) for f in dataclasses.fields(Scores))


# --- calibration ----------------------------------------------------------------------------------------------------


def rated(monkeypatch, scorer, **columns):
    """Let a scorer score two prompts with two pictures each as the columns say, whatever it is asked."""
    values = {k: torch.tensor(v) for k, v in columns.items()}
    s = Scores(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2] * 2), **values)
    monkeypatch.setattr(scorer, "score", lambda *a: s)
    return s


GAINING = {"aesthetic": [5.0, 6.0, 7.0, 6.0], "aesthetic_plain": [4.0] * 4, "relevance": [0.2, 0.3, 0.4, 0.3], "relevance_plain": [0.32, 0.34, 0.38, 0.4]}


def test_by_a_calibration_engineering_gains_and_loses_what_it_does_in_the_paper(tiny_scorer, monkeypatch):
    """Table 2 of Hao et al. 2022: 5.47 and .28 for plain words, 5.87 and .26 for engineered ones, with 20 for the slope."""
    s = rated(monkeypatch, tiny_scorer, **GAINING)
    found = calibrate(tiny_scorer, ["a frog", "a castle"], ["a frog, neon", "a castle, neon"], [1, 2])
    assert found.aesthetic_scale == pytest.approx((5.87 - 5.47) / np.mean([1, 2, 3, 2]), rel=1e-5)
    assert found.relevance_slope == pytest.approx(20 * (0.28 - 0.26) / np.mean([0.12, 0.04, -0.02, 0.1]), rel=1e-5)
    assert 0.34 <= found.relevance_threshold <= 0.38, "a median"
    free = dataclasses.replace(found, relevance_threshold=10.0)  # nothing is clamped
    before = dataclasses.replace(s, aesthetic=s.aesthetic_plain, relevance=s.relevance_plain)
    assert float(promptist_reward(s, free).mean() - promptist_reward(before, free).mean()) == pytest.approx(0.4 - 0.4, abs=1e-5)


@pytest.mark.parametrize("column, value", [("aesthetic", [3.0] * 4), ("relevance", [0.5] * 4)])
def test_what_gains_or_loses_nothing_is_no_yardstick(tiny_scorer, monkeypatch, column, value):
    rated(monkeypatch, tiny_scorer, **GAINING | {column: value})
    with pytest.raises(PromptlabError, match="no yardstick.*better engineered prompts"):
        calibrate(tiny_scorer, ["a frog", "a castle"], ["a frog, neon", "a castle, neon"], [1, 2])


def test_calibration_is_read_from_the_presets_file(tiny_preset, tmp_path):
    assert load_calibration(tiny_preset) == Calibration(30.0, 0.02, 2.0)
    good = {"relevance_slope": 1.0, "relevance_threshold": 2.0, "aesthetic_scale": 3.0}
    path = tmp_path / "calibration.json"
    other = dataclasses.replace(tiny_preset, calibration=str(path))
    for content in (None, "", "{", "[1, 2]", "{}", json.dumps(good | {"more": 1}), json.dumps({k: good[k] for k in list(good)[:2]})):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        with pytest.raises(PromptlabError, match=r"calibration\.json cannot be read.*python -m promptlab\.pocket"):
            load_calibration(other)
    path.write_text(json.dumps(good))
    assert load_calibration(other) == Calibration(1.0, 2.0, 3.0)


def test_without_a_file_the_papers_calibration_counts():
    assert dataclasses.astuple(load_calibration(COLAB)) == (20.0, 0.28, 1.0)


def test_a_world_without_a_calibration_yet_can_be_scored(tiny_preset, tiny_generator, tmp_path):
    scorer = rewards.Scorer(dataclasses.replace(tiny_preset, calibration="nowhere.json"), tmp_path, calibration=False)
    scorer.gallery.generator = tiny_generator
    assert len(scorer.score(["a frog"], ["a frog"], [1])) == 1


# --- words as they are drawn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["a\0frog", "  a\tfrog\r\n", "a\x1bfrog", "a\u2028frog", "a\udcfffrog"])
def test_relevance_reads_the_words_that_the_picture_was_drawn_from(tiny_scorer, typed):
    assert torch.equal(tiny_scorer.score([typed], ["a frog"], [5]).relevance, tiny_scorer.score(["a frog"], ["a frog"], [5]).relevance)


# --- pictures that a safety checker blacked out ---------------------------------------------------------------------


def hidden(values, black, pair, prompt=None):
    """Scores of some rows, and one value for each; some of the rows are blacked out."""
    s = scores([0.0] * len(values), [0.0] * len(values), [0.5] * len(values), pair)
    return torch.tensor(values), dataclasses.replace(
        s, blacked_out=torch.tensor(black), prompt=None if prompt is None else torch.tensor(prompt)
    )


def test_a_blacked_out_picture_is_in_no_mean():
    found = mean_per_pair(*hidden([1.0, 900.0, 3.0, 5.0], [False, True, False, False], [0, 0, 1, 1]))
    assert found.tolist() == [1.0, 4.0]
    found = mean_per_pair(*hidden([1.0, float("nan"), 3.0, 5.0], [False, True, False, False], [0, 0, 1, 1]))
    assert found.tolist() == [1.0, 4.0], "whatever it scored"


def test_a_pair_of_which_nothing_is_left_moves_no_mean():
    found = mean_per_pair(*hidden([1.0, 3.0, 900.0, 900.0, 8.0, 10.0], [False, False, True, True, False, False], [0, 0, 1, 1, 2, 2]))
    assert found.tolist() == [2.0, 5.5, 9.0] and found.mean() == 5.5


def test_it_counts_as_the_other_rewrites_of_its_prompt_where_there_are_some():
    """So that leave-one-out gives it no advantage, and its neighbours keep theirs."""
    black = [False, False, True, False]
    assert mean_per_pair(*hidden([1.0, 3.0, 900.0, 40.0], black, [0, 1, 2, 3], [0, 0, 0, 1])).tolist() == [1.0, 3.0, 2.0, 40.0]


def test_where_no_picture_is_left_it_says_so():
    with pytest.raises(PromptlabError, match="blacked out a picture in each of 2 rows.*SAFETY"):
        mean_per_pair(*hidden([1.0, 2.0], [True, True], [0, 1]))


@pytest.fixture
def prudish(tiny_scorer):
    """A scorer whose generator blacks out every castle, and dogs of odd seeds."""
    generate = tiny_scorer.gallery.generator.generate
    shown = lambda p, s: not ("castle" in p or ("dog" in p and s % 2))  # noqa: E731

    def draw(prompts, seeds):
        return generate(prompts, seeds) * np.array([shown(p, s) for p, s in zip(prompts, seeds, strict=True)], np.uint8)[:, None, None, None]

    tiny_scorer.gallery.generator = types.SimpleNamespace(
        generate=draw, key=tiny_scorer.gallery.generator.key, batch=4, blacked_out=lambda images: ~images.reshape(len(images), -1).any(1)
    )
    return tiny_scorer


def test_rows_are_marked_left_out_and_counted(prudish, capsys):
    plain, rewritten = ["a frog", "a castle", "a fox"], ["a dog", "a castle, neon", "a fox, neon"]
    s = prudish.score(plain, rewritten, [2, 3])
    said = "blacked out pictures in 3 of 6 rows: no mean counts them. Of 1 of 3 pairs nothing is left"
    assert s.blacked_out.tolist() == [False, True, True, True, False, False] and said in capsys.readouterr().out
    assert s.prompt.tolist() == [0, 0, 1, 1, 2, 2]
    values = promptist_reward(s, prudish.calibration)
    found = prudish.rewards(plain, rewritten, [2, 3])
    assert found[0] == values[0] and found[2] == values[4:].mean() and found[1] == found[[0, 2]].mean()
    assert said in capsys.readouterr().out, "also where all is recalled"
    prudish.score(["a frog"], ["a fox"], [2])
    assert capsys.readouterr().out == ""


def test_training_leaves_them_out_of_every_metric_and_counts_them(prudish):
    from promptlab.pictures.sheets import ContactSheet
    from promptlab.ppo import PictureReward

    reward = PictureReward(prudish)
    assert torch.isfinite(reward(["a frog", "a castle"], ["a dog", "a castle, neon"], [2, 3])).all()
    sheet = ContactSheet(prudish, ["a frog"], ["a dog"], [2], progress=False)
    assert reward.last["blacked_out"] == 3
    assert reward.last["gold"] == pytest.approx(sheet.gold.item()) and reward.last["relevance"] == pytest.approx(sheet.scores.relevance.item())
    reward(["a frog"], ["a fox"], [2])
    assert "blacked_out" not in reward.last


def test_an_evaluation_leaves_them_out(prudish):
    from promptlab import evaluation

    records = [{"x": x, "set": "in_domain", "kind": "MC"} for x in ("a frog", "a castle", "a fox")]
    found = evaluation.measure(prudish, records, ["a dog", "a castle, neon", "a fox"], (2, 3))
    alone = evaluation.measure(prudish, records[:1], ["a dog"], (2,))
    for metric in ("reward", "aesthetic", "relevance", "gold", "intent"):
        assert found[metric][0] == pytest.approx(alone[metric][0], abs=1e-4)
        assert found[metric].mean() == pytest.approx(found[metric][[0, 2]].mean(), abs=1e-4)


def test_a_calibration_leaves_them_out(tiny_scorer, monkeypatch):
    words = ["a frog", "a castle"], ["a frog, neon", "a castle, neon"], [1, 2]
    s = rated(monkeypatch, tiny_scorer, **GAINING)
    expected = calibrate(tiny_scorer, *words)
    spoilt = {k: torch.cat([getattr(s, k), torch.tensor([99.0, -99.0])]) for k in GAINING}
    worse = Scores(torch.arange(6), torch.ones(6), **spoilt, blacked_out=torch.tensor([False] * 4 + [True] * 2))
    monkeypatch.setattr(tiny_scorer, "score", lambda *a: worse)
    assert dataclasses.astuple(calibrate(tiny_scorer, *words)) == pytest.approx(dataclasses.astuple(expected))
    monkeypatch.setattr(tiny_scorer, "score", lambda *a: dataclasses.replace(worse, blacked_out=torch.ones(6, dtype=torch.bool)))
    with pytest.raises(PromptlabError, match="in every row of 2 prompts"):
        calibrate(tiny_scorer, *words)


def test_a_table_leaves_them_out(prudish):
    from promptlab.lab.plots import mean_scores

    assert mean_scores(prudish, "a frog", "a dog", [2, 3]) == pytest.approx(mean_scores(prudish, "a frog", "a dog", [2]), abs=1e-4)
    assert all(math.isnan(v) for v in mean_scores(prudish, "a frog", "a castle", [2]).values())
