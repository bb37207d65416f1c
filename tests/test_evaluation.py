"""Evaluation: per-prompt measures, paired intervals, baselines that spend what they may, diversity by hand."""

import json

import numpy as np
import pytest
import torch
from fakes import FakeGallery
from tiny_policy import tiny_policy

from promptlab import evaluation as ev
from promptlab.ppo import PPO
from promptlab.rewards import Calibration, Scores
from promptlab.runtime import PromptlabError

RECORDS = [
    {"x": "a blue frog", "set": "in_domain", "kind": "MC"},
    {"x": "a frog", "set": "in_domain", "kind": "RMC"},
    {"x": "a frog and an ant", "set": "out_of_domain", "kind": "pair"},
    {"x": "draw a fox", "set": "out_of_domain", "kind": "caption"},
]


class WordScorer:
    """Rewards the word `vivid`, punishes `neon`, and adds noise that depends on the seed alone; counts the pictures it draws."""

    calibration = Calibration(10.0, 0.0, 1.0)

    def __init__(self, noise=0.0):
        self.gallery, self.noise, self.pictures = FakeGallery(), noise, 0

    def score(self, plain, rewritten, seeds, progress=False):
        worth = [t.count("vivid") - t.count("neon") + self.noise * (seed % 7) for t in rewritten for seed in seeds]
        n, zero = len(worth), torch.zeros(len(worth))
        self.pictures += n
        return Scores(
            torch.arange(len(plain)).repeat_interleave(len(seeds)),
            torch.tensor(list(seeds) * len(plain)),
            torch.tensor(worth).float(),
            zero,
            torch.full((n,), 0.3),
            zero,
        )

    def rewards(self, plain, rewritten, seeds, progress=False):
        s = self.score(plain, rewritten, seeds)
        return s.aesthetic.view(len(plain), -1).mean(1)


def test_every_measure_by_hand():
    texts = ["a blue frog, vivid", "a frog, neon", "a frog and an ant", "fox"]
    got = ev.measure(WordScorer(), RECORDS, texts, seeds=(1, 2))
    assert list(got) == list(ev.METRICS)
    assert got["reward"].tolist() == [1, -1, 0, 0] == got["aesthetic"].tolist(), "relevance above its threshold earns nothing"
    np.testing.assert_allclose(got["relevance"], 0.3, atol=1e-6)
    assert got["gold"].tolist() == [6.5] * 4, "the mean over seeds"
    assert got["intent"].tolist() == [100, 100, 100, 0], "the judge of this test sees a blue frog and an ant, and no fox"
    assert got["length"].tolist() == [4, 3, 5, 1]


def test_intent_is_judged_on_what_was_typed_not_on_the_rewrite():
    record = [{"x": "a fox", "set": "in_domain", "kind": "MC"}]
    assert ev.measure(WordScorer(), record, ["a frog"], seeds=(1,))["intent"].tolist() == [0]
    with pytest.raises(PromptlabError, match="knows no subject in 'hello'"):
        ev.measure(WordScorer(), [{"x": "hello", "set": "in_domain", "kind": "MC"}], ["a frog"])


def test_seeds_of_training_selection_and_scoring_never_meet():
    ppo = PPO(tiny_policy())
    assert not set(ev.SCORING) & set(ev.SELECTING)
    assert min(ppo.image_seeds()) > max(*ev.SCORING, *ev.SELECTING)


def test_an_interval_covers_prompts_and_training_seeds():
    rng = np.random.default_rng(0)
    assert ev.interval(np.full((3, 10), 2.5)) == (2.5, 2.5, 2.5)
    same = np.tile(rng.standard_normal(200), (3, 1))
    mean, low, high = ev.interval(same)
    assert low < mean < high and high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.2)
    _, low2, high2 = ev.interval(same + np.array([[-1.0], [0.0], [1.0]]))
    assert high2 - low2 > 3 * (high - low), "training seeds that disagree widen it"
    assert ev.interval(same[0]) == ev.interval(same[:1])


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        _, low, high = ev.interval(rng.standard_normal((1, 60)) + 1, draws=300)
        hits += low < 1 < high
    assert 0.88 < hits / 200 < 0.99


def test_a_difference_of_differences_keeps_training_seeds_together_and_prompts_apart():
    rng = np.random.default_rng(0)
    run = np.array([[-3.0], [0.0], [3.0]])  # a lucky run is lucky in both sets
    outside, inside = run + 2 + rng.normal(0, 0.1, (3, 40)), run + 1 + rng.normal(0, 0.1, (3, 50))
    mean, low, high = ev.interval(outside, minus=inside)
    assert mean == pytest.approx(outside.mean() - inside.mean())
    assert 0.9 < low < mean < high < 1.1, "what a run gives to both sets cancels"
    noisy = ev.interval(rng.normal(0, 1, (1, 40)), minus=rng.normal(0, 1, (1, 40)))
    assert noisy[2] - noisy[1] == pytest.approx(2 * 1.96 * (2 / 40) ** 0.5, rel=0.25), "the noise of both sets enters"


