"""The learners beside PPO: each climbs a small reward, what they draw and rank is counted by hand, and a comparison goes on where it stopped."""

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t
from tiny_policy import WORDS, tiny_policy

from promptlab import ppo
from promptlab.pocket import learners, peers
from promptlab.policy import Rewrites, load_policy, log_probs
from promptlab.runtime import PromptlabError

POOL = ["frog", "castle", "red frog", "blue castle"]
SMALL = ppo.Settings(prompts=2, samples=4, images=1, new_tokens=4, epochs=2, minibatch=8, lr=2e-3, kl=0.02, value_clip=1.0, decay=0)


@pytest.fixture
def small(monkeypatch):
    """Groups of four and rewrites of four tokens."""
    for module in (peers, learners):
        monkeypatch.setattr(module, "SETTINGS", SMALL)
    monkeypatch.setattr(peers, "PAIRS", 1)
    monkeypatch.setattr(peers, "DPO_LR", SMALL.lr)
    monkeypatch.setattr(ppo, "Settings", lambda: SMALL)  # of those that explore


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny policy that lies in a folder, as TRL reads its reference from there."""
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    tiny_policy().save(folder)
    return folder


def paid(plain, written, seeds):
    """What the learners below are paid for: the share of words that are "a"."""
    return torch.tensor([text.split().count("a") / 4 for text in written])


@pytest.mark.parametrize("name", learners.LEARNERS)
def test_every_learner_earns_more_and_leaves_its_start_alone(small, saved, name, capfd):
    start, seen = load_policy(saved), {}
    before, batches = copy.deepcopy(start.model.state_dict()), []

    def reward(plain, written, seeds):
        batches.append((list(plain), list(seeds)))
        return paid(plain, written, seeds)

    learners.LEARNERS[name](start, POOL, reward, 0, (4, 8), lambda updates, policy: seen.update({updates: earns(policy)}))
    assert list(seen) == [4, 8] and seen[8] > earns(start) + 0.1, (earns(start), seen)
    assert batches == [peers.asked(POOL, 0, update) for update in range(8)], "every learner is asked for the same, and draws as much"
    assert all(torch.equal(before[key], value) for key, value in start.model.state_dict().items())
    printed = "".join(capfd.readouterr())
    assert not printed.strip(), f"tables, bars and warnings of libraries stay away: {printed[:300]}"


def earns(policy):
    return paid(None, policy.sample(POOL * 50, seed=5, new_tokens=4).texts, None).mean().item()


def test_all_are_asked_for_what_ppo_is_asked_for(small):
    for seed, update in ((0, 0), (2, 5)):
        run, seen = ppo.PPO(tiny_policy(), replace(SMALL, seed=seed)), []
        run.done = update
        run.rollout(POOL, lambda *asked, seen=seen: seen.append(asked) or torch.zeros(len(asked[0])))
        plain, _, seeds = seen[0]
        assert peers.asked(POOL, seed, update) == (plain, seeds)
        gathered = peers.gather(tiny_policy(), POOL, paid, seed, [update])
        assert gathered[0][1].texts == seen[0][1], "and those that draw as PPO does write the same with the same policy"


def test_pairs_are_ranked_within_a_group_and_never_tie(small, monkeypatch):
    monkeypatch.setattr(peers, "PAIRS", 2)
    texts, scores = list("abcdefgh"), torch.tensor([1.0, 4, 2, 3, 5, 5, 5, 0])
    rewrites = Rewrites(None, None, 0, texts, None)
    got = peers.ranked_pairs([(["x"] * 4 + ["y"] * 4, rewrites, scores)])
    assert got == [("x", "b", "a"), ("x", "d", "c"), ("y", "e", "h")], "the second pair of y earns the same: nothing to prefer"


def test_expert_iteration_imitates_the_best_of_each_group(small, monkeypatch):
    policy, imitated, drawn = tiny_policy(), [], []
    monkeypatch.setattr(peers, "imitate", lambda policy, pairs, seed: imitated.extend(pairs))

    def reward(plain, written, seeds):
        earned = torch.rand(len(plain), generator=torch.Generator().manual_seed(seeds[0]))
        drawn.extend(zip(plain, written, earned.tolist(), strict=True))
        return earned

    peers.expert_iteration(policy, POOL, reward, 0, (2,), lambda *_: None)
    groups = [drawn[i : i + SMALL.samples] for i in range(0, len(drawn), SMALL.samples)]
    assert imitated == [max(group, key=lambda row: row[2])[:2] for group in groups] and len(imitated) == 4


def test_imitation_lowers_the_loss_of_what_is_imitated(small):
    policy = tiny_policy()
    loss = lambda: -sum(policy.likelihoods(policy.encode_rewrites(["frog"], [" vivid oil"])))  # noqa: E731
    before = loss()
    peers.imitate(policy, [("frog", "vivid oil")] * 4)
    assert loss() < before - 0.5


def test_the_typed_prompt_takes_the_first_place_of_a_group_and_moves_no_other(small):
    policy, prompts = tiny_policy(), ["blue castle red frog"] * 4 + ["frog"] * 4
    plain = policy.sample(prompts, seed=3, new_tokens=3)
    kept = peers.with_typed(policy, plain, prompts)
    ours, theirs = log_probs(policy.model, kept)[0] * kept.mask, log_probs(policy.model, plain)[0] * plain.mask
    alone = policy.encode_rewrites(["blue castle red frog", "frog"], [" blue castle red frog", " frog"])
    exact = (log_probs(policy.model, alone)[0] * alone.mask).sum(1)
    torch.testing.assert_close(ours.sum(1)[[0, 4]], exact)  # scored as the model scores these very words
    others = [1, 2, 3, 5, 6, 7]
    torch.testing.assert_close(ours.sum(1)[others], theirs.sum(1)[others])
    assert [kept.texts[i] for i in others] == [plain.texts[i] for i in others] and kept.texts[0] == prompts[0] and kept.texts[4] == "frog"
    retaining = peers.Retaining(policy.model, policy.tokenizer)
    assert retaining.rewrite(POOL) == policy.rewrite(POOL) != POOL, "a greedy rewrite is the policy's own"


def test_divergence_is_the_sum_over_all_rewrites(small, monkeypatch):
    """All 121 rewrites of two tokens, weighed by their probability, against the estimate from many sampled ones."""
    settings = replace(SMALL, new_tokens=2)
    monkeypatch.setattr(learners, "SETTINGS", settings)
    policy, other = tiny_policy(0), tiny_policy(1)
    tokens, start = range(len(WORDS) + 2), policy.encode(["frog"], 40)[0][0].tolist()
    logs = lambda model, ids: model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)  # noqa: E731
    exact = 0.0
    with torch.no_grad():
        first, first_other = logs(policy.model, start), logs(other.model, start)
        for i in tokens:
            here = (first[i] - first_other[i]).item()
            if i != policy.end:
                second, second_other = logs(policy.model, [*start, i]), logs(other.model, [*start, i])
                here += (second.exp() * (second - second_other)).sum().item()
            exact += first[i].exp().item() * here
    found = learners.divergence(policy, other, ["frog"] * 2000)
    assert abs(found.mean() - exact) < 4 * found.std() / 2000**0.5 + 1e-4 and found.std() > 0
    assert np.abs(learners.divergence(policy, policy, ["frog"] * 4)).max() < 1e-6


def test_best_of_n_takes_the_best_of_the_first_n():
    class Scorer:
        def rewards(self, plain, written, seeds, progress):
            assert len(seeds) == 1, "one picture chooses, so that n pictures are drawn for a prompt"
            self.table = torch.rand(len(plain), generator=torch.Generator().manual_seed(1))
            self.written = written
            return self.table

    scorer = Scorer()
    found = learners.best_of(tiny_policy(), scorer, ["frog", "castle"], seed=0, most=6)
    assert list(found) == [2, 4, 6]
    for n, texts in found.items():
        assert texts == [scorer.written[6 * i + max(range(n), key=lambda k: scorer.table[6 * i + k])] for i in range(2)]


def test_the_bound_of_best_of_n_holds_for_distinct_rewrites():
    """KL of the best of n draws from k equally likely rewrites with distinct rewards, by enumeration: below the bound, and near it for many."""
    for n in (2, 8):
        for k, near in ((4, 3.0), (400, 0.02)):
            rank = np.arange(1, k + 1)
            p = (rank / k) ** n - ((rank - 1) / k) ** n  # the best is at most this rank
            exact = float((p * np.log(p * k)).sum())
            assert exact <= learners.bound(n) + 1e-9 and learners.bound(n) - exact < near


RECORDS = [{"x": "frog", "set": "in_domain"}, {"x": "castle", "set": "out_of_domain"}, {"x": "red frog", "set": "out_of_domain"}]


@pytest.fixture
def race(small, monkeypatch):
    """A comparison of two learners that learn nothing, in a world that costs nothing."""
    values = lambda scorer, records, texts, looks: {m: np.arange(3.0) for m in ("reward", "gold", "intent")}  # noqa: E731
    calls = []

    def idle(start, pool, reward, seed, points, watch):
        for point in points:
            calls.append((seed, point))
            watch(point, start)

    monkeypatch.setattr(learners, "measure", values)
    monkeypatch.setattr(learners, "PictureReward", lambda scorer: paid)
    monkeypatch.setattr(learners, "best_of", lambda policy, scorer, plain, seed, most: {n: plain for n in (2, 4, 6, 8)})
    monkeypatch.setattr(learners, "LEARNERS", {"one": idle, "two without SFT": idle})
    return calls


def test_a_comparison_goes_on_where_it_stopped(race, tmp_path, monkeypatch):
    kept = tmp_path / "rows.json"
    ask = lambda: learners.compare(None, tiny_policy(0), tiny_policy(1), POOL, RECORDS, kept, seeds=(0, 1), points=(1, 2))  # noqa: E731
    keep, budget = learners.rows_of, itertools.count()
    monkeypatch.setattr(learners, "rows_of", lambda *a, **k: keep(*a, **k) if next(budget) < 8 else pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        ask()
    half = json.loads(kept.read_text())
    monkeypatch.setattr(learners, "rows_of", keep)
    race.clear()
    rows = ask()
    assert rows[: len(half)] == half == rows[:16] and rows == json.loads(kept.read_text())
    assert race[0] == (0, 1) and (0, 1) not in race[2:], "the learner that was cut short starts anew, a finished one does not"
    keys = [(r["learner"], r["seed"], r["pictures"], r["set"]) for r in rows]
    assert len(set(keys)) == len(keys) == 2 * (2 + 2 * (4 + 2 * 2)), "two starts; four sizes of best of n, two learners twice"
    assert all(r.keys() >= learners.FIELDS for r in rows)
    out = next(r for r in rows if r["set"] == "out_of_domain")
    assert out["reward"] == 1.5 and out["n"] == 2
    race.clear()
    assert ask() == rows and not race
    start = [r for r in rows if r["pictures"] == 0]
    assert [r["kl"] > 0.01 for r in start] == [False, False, True, True], "the policy without SFT is far from the one with it"


def test_the_summary_is_a_t_interval_over_seeds():
    rows = [
        {"learner": "a", "seed": s, "pictures": p, "set": name, "n": n, "reward": s + p + n}
        for s, p, (name, n) in itertools.product((0, 1, 4), (5, 9), (("in", 1), ("out", 3)))
    ]
    runs = np.array([0, 1, 4]) + 9 + (1 * 1 + 3 * 3) / 4
    mean, low, high = learners.summary(rows, "a", "reward")
    expected = t.interval(0.95, 2, loc=runs.mean(), scale=runs.std(ddof=1) / 3**0.5)
    assert (mean, low, high) == pytest.approx((runs.mean(), *expected))
    mean, *ends = learners.summary(rows[:4], "a", "reward", 5)
    assert mean == pytest.approx(7.5) and np.isnan(ends).all(), "one seed has no interval"
    with pytest.raises(PromptlabError, match="no row of 'b'.*Choose one of: a"):
        learners.summary(rows, "b", "reward")


def test_a_difference_is_paired_by_seed_and_judged_by_its_interval():
    def row(learner, seed, value, pictures=9):
        return {"learner": learner, "seed": seed, "pictures": pictures, "set": "in", "n": 2, "intent": value}

    rows = [row("a", s, v) for s, v in enumerate((50, 70, 92))] + [row("b", s, v) for s, v in enumerate((40, 61, 80))]
    rows += [row("b", 0, 0, pictures=5), row("b", 3, 1000)]
    runs = np.array([10.0, 9, 12])
    low, high = t.interval(0.95, 2, loc=runs.mean(), scale=runs.std(ddof=1) / 3**0.5)
    found = learners.summary(rows, "a", "intent", versus="b")
    assert found == pytest.approx((runs.mean(), low, high)), "seed 3 of b has no partner, and its earlier point does not count"
    assert learners.verdict(found) == "more" and learners.verdict(learners.summary(rows[:6], "b", "intent", versus="a")) == "less"
    assert learners.verdict((1.0, -0.1, 2.1)) == "level"
    assert learners.verdict(learners.summary(rows, "a", "intent", versus="b", pictures=9)) == "more"
    assert learners.verdict(learners.summary([rows[0], rows[3]], "a", "intent", versus="b")) == "one seed cannot say"
    assert learners.told((1.0, -0.126, 2.1)) == "+1.00 (95 % -0.13 to +2.10), level"
    assert learners.told((-1.0, np.nan, np.nan)) == "-1.00, one seed cannot say"
    told = learners.table(rows[:3], ["a"], ["intent"]).splitlines()
    alone = learners.table(rows[:1], ["a"], ["intent"]).splitlines()
    half = t.ppf(0.975, 2) * np.std([50, 70, 92], ddof=1) / 3**0.5
    assert told[1].split() == ["a", "70.7", "±", f"{half:.1f}"] and alone[1].split() == ["a", "50.0"]


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "learners.json"
    for text in (None, "{", "[]", '[{"learner": "PPO"}]', "[3]"):
        if text:
            file.write_text(text)
        with pytest.raises(PromptlabError, match="cannot be read.*pocket learners"):
            learners.load(file)


def test_the_figure_names_every_line():
    rows = [
        {"learner": name, "seed": s, "pictures": p, "set": "in_domain", "n": 3, "reward": i / 9 + s, "kl": 1.0 + i, "gold": 5, "intent": 90}
        for i, name in enumerate(["SFT", "no SFT", *learners.STYLE])
        for s in (0, 1)
        for p in ((0,) if "SFT" in name[-6:] and "without" not in name else (96, 192))
    ]
    figure = learners.race(rows)
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == set(learners.STYLE)
        heights = sorted(text.xyann[1] for text in ax.texts)
        assert min(np.diff(heights)) > 0.05, "no two names overlap"
    left, right = figure.axes
    bars = {bar.lines[0].get_color(): bar.lines[2][0].get_segments()[0] for bar in left.containers}
    places = [bar.lines[2][0].get_segments()[0][0, 0] for bar in left.containers]
    assert len(set(places)) == len(learners.STYLE) and min(places) > 192, "no bar covers another, or a line"
    assert bars["#000000"][:, 1] == pytest.approx(learners.summary(rows, "best of n", "reward")[1:])
    pale = [line for line in right.lines if line.get_alpha()]
    assert {len(line.get_xdata()) for line in pale} == {2} and len(pale) == len(learners.STYLE), "where each seed ended"
    styles = learners.STYLE | learners.EXPLORING
    assert styles.keys() == {*learners.LEARNERS, "best of n"}
    assert len({(colour, line) for colour, line, _ in styles.values()}) == len(styles)
    assert {text.get_text() for text in learners.race(rows, "gold", tuple(learners.EXPLORING)).axes[1].texts} == {"PPO"}, "no rows, no line"
