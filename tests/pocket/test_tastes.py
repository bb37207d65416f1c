"""PPO for simulated readers: it goes where the taste pays, each reader's choices teach their own policy, and the intervals are a paired t's."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import FakeScorer
from scipy.stats import ttest_rel
from tiny_policy import tiny_policy

from promptlab import ppo
from promptlab.pocket import kept, tastes
from promptlab.pocket.readers import READERS
from promptlab.rewards import Calibration, Scores
from promptlab.runtime import PromptlabError

POOL = ["frog", "castle", "red frog", "blue castle"]


class WordScorer:
    """What a picture's embedding shows is how often its prompt says "a" and "oil"; relevance costs nothing."""

    gallery, calibration = SimpleNamespace(judge=None), Calibration(0.0, 0.0, 1.0)

    def __init__(self, rate):
        self.rate = rate

    def score(self, plain, rewritten, seeds, progress=False):
        looks = lambda texts: np.array([[t.split().count(w) / 4 for w in ("a", "oil")] for t in texts], np.float32)  # noqa: E731
        n = len(plain)
        same = torch.ones(n)
        return Scores(torch.arange(n), torch.tensor(list(seeds) * n), self.rate(looks(rewritten)), self.rate(looks(plain)), same, same)


def test_ppo_goes_where_the_taste_pays_and_leaves_start_and_scorer_alone(monkeypatch):
    small = ppo.Settings(prompts=2, samples=4, images=1, new_tokens=4, epochs=2, minibatch=8, lr=2e-3, kl=0.02, value_clip=1.0, decay=0)
    monkeypatch.setattr(tastes, "SETTINGS", small)
    start, head = tiny_policy(), lambda looks: torch.zeros(len(looks))
    scorer, before = WordScorer(head), [p.clone() for p in start.model.parameters()]
    likes = {"a": lambda looks: torch.from_numpy(looks[:, 0]), "oil": lambda looks: torch.from_numpy(looks[:, 1])}
    policies = {"nothing": start} | {word: tastes.trained(start, scorer, rate, POOL) for word, rate in likes.items()}
    says = {n: " ".join(p.sample(POOL * 50, seed=5, new_tokens=4).texts).split() for n, p in policies.items()}
    for word, other in (("a", "oil"), ("oil", "a")):
        assert says[word].count(word) > 1.1 * max(says["nothing"].count(word), says[other].count(word)), word
    assert scorer.rate is head and all(torch.equal(a, b) for a, b in zip(before, start.model.parameters(), strict=True))
    twice, again = (tastes.trained(start, scorer, likes["a"], POOL, seed) for seed in (0, 1))
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))  # noqa: E731
    assert same(twice, policies["a"]) and not same(again, policies["a"]), "the seed decides"


def test_every_reader_teaches_a_policy_of_their_own_and_a_stopped_run_goes_on(monkeypatch, tmp_path):
    calls, budget = [], itertools.count()

    def train(start, scorer, rate, pool, seed, desc):
        if next(budget) == 2:
            pytest.fail("killed")
        calls.append((rate, seed))
        return start

    count = lambda name: list(READERS).index(name)  # noqa: E731
    monkeypatch.setattr(tastes, "trained", train)
    monkeypatch.setattr(tastes, "likings", lambda facts, images: {n: np.arange(len(facts)) + 10.0 * count(n) for n in READERS})
    scorer, start = FakeScorer(), SimpleNamespace(rewrite=lambda x: [f"{p}, oil" for p in x])
    scorer.rate = "head"
    shown = SimpleNamespace(taste=lambda name, number, part, see: (name, number, part, see), see="words")
    records, file = [{"x": "a blue frog"}, {"x": "a frog"}], tmp_path / "rows.json"
    ask = lambda: tastes.compare(scorer, start, shown, POOL, records, file, seeds=(0, 1))  # noqa: E731
    with pytest.raises(pytest.fail.Exception):
        ask()
    half = json.loads(file.read_text())
    rows = ask()
    assert calls == [(rate, seed) for seed in (0, 1) for rate in ("head", *((n, c, seed, "words") for c in (30, 120) for n in READERS))]
    every = [(w, c, s) for s in (0, 1) for c in (0, 30, 120) for w in (READERS if c else ("head",))]
    assert rows[: len(half)] == half == rows[:4] and rows == json.loads(file.read_text())
    assert [(r["writer"], r["choices"], r["seed"]) for r in rows] == [("plain", 0, 0), ("SFT", 0, 0), *every]
    assert rows[0]["liked"]["flat"] == [10.5, 12.5], "two pictures of each prompt"
    assert tastes.load(file) == rows and ask() == rows and len(calls) == 14


def test_a_gain_is_paired_by_prompt_and_by_seed(monkeypatch):
    monkeypatch.setattr(tastes, "PROMPTS", 6)
    monkeypatch.setattr(tastes, "families_of", lambda records: list(range(len(records))))
    draw = np.random.default_rng(0)

    def row(writer, seed, values, choices=0):
        return {"writer": writer, "choices": choices, "seed": seed, "liked": {"night": list(values)}}

    base, ours = draw.normal(size=12), draw.normal(1, 1, size=12)
    rows = [row("SFT", 0, base), row("night", 0, ours, 30), row("night", 0, base + 5, 120)]
    told, found = ttest_rel(ours, base), tastes.gain(rows, "night", "night", "SFT")
    assert found == pytest.approx(((ours - base).mean(), *told.confidence_interval(0.95)))
    assert tastes.gain(rows, "night", "night", "SFT", 120) == pytest.approx((5, 5, 5)), "so many choices are another writer"
    rows = [row(w, s, base + 10 * s + up) for s in (0, 1) for w, up in (("head", 0), ("night", 2))] + [row("SFT", 0, base)]
    assert tastes.gain(rows, "night", "night", "head") == pytest.approx((2, 2, 2)), "what both trainings of a seed share cancels"
    mean, low, high = tastes.gain(rows, "night", "night", "SFT")
    assert mean == pytest.approx(7) and low < -20 < 30 < high, "two trainings as far apart as that say little"
    with pytest.raises(PromptlabError, match="no row of 'paper'.*Choose from: head, night, SFT"):
        tastes.gain(rows, "night", "night", "paper")


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "tastes.json"
    uneven = [{"writer": "SFT", "choices": 0, "seed": 0, "liked": dict.fromkeys(READERS, [1.0] * n)} for n in (2, 3)]
    for text in (None, "{", "[]", '[{"writer": "SFT"}]', json.dumps(uneven)):
        if text:
            file.write_text(text)
        with pytest.raises(PromptlabError, match="cannot be read.*pocket tastes"):
            tastes.load(file)


def test_the_kept_run_is_about_the_prompts_it_says_and_of_the_lessons_size():
    rows, records = tastes.load(), kept.of_each_set(tastes.PROMPTS)
    assert {len(r["liked"][name]) for r in rows for name in READERS} == {len(records)}
    seeds = {
        (r["writer"], r["choices"]): sorted(s["seed"] for s in rows if (s["writer"], s["choices"]) == (r["writer"], r["choices"]))
        for r in rows
    }
    for writer in (("head", 0), *((n, c) for c in tastes.CHOICES for n in READERS)):
        assert seeds[writer] == list(tastes.SEEDS), writer
