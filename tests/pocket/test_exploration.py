"""PPO that draws by beams: the weights undo what drawing without replacement favours, by enumeration; tokens and texts are those of the beams."""

from dataclasses import replace

import pytest
import torch
from tiny_policy import WORDS, tiny_policy

from promptlab import ppo
from promptlab.decoding import stochastic_beam
from promptlab.pocket.exploration import Explorer, Weighted, exploring, unlike_each_other, without_replacement
from promptlab.policy import log_probs

N, POOL = 4, ["frog", "red castle", "blue frog"]
SMALL = ppo.Settings(prompts=2, samples=N, images=1, new_tokens=4, epochs=2, minibatch=8, lr=2e-3, kl=0.02, value_clip=1.0, decay=0)
both = pytest.mark.parametrize("way", [without_replacement, unlike_each_other])


@both
def test_what_ppo_learns_from_is_what_the_beams_wrote(way):
    policy, prompts = tiny_policy(), [p for p in POOL for _ in range(N)]
    explorer = Explorer(policy, way, N)
    drawn = explorer.sample(prompts, seed=3, new_tokens=6)
    if way is without_replacement:
        texts = sum(stochastic_beam(policy, POOL, N, seed=3, new_tokens=6).texts, [])
    else:
        settings = {"n": N, "num_beams": N, "num_beam_groups": N, "new_tokens": 6, "diversity_penalty": 1.0}
        texts = sum(policy.rewrite(POOL, decode="diverse_beam", **settings), [])
    assert drawn.texts == texts
    for i, prompt in enumerate(prompts):  # alone and unpadded, by the model itself
        row = drawn.ids[i, drawn.start :][drawn.mask[i]].tolist()
        assert policy.end not in row[:-1] and bool(drawn.finished[i]) == (row[-1] == policy.end)
        whole = policy.encode([prompt], 30)[0][0].tolist() + row
        logs = policy.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        exact = sum(logs[len(whole) - len(row) + j - 1, token].item() for j, token in enumerate(row))
        ours = (log_probs(policy.model, drawn.rows(torch.tensor([i])))[0] * drawn.mask[i]).sum().item()
        assert abs(ours - exact) < 1e-3
    weights = explorer.weights.view(-1, N)
    torch.testing.assert_close(weights.mean(1), torch.ones(len(POOL)))
    assert bool((weights == 1).all()) == (way is unlike_each_other) and weights.min() >= 0
    if way is without_replacement:
        rows = [tuple(row.tolist()) for row in drawn.ids]
        assert len(set(rows)) == len(rows), "none is drawn twice"
    assert explorer.sample(POOL, new_tokens=6, greedy=True).texts == policy.rewrite(POOL, new_tokens=6)


def test_weights_undo_what_is_favoured():
    """The mean surprise of a rewrite of two tokens, exactly, as there are 111 of them, against groups of twelve different ones."""
    policy, n, groups = tiny_policy(), 12, 300
    tokens, start = range(len(WORDS) + 2), policy.encode(["frog"], 40)[0][0].tolist()
    surprise = 0.0
    with torch.no_grad():
        first = policy.model(torch.tensor([start])).logits[0, -1].log_softmax(-1)
        for i in tokens:
            then = policy.model(torch.tensor([[*start, i]])).logits[0, -1].log_softmax(-1)
            after = 0.0 if i == policy.end else -(then.exp() * then).sum().item()
            surprise += first[i].exp().item() * (after - first[i].item())
    explorer = Explorer(policy, without_replacement, n)
    drawn = explorer.sample(["frog"] * n * groups, seed=0, new_tokens=2)
    with torch.no_grad():
        found = -(log_probs(policy.model, drawn)[0] * drawn.mask).sum(1)
    weighted = (found * explorer.weights).view(groups, n).mean(1)
    error = weighted.std().item() / groups**0.5
    # divided by their own sum, weights leave a bias of the order of 1 / n of what they undo
    assert abs(weighted.mean().item() - surprise) < 4 * error + 0.03 and error < 0.04, (weighted.mean(), surprise, error)
    assert found.mean().item() - surprise > 0.3, "unweighted, unlikely rewrites count as much as likely ones"


def test_a_rewrite_counts_as_its_weight_says():
    shares = torch.tensor([[0.0, 2.0, 1.0, 1.0]])

    def rollout(weights):
        def way(policy, prompts, n, seed, new_tokens):
            tokens = tiny_policy().sample([p for p in prompts for _ in range(n)], seed, new_tokens)
            return tokens.ids[:, tokens.start :].view(len(prompts), n, -1), weights.expand(len(prompts), n)

        run = Weighted(Explorer(tiny_policy(), way, N), SMALL)
        return run.rollout(POOL, lambda plain, written, seeds: torch.arange(len(plain)) % 3.0)

    alike, by_weight, ours = rollout(torch.ones(1, N)), rollout(shares), ppo.PPO(tiny_policy(), SMALL)
    usual = ours.rollout(POOL, lambda plain, written, seeds: torch.arange(len(plain)) % 3.0)
    width = usual["advantages"].shape[1]
    torch.testing.assert_close(alike["advantages"][:, :width], usual["advantages"])
    torch.testing.assert_close(by_weight["advantages"], alike["advantages"] * shares.repeat(1, SMALL.prompts).T)
    assert by_weight["advantages"][::N].abs().max() == 0 < alike["advantages"][::N].abs().max()


@both
def test_as_a_learner_it_is_watched_and_leaves_its_start_alone(way, monkeypatch):
    monkeypatch.setattr(ppo, "Settings", lambda: SMALL)
    start, seen, asked = tiny_policy(), [], []
    before = [w.clone() for w in start.model.parameters()]

    def reward(plain, written, seeds):
        asked.append((list(plain), seeds))
        return torch.tensor([float(len(set(text))) for text in written])

    def watch(update, policy):
        seen.append((update, policy.rewrite(["frog"])))
        assert any(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))

    exploring(way)(start, POOL, reward, 5, (1, 3), watch)
    assert [update for update, _ in seen] == [1, 3] and len(asked) == 3
    assert all(torch.equal(a, b) for a, b in zip(before, start.model.parameters(), strict=True))
    run = ppo.PPO(tiny_policy(), replace(SMALL, seed=5))
    run.rollout(POOL, lambda plain, written, seeds: asked.append((list(plain), seeds)) or torch.zeros(len(plain)))
    assert asked[0] == asked[-1], "the prompts and image seeds of PPO with this seed"
