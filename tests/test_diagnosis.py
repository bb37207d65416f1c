"""What a PPO run's metrics say: runs that are trained with one fault each, a healthy one, and every limit by rows made by hand."""

import copy
import dataclasses
import json
import random

import pytest
import torch
from scipy.stats import ttest_ind
from tiny_policy import tiny_policy

from promptlab import ppo
from promptlab.diagnosis import explain, rise, signs
from promptlab.policy import log_probs
from promptlab.runtime import PromptlabError, data_dir, read_jsonl

WORDS = ["frog", "castle", "red", "blue", "oil", "vivid"]
POOL = ["a frog", "a red castle", "blue frog", "castle", "red frog"]
FAST = ppo.Settings(prompts=5, samples=8, new_tokens=16, epochs=2, minibatch=40, lr=2e-3, decay=0, value_clip=1.0, kl=0.1, lora=0)


# --- runs, really trained -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine_tuned():
    """A tiny policy that has learnt to write three to six words by chance, and to end."""
    policy, rng = tiny_policy(), random.Random(0)
    optimiser = torch.optim.Adam(policy.model.parameters(), 3e-3)
    for _ in range(120):
        x = [rng.choice(POOL) for _ in range(64)]
        rows = policy.encode_rewrites(x, [" ".join(rng.choices(WORDS, k=rng.randint(3, 6))) for _ in x])
        log_p, _ = log_probs(policy.model, rows)
        optimiser.zero_grad(), (-(log_p * rows.mask).sum() / rows.mask.sum()).backward(), optimiser.step()
    return policy


def numbers(score):
    return lambda plain, written, seeds: torch.tensor([float(score(x, y.split())) for x, y in zip(plain, written, strict=True)])


suits = numbers(lambda x, y: y[:1] == (["blue"] if "frog" in x else ["red"]))
same = numbers(lambda x, y: 1)
long = numbers(lambda x, y: len(y) / 2)


class Gamed:
    """Pays for every "vivid"; a referee likes one and is annoyed by the third."""

    def __call__(self, plain, written, seeds):
        count = [y.split().count("vivid") for y in written]
        self.last = {"gold": sum(5 + min(n, 1) - max(n - 2, 0) for n in count) / len(count)}
        return torch.tensor(count)


def trained(policy, reward, updates=30, **changes):
    run = ppo.PPO(copy.deepcopy(policy), dataclasses.replace(FAST, **changes))
    return [run.update(POOL, reward) for _ in range(updates)]


