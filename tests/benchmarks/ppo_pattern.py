"""The pattern of the paper's code as a learner, written from its facts (Hao et al. 2022; microsoft/LMOps, folder promptist).

What it does otherwise than `promptlab.ppo`: a second language model of full size foretells the reward, pictures are drawn one prompt at a
time, all of that prompt in one call (the paper: two), and looked at together, the plain prompt's pictures are drawn again for every rewrite,
every row is read in full, prompt and padding, and only the policy's upper blocks are trained. Its exploration by 16 diverse beams and its
uncalibrated CLIP stay out: all learners here sample alike, with our step size. What only costs it time is left out in its favour: it reads
every rollout twice, and each step computes the advantages anew.
"""

import copy
import time

import numpy as np
import torch
from torch import nn

from promptlab.objective import advantages_of, policy_loss, token_rewards, value_loss, whiten
from promptlab.rewards import Scores, as_scores, mean_per_pair, promptist_reward

VALUE_WEIGHT = 2.3  # the paper's
TRAINED = 2  # of the policy's blocks, the upper ones, as in its settings; embeddings and the value model are trained whole


class Pattern:
    """PPO as the paper's code has it: policy, frozen reference, and a value model that starts as a copy of the policy with a head of zeros."""

    def __init__(self, policy, settings):
        self.policy, self.settings, self.done = policy, settings, 0
        self.reference = copy.deepcopy(policy.model).requires_grad_(False)
        self.critic = copy.deepcopy(policy.model).base_model
        policy.model.transformer.h[:-TRAINED].requires_grad_(False)
        self.head = nn.Linear(policy.model.config.hidden_size, 1).to(policy.model.device)
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)
        weights = [*policy.model.parameters(), *self.critic.parameters(), *self.head.parameters()]
        self.optimiser = torch.optim.Adam(weights, settings.lr, betas=(0.9, 0.95))

    def rollout(self, plain, reward):
        """Sample a rewrite of each prompt, score it, and read it with all three models."""
        s = self.settings
        rewrites = self.policy.sample(plain, seed=1_000_003 * s.seed + self.done, new_tokens=s.new_tokens)
        scores = as_scores(reward(plain, rewrites.texts), plain, rewrites.texts)
        with torch.no_grad():
            log_old, log_ref = (log_probs(model, rewrites) for model in (self.policy.model, self.reference))
            values = self.values(rewrites) * rewrites.mask
        rewards = token_rewards(scores.to(log_old.device), log_old, log_ref, rewrites.mask, s.kl)
        advantages, returns = advantages_of(rewards, values, rewrites.mask, s.gamma, s.lam)
        return rewrites, scores, log_old, values, returns, whiten(advantages, rewrites.mask)

    def values(self, rewrites):
        """What the value model expects before each token of the rewrites, (n, length)."""
        states = self.critic(**inputs(rewrites)).last_hidden_state[:, rewrites.start - 1 : -1]
        return self.head(states).squeeze(-1)

    def update(self, plain, reward):
        """A rollout, and the gradient steps on it; returns the scores."""
        rewrites, scores, log_old, old, returns, advantages = self.rollout(plain, reward)
        s, shuffle = self.settings, torch.Generator().manual_seed(self.done)
        for _ in range(s.epochs):
            for index in torch.randperm(len(rewrites), generator=shuffle).to(old.device).split(s.minibatch):
                rows = rewrites.rows(index)
                loss, _ = policy_loss(log_probs(self.policy.model, rows), log_old[index], advantages[index], rows.mask, s.clip)
                loss = loss + VALUE_WEIGHT * value_loss(self.values(rows), old[index], returns[index], rows.mask, s.value_clip)
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], 1.0)
                self.optimiser.step()
        self.done += 1
        return scores


def inputs(rewrites):
    """What the models read, as rows padded to one width."""
    real = rewrites.real.long()
    return {"input_ids": rewrites.ids, "attention_mask": real, "position_ids": (real.cumsum(1) - 1).clamp(min=0), "use_cache": False}


def log_probs(model, rewrites):
    """The log-probability of every token of the rewrites, (n, length)."""
    logs = model(**inputs(rewrites)).logits[:, rewrites.start - 1 : -1].log_softmax(-1)
    return logs.gather(-1, rewrites.ids[:, rewrites.start :, None]).squeeze(-1)


def quickest(work):
    """The number of threads, one or all, with which this takes least: two cores may be slower than one where there is little to share."""
    most = torch.get_num_threads()

    def seconds(threads):
        torch.set_num_threads(threads)
        work()
        began = time.perf_counter()
        for _ in range(5):
            work()
        return time.perf_counter() - began

    best = min({1, most}, key=seconds)
    torch.set_num_threads(most)
    return best


def alone(scorer, seeds, threads):
    """The reward with a prompt's pictures drawn in a call of their own, with so many threads, the plain ones for each rewrite; they are looked
    at together.
    """

    def draw(prompts):
        most = torch.get_num_threads()
        torch.set_num_threads(threads)
        pictures = np.concatenate([scorer.gallery.generator.generate([prompt] * len(seeds), seeds) for prompt in prompts])
        torch.set_num_threads(most)
        return pictures

    def reward(plain, written):
        now, before = (scorer.clip.embed_images(draw(prompts)) for prompts in (written, plain))
        words = scorer.clip.embed_texts(plain).repeat(len(seeds), axis=0)
        relevance, relevance_plain = (torch.from_numpy((pictures * words).sum(1)) for pictures in (now, before))
        pairs, drawn = torch.arange(len(plain)).repeat_interleave(len(seeds)), torch.tensor(seeds * len(plain))
        scores = Scores(pairs, drawn, scorer.rate(now), scorer.rate(before), relevance, relevance_plain)
        return mean_per_pair(promptist_reward(scores, scorer.calibration), scores)

    return reward
