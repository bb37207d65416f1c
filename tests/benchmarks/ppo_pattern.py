"""The pattern of the paper's code as a learner, written from its facts (Hao et al. 2022; microsoft/LMOps, folder promptist).

What it does otherwise than `promptlab.ppo`: a second language model of full size foretells the reward, every picture is drawn and looked
at alone, and the plain prompt's picture is drawn again for every rewrite. Its exploration by diverse beams, its two pictures a prompt
and its uncalibrated CLIP stay out: all learners here sample alike, and draw one picture of each rewrite.
"""

import copy

import torch
from torch import nn

from promptlab.objective import advantages_of, policy_loss, token_rewards, value_loss, whiten
from promptlab.rewards import Scores, as_scores, promptist_reward

VALUE_WEIGHT = 2.3  # the paper's


class Pattern:
    """PPO as the paper's code has it: policy, frozen reference, and a value model that starts as a copy of the policy with a head of zeros."""

    def __init__(self, policy, settings):
        self.policy, self.settings, self.done = policy, settings, 0
        self.reference = copy.deepcopy(policy.model).requires_grad_(False)
        self.critic = copy.deepcopy(policy.model).base_model
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


def alone(scorer, seed):
    """The reward with every picture drawn and looked at by itself, the plain one again for each rewrite."""

    def look(prompt):
        return scorer.clip.embed_images(scorer.gallery.generator.generate([prompt], [seed]))

    def one(x, y):
        now, before, words = look(y), look(x), scorer.clip.embed_texts([x])
        relevance, plain = (torch.from_numpy((picture * words).sum(1)) for picture in (now, before))
        numbers = torch.zeros(1, dtype=torch.long)
        scores = Scores(numbers, numbers + seed, scorer.rate(now), scorer.rate(before), relevance, plain)
        return promptist_reward(scores, scorer.calibration).item()

    return lambda plain, written: [one(x, y) for x, y in zip(plain, written, strict=True)]