def test_results_are_paired_and_complete():
    plain, better = ({m: np.arange(4.0) for m in ev.METRICS} for _ in range(2))
    runs = [{m: better[m] + gain for m in ev.METRICS} for gain in (1.0, 1.2)]
    got = ev.results({"plain": [plain], "sft": [plain], "ppo": runs}, RECORDS)
    record = next(r for r in got if (r["set"], r["method"], r["versus"], r["metric"]) == ("in_domain", "ppo", "plain", "reward"))
    assert (record["mean"], record["n"], record["seeds"], record["per_seed"]) == (1.1, 2, 2, [1.0, 1.2])
    assert 1.0 <= record["low"] <= 1.1 <= record["high"] <= 1.2, "pairing removes what prompts differ by"
    gap = next(r for r in got if (r["set"], r["method"], r["versus"], r["metric"]) == ("out minus in", "ppo", "plain", "reward"))
    assert (gap["mean"], gap["n"], gap["per_seed"]) == (0.0, 4, [0.0, 0.0])
    assert {r["set"] for r in got} == {
        "in_domain",
        "out_of_domain",
        "in_domain: MC",
        "in_domain: RMC",
        "out_of_domain: pair",
        "out_of_domain: caption",
        "out minus in",
    }
    assert {(r["method"], r["versus"]) for r in got} == {
        ("plain", None), ("plain", "sft"), ("sft", None), ("sft", "plain"), ("ppo", None), ("ppo", "plain"), ("ppo", "sft")
    }  # fmt: skip
    assert len({(r["set"], r["method"], r["versus"], r["metric"]) for r in got}) == len(got) == 7 * 7 * len(ev.METRICS)


def test_the_best_suffix_is_found_within_the_budget():
    scorer = WordScorer()
    candidates = [f"word{i}" for i in range(30)] + ["vivid vivid", "vivid", "neon"]
    assert ev.best_suffix(scorer, ["a frog", "a fox", "an ant"], candidates, budget=2000) == "vivid vivid"
    assert 1000 < scorer.pictures <= 2000
    assert ev.best_suffix(WordScorer(), ["a frog"], ["neon"], budget=1) == "neon"


def test_best_of_n_takes_the_rewrite_that_scores_best():
    policy = tiny_policy()
    prompts = ["a frog", "a red castle"]
    pool = policy.sample([p for p in prompts for _ in range(8)], seed=4).texts
    got = ev.best_of_n(policy, WordScorer(), prompts, n=8, seed=4)
    worth = lambda t: t.count("vivid")  # noqa: E731
    assert [worth(t) for t in got] == [max(map(worth, pool[:8])), max(map(worth, pool[8:]))] and got[0] in pool[:8]


def test_diversity_by_hand():
    got = ev.diversity(["a frog, vivid, oil", "a fox, oil, vivid", "an ant, neon"], np.eye(3))
    assert got["distinct_suffixes"] == pytest.approx(200 / 3), "the order of modifiers does not count"
    assert got["distinct_1"] == pytest.approx(8 / 11) and got["distinct_2"] == 1
    assert got["image_diversity"] == pytest.approx(1)
    assert ev.diversity(["a", "b"], np.ones((2, 1)))["image_diversity"] == pytest.approx(0)


def test_results_come_back_as_they_were_written(tmp_path):
    plain = {m: np.zeros(4) for m in ev.METRICS}
    records = ev.results({"plain": [plain], "ppo": [plain]}, RECORDS)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records))
    assert ev.load_results(path) == records
    one = ev.find(ev.load_results(path), set="in_domain", method="ppo", versus="plain", metric="gold")
    assert one["n"] == 2 and one["per_seed"] == [0.0]
    with pytest.raises(PromptlabError, match="0 records fit .*'moon'.*in_domain"):
        ev.find(records, set="moon")
    with pytest.raises(PromptlabError, match="2 records fit"):
        ev.find(records, set="in_domain", versus=None, metric="gold")


@pytest.mark.parametrize(
    "content, says",
    [(None, "FileNotFound"), ("[{", "JSONDecode"), ("[1]", "AttributeError"), ("[]", "no records"), ('[{"set": "a"}]', "high")],
)
def test_unreadable_results_are_named_with_the_way_to_repair_them(tmp_path, content, says):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PromptlabError, match=f"results.json .*{says}.*git checkout"):
        ev.load_results(path)