def test_a_healthy_run_gives_none_and_a_line_for_each_sign(fine_tuned, tmp_path, capsys):
    history = ppo.train(copy.deepcopy(fine_tuned), POOL, suits, tmp_path, 30, FAST, quiet=True)
    assert explain(history) == [] == explain(read_jsonl(tmp_path / "metrics.jsonl"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "30 updates. Nothing looks wrong." and len(lines) == 2 * (2 + len(signs(history))) and max(map(len, lines)) < 100


BROKEN = {  # what is wrong with the run: its first sign, what else must be off, and the knob that turns it
    "steps fifty times too long": ({"lr": 0.1}, suits, "clipped share", {"KL", "KL price", "entropy"}, "lower lr"),
    "no step at all": ({"lr": 0.0}, suits, "clipped share", {"KL", "reward", "value head"}, "raise lr"),
    "no leash, and a reward to be gamed": ({"kl": 0.0}, Gamed(), "KL", {"gold", "entropy"}, "raise kl (now 0)"),
    "leash too short": ({"kl": 5.0}, suits, "KL price", {"reward"}, "lower kl (now 5)"),
    "a reward that is always the same": ({}, same, "rewards", set(), "call the reward"),
    "the same, and nothing compared": ({"compared": False}, same, "rewards", set(), "call the reward"),
    "a reward for length": ({"kl": 0.02}, long, "length", {"unfinished"}, "pay for length"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_run_is_diagnosed(fine_tuned, fault, capsys):
    changes, reward, first, others, knob = BROKEN[fault]
    off = explain(trained(fine_tuned, reward, **changes))
    names = [s.name for s in off]
    assert names[0] == first and others <= set(names) and ("gold" in names) == isinstance(reward, Gamed), names
    assert knob in off[0].knob
    if not others:
        assert len(off) == 1, "whatever else is odd follows from it"
    marked = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
    assert len(marked) == len(off) and all(s.problem in line and s.knob in line for s, line in zip(off, marked, strict=True))


def test_a_frozen_value_head_is_diagnosed(fine_tuned, monkeypatch):
    monkeypatch.setattr(ppo.ValueHead, "forward", lambda self, states: torch.zeros(states.shape[:2]))
    assert [s.name for s in explain(trained(fine_tuned, suits))] == ["value head"]


def test_dropout_left_on_is_diagnosed(fine_tuned):
    run = ppo.PPO(copy.deepcopy(fine_tuned), FAST)
    run.policy.model.train()
    assert explain([run.update(POOL, suits) for _ in range(3)])[0].name == "first ratio"


@pytest.mark.weights
def test_the_shipped_run_is_healthy():
    assert explain(read_jsonl(data_dir() / "pocket" / "ppo" / "metrics.jsonl")) == []


# --- every limit, by rows made by hand ------------------------------------------------------------------------------


def rows(n=12, **curves):
    """The metrics of a healthy run with some of them replaced: by a number, or by a function of how far the run is, from 0 to 1."""
    healthy = {
        "reward": lambda t: t, "kl": 4.0, "kl_per_token": 0.3, "kl_coefficient": 0.1, "entropy": lambda t: 1 - 0.3 * t, "length": 16.0,
        "unfinished": 0.0, "first_ratio": 1.0, "value_loss": 0.5, "clip_fraction": 0.03, "explained": 0.2, "gold": lambda t: 4 + t,
    }  # fmt: skip
    value = lambda curve, t: curve(t) if callable(curve) else curve  # noqa: E731
    return [{"update": i} | {k: value(c, i / max(1, n - 1)) for k, c in (healthy | curves).items()} for i in range(n)]


def ends_at(value):
    """A curve that is what it should be at first, 1, and ends at a value."""
    return lambda t: 1.0 if t < 0.5 else value


@pytest.mark.parametrize(
    "curves, name, knob",
    [
        ({"first_ratio": 1.02}, "first ratio", "a bug"),
        ({"first_ratio": lambda t: 1 - 0.002 * (t == 0.0)}, "first ratio", "a bug"),
        ({"value_loss": 0.0, "reward": lambda t: t}, "rewards", "call the reward"),
        ({"clip_fraction": lambda t: 0.35 if t == 0 else 0.01}, "clipped share", "lower lr"),
        ({"clip_fraction": 0.0001}, "clipped share", "raise lr"),
        ({"kl": 30.0}, "KL price", "lower kl (now 0.1)"),
        ({"kl_per_token": 1.1}, "KL", "raise kl (now 0.1)"),
        ({"kl_per_token": 0.002, "kl": 0.02}, "KL", "lower kl (now 0.1)"),
        ({"explained": lambda t: 0.001 if t else 0.9}, "value head", "raise value_clip"),
        ({"explained": -0.5}, "value head", "raise value_clip"),
        ({"reward": lambda t: (37 * t) % 1, "kl": 1.0}, "reward", "other signs"),
        ({"reward": lambda t: 5 - t, "kl": 1.0, "gold": 4.0}, "reward", "other signs"),
        ({"entropy": ends_at(0.3)}, "entropy", "raise kl"),
        ({"length": lambda t: 16 + 12 * t}, "length", "pay for length"),
        ({"length": lambda t: 16 - 8 * t}, "length", "pay for brevity"),
        ({"unfinished": lambda t: 0.15 * t}, "unfinished", "pay for length"),
        ({"unfinished": 0.15}, "unfinished", "raise new_tokens"),
        ({"gold": lambda t: 4 - t}, "gold", "repair"),
        ({"gold": lambda t: 4 + 4 * t * (1 - t)}, "gold", "repair"),
    ],
)
def test_each_limit(curves, name, knob):
    assert [(s.name, knob in s.knob) for s in explain(rows(**curves))] == [(name, True)]


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"first_ratio": 1 + 1e-5},
        {"clip_fraction": lambda t: 0.2 * (1 - t) + 0.0001},
        {"kl": 7.0},
        {"entropy": ends_at(0.4)},
        {"length": lambda t: 16 + 6 * t},
        {"unfinished": 0.08},
        {"explained": lambda t: -9.0 if round(12 * t) % 3 else 0.05},
        {"reward": lambda t: min(1.0, 6 * t), "kl": 1.0},
        {"gold": lambda t: 4 + min(t, 0.5)},
    ],
)
def test_what_lies_within_the_limits_is_no_sign(curves):
    assert explain(rows(**curves)) == []


def test_a_rise_that_is_soon_over_is_a_rise():
    assert explain(rows(30, reward=lambda t: min(1, 12 * t), kl=1.0)) == []


@pytest.mark.parametrize("problem, curve", [("falls", lambda t: 5 - t), ("flat", lambda t: (37 * t) % 1)])
def test_flat_is_not_falling(problem, curve):
    assert [s.problem for s in explain(rows(reward=curve, kl=1.0, gold=4.0))] == [problem]


def test_who_strays_without_gaining_needs_shorter_steps_and_no_shorter_leash():
    assert [(s.name, s.knob[:8]) for s in explain(rows(kl=40.0, kl_per_token=2.0))] == [("KL price", "lower kl"), ("KL", "lower lr")]


def test_a_rating_that_falls_with_the_reward_is_not_gamed():
    assert [s.name for s in explain(rows(reward=lambda t: 5 - t, gold=lambda t: 5 - t, kl=1.0))] == ["reward"]


@pytest.mark.parametrize("n", [1, 2, 3, 11])
def test_a_short_run_is_not_judged_by_its_trends(n):
    off = explain(rows(n, reward=lambda t: 1 - t, gold=lambda t: 4 - t, explained=0.0, kl=99.0, kl_per_token=0.0, clip_fraction=0.5))
    assert [s.name for s in off] == ["clipped share"]


def test_metrics_without_a_referee_or_of_an_earlier_version_are_read():
    few = [{k: v for k, v in r.items() if k not in ("gold", "explained")} for r in rows()]
    assert explain(few) == [] and sum(s.seen == "not among these metrics" for s in signs(few)) == 2


def test_trends_are_seldom_seen_in_noise():
    """Simulated: gold without any trend, a reward that rises or that stays, in units of their noise."""
    rng, gamed, flat, unseen = random.Random(0), 0, 0, 0
    for _ in range(300):
        noise = lambda t: rng.gauss(4, 1)  # noqa: E731
        gamed += any(s.name == "gold" for s in signs(rows(24, reward=lambda t: 3 * t + rng.gauss(0, 1), gold=noise)) if s.problem)
        flat += any(s.name == "reward" for s in signs(rows(24, reward=lambda t: 3 * t + rng.gauss(0, 1))) if s.problem)
        unseen += not any(s.name == "reward" for s in signs(rows(24, reward=noise)) if s.problem)
    assert gamed < 0.03 * 300 and flat < 0.05 * 300 and unseen < 0.15 * 300, (gamed, flat, unseen)


def test_a_rise_is_counted_in_standard_errors():
    before, after = [1.0, 2.0, 0.5, 3.0], [4.0, 2.5, 5.0, 3.5, 4.5]
    assert rise(before, after) == pytest.approx(ttest_ind(after, before, equal_var=False).statistic)
    assert rise([1.0, 1.0, 1.0], after) == pytest.approx(2.9 / (0.925 * (1 / 3 + 1 / 5)) ** 0.5), "three numbers alike are luck"
    assert rise([1.0] * 4, [2.0] * 4) > 1e6


@pytest.mark.parametrize("bad", [[], {}, None, "metrics.jsonl", [3], [{"loss": 1.0}], [*rows(3), {"update": 3}]], ids=str)
def test_what_is_no_run_is_named(bad):
    with pytest.raises(PromptlabError, match="not the metrics of a PPO run.*ppo.train"):
        explain(bad)


def test_signs_can_be_kept_as_json():
    assert json.loads(json.dumps([s._asdict() for s in signs(rows())]))[0]["name"] == "first ratio"
