"""Other ways for PPO to draw the rewrites it learns from: beams, in place of samples.

Stochastic beams draw a prompt's rewrites without replacement, so none is paid for twice; weights make up for what that favours.
Diverse beams, the way of Promptist's code, look for likely rewrites unlike each other, and are then learnt from as if sampled.
"""

import copy
from dataclasses import replace

from promptlab import ppo
from promptlab.decoding import diverse_beam, stochastic_beam
from promptlab.policy import Policy


def without_replacement(policy, prompts, n, seed, new_tokens):
    """Stochastic beams (Kool et al. 2019): tokens (prompts, n, new_tokens), and weights (prompts, n) whose mean is 1 for each prompt."""
    drawn = stochastic_beam(policy, prompts, n, seed, new_tokens)
    return drawn.ids, drawn.weights * n / drawn.weights.sum(1, keepdim=True)


def unlike_each_other(policy, prompts, n, seed, new_tokens):
    """Diverse beams (Vijayakumar et al. 2018), n groups of one, each token with a penalty of 1 as in the paper: tokens, and weights of 1."""
    import torch

    ids, real = policy.encode(prompts, policy.room - new_tokens)
    with torch.no_grad():
        tokens, _ = diverse_beam(policy.model, ids, real, policy.end, new_tokens, num_beams=n, num_beam_groups=n)
    return tokens, torch.ones(tokens.shape[:2])


class Explorer(Policy):
    """A policy of which the `n` samples of a prompt are drawn together, by one of the functions above."""

    def __init__(self, policy, way, n):
        super().__init__(policy.model, policy.tokenizer)
        self.way, self.n, self.weights = way, n, None

    def sample(self, prompts, seed=0, new_tokens=48, greedy=False):
        """As `Policy.sample`, where every `n` prompts in a row are the same; keeps their weights, (prompts,), mean 1 for each prompt."""
        if greedy:
            return super().sample(prompts, seed, new_tokens, greedy)
        tokens, weights = self.way(self, prompts[:: self.n], self.n, seed, new_tokens)
        self.weights = weights.flatten().float()
        ids, real = self.encode(prompts, self.room - new_tokens)
        return self.as_rewrites(ids, real, tokens.flatten(0, 1), prompts)


class Weighted(ppo.PPO):
    """PPO in which a rewrite counts as much as its weight says: what beams favour is no likelier under the policy for it."""

    def rollout(self, pool, reward):
        """As `PPO.rollout`."""
        r = super().rollout(pool, reward)
        return r | {"advantages": r["advantages"] * self.policy.weights.to(r["advantages"].device)[:, None]}


def exploring(way):
    """A learner as in `learners`: PPO that draws its rewrites this way."""

    def learner(start, pool, reward, seed, points, watch):
        settings = replace(ppo.Settings(), seed=seed)
        follow(Weighted(Explorer(copy.deepcopy(start), way, settings.samples), settings), pool, reward, points, watch)

    return learner


def follow(run, pool, reward, points, watch):
    """Make the updates of a PPO run up to the last of `points`, and at each show `watch` the policy as it is then."""
    for update in range(1, points[-1] + 1):
        run.update(pool, reward)
        if update in points:
            watch(update, Policy(run.policy.model, run.policy.tokenizer))
