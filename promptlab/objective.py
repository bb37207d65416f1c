"""The arithmetic of PPO, without a model: tensors in, tensors out.

Every function takes (n, length) tensors, one row a rewrite, and a bool mask of its real tokens. Sources: Schulman et al. 2017
(clipped objective), Schulman et al. 2016 (generalised advantage estimation), Ziegler et al. 2019 (KL to a frozen reference).
"""

import torch


def masked_mean(values, mask):
    """Mean over real tokens, a scalar."""
    return (values * mask).sum() / mask.sum()


def leave_one_out(scores, samples):
    """Scores (n,), `samples` in a row for each prompt, minus the mean of the prompt's other ones: what a hard prompt costs cancels.

    The baseline of Kool, van Hoof and Welling 2019; it does not depend on the rewrite itself, so the gradient stays unbiased.
    """
    groups = scores.view(-1, samples)
    return (groups - (groups.sum(1, keepdim=True) - groups) / (samples - 1)).flatten()


def token_rewards(scores, log_p, log_ref, mask, kl):
    """What each token earns: minus the KL price of choosing it, and on the last one the score of the whole rewrite *added*.

    `scores` (n,), one per rewrite; `log_p`, `log_ref` log-probabilities under the sampling policy and the reference.
    """
    rewards = -kl * (log_p - log_ref) * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def advantages_of(rewards, values, mask, gamma, lam):
    """Generalised advantage estimation, backwards in time; returns (advantages, returns), zero behind the end.

    delta_t = r_t + gamma V_t+1 - V_t;  A_t = delta_t + gamma lam A_t+1;  return = A + V.
    """
    advantages, ahead, value_ahead = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        here = mask[:, t].float()
        delta = rewards[:, t] + gamma * value_ahead - values[:, t]
        ahead = (delta + gamma * lam * ahead) * here
        advantages[:, t], value_ahead = ahead, values[:, t] * here
    return advantages, (advantages + values) * mask


def whiten(values, mask):
    """Shift and scale to mean 0 and variance 1 over real tokens, zero elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * (variance + 1e-8).rsqrt() * mask


def policy_loss(log_p, log_old, advantages, mask, clip):
    """The clipped objective, to be minimised; returns (loss, share of tokens where the clip is active)."""
    ratio = (log_p - log_old).exp()
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(free, clipped), mask), masked_mean((clipped > free).float(), mask)


def value_loss(values, old_values, returns, mask, clip):
    """Half the squared error of the value head, which may not leave its old value by more than `clip` in one update."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2), mask)


def explained(values, returns, mask):
    """The share of the variance of returns that the value head foresaw: 1 all, 0 none, below 0 it would do better to say nothing."""
    spread = lambda x: masked_mean((x - masked_mean(x, mask)) ** 2, mask)  # noqa: E731
    return 1 - (spread(returns - values) / spread(returns).clamp(min=1e-8)).item()


def adapt_kl(coefficient, measured, target, rewrites, horizon):
    """The next KL coefficient, from the measured nats per rewrite *to the reference* (Ziegler et al. 2019, section 2.2)."""
    error = max(-0.2, min(0.2, measured / target - 1))
    return coefficient * (1 + error * rewrites / horizon)
