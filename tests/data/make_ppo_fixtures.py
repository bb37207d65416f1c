"""Writes ppo_fixtures.json: what TRL 1.12, verl and torchrl answer to small random rollouts; `test_ppo_against_others.py` reads it.

Run it only to change the cases; neither promptlab nor its tests need these libraries. `--no-deps`, because their wishes for other
versions contradict each other and the functions called here need none of them:

    python3 -m venv venv
    venv/bin/pip install "trl==1.12.0" "torch!=2.13.0" ray codetiming torchdata hydra-core orjson cloudpickle "pyvers>=0.2.3,<0.3"
    venv/bin/pip install --no-deps "verl==0.9.1" "tensordict==0.14.3" "torchrl==0.14.1"
    venv/bin/python tests/data/make_ppo_fixtures.py

How each answer was got:
- TRL keeps the arithmetic inside `PPOTrainer.train`. Three runs of lines are cut out of that method's own source and executed as
  they stand, in the namespace of TRL's module (so `masked_mean`, `masked_whiten` and INVALID_LOGPROB are TRL's): rewards to whitened
  advantages, the two losses, the share of clipped tokens. Only what the lines read is supplied: tensors, and `args` with the knobs.
- verl: functions of `verl.trainer.ppo.core_algos`, called. It hands over the score of a rewrite as a tensor of token scores; its
  reward managers put it on the last real token (`verl/workers/reward_manager/naive.py`), and so does `verl` below.
- torchrl: `generalized_advantage_estimate`, called with verl's rewards; a rewrite's last token is marked as done.
Everything is computed in float64. Entries behind the end of a rewrite are random too: nothing may depend on them.
"""

import inspect
import json
import textwrap
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torchrl.objectives.value.functional import generalized_advantage_estimate
from trl.experimental.ppo import ppo_trainer
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

CASES = [  # lengths of the rewrites, width of the tensors, and the knobs
    {"lengths": [6, 3, 1, 5], "width": 6, "gamma": 1.0, "lam": 0.95, "kl": 0.2, "clip": 0.2, "value_clip": 0.2},
    {"lengths": [9, 9, 9], "width": 9, "gamma": 0.99, "lam": 0.9, "kl": 0.05, "clip": 0.1, "value_clip": 0.5},
    {"lengths": [2, 4, 4, 1, 3, 2], "width": 5, "gamma": 1.0, "lam": 1.0, "kl": 1.0, "clip": 0.3, "value_clip": 1.0},
    {"lengths": [8, 7, 2], "width": 8, "gamma": 0.9, "lam": 0.0, "kl": 0.1, "clip": 0.2, "value_clip": 0.1},
    {"lengths": [1, 1, 1, 1], "width": 1, "gamma": 1.0, "lam": 0.95, "kl": 0.2, "clip": 0.2, "value_clip": 0.2},
    {"lengths": [12], "width": 12, "gamma": 0.5, "lam": 0.5, "kl": 0.0, "clip": 0.2, "value_clip": 0.3},
]
NEVER = 1e9  # a bound that is not reached
TRAIN = textwrap.dedent(inspect.getsource(ppo_trainer.PPOTrainer.train)).splitlines()


def run_of(first, last, **given):
    """Execute the lines of TRL's `train` from the one that begins with `first` to the next that begins with `last`; returns their variables."""
    begin = next(i for i, line in enumerate(TRAIN) if line.strip().startswith(first))
    end = next(i for i in range(begin, len(TRAIN)) if TRAIN[i].strip().startswith(last))
    scope = {**vars(ppo_trainer), **given}
    exec(textwrap.dedent("\n".join(TRAIN[begin : end + 1])), scope)
    return SimpleNamespace(**scope)


def inputs(case, seed):
    """One random rollout, rounded, so that the file holds exactly what was computed with."""
    torch.manual_seed(seed)
    shape = (len(case["lengths"]), case["width"])
    log_old = -3 * torch.rand(shape, dtype=torch.float64)
    values = torch.randn(shape, dtype=torch.float64)
    drawn = {
        "scores": torch.randn(shape[0], dtype=torch.float64), "log_old": log_old, "values": values,
        "log_ref": log_old + 0.5 * torch.randn_like(log_old), "log_new": log_old + 0.7 * torch.randn_like(log_old),
        "values_new": values + 0.5 * torch.randn_like(values),
    }  # fmt: skip
    return {name: x.mul(1e4).round().div(1e4) for name, x in drawn.items()}


def trl(case, x):
    """TRL's answers. `sequence_lengths` is its name for the place of the last token."""
    last = torch.tensor(case["lengths"]) - 1
    args = SimpleNamespace(
        kl_estimator="k1", kl_coef=case["kl"], whiten_rewards=False, gamma=case["gamma"], lam=case["lam"],
        cliprange=case["clip"], cliprange_value=case["value_clip"], vf_coef=1.0,
    )  # fmt: skip
    given = {
        "args": args, "responses": torch.zeros(x["values"].shape), "logprobs": x["log_old"], "ref_logprobs": x["log_ref"],
        "values": x["values"], "scores": x["scores"], "sequence_lengths": last, "empty_cache": lambda: None,
    }  # fmt: skip
    rollout = "response_idxs = torch.arange", "advantages = torch.masked_fill"
    r = run_of(*rollout, **given)
    args.kl_estimator = "k3"
    k3 = run_of(*rollout, **given).rewards
    every = slice(None)
    new, new_values = x["log_new"].clone().requires_grad_(True), x["values_new"].clone().requires_grad_(True)
    one = lambda t: torch.cat([t, t[:, :1]], 1)  # noqa: E731 - TRL cuts the last place off
    lost = run_of(
        "new_logprobs = torch.masked_fill", "loss = pg_loss", args=args, new_logprobs=new, vpred_temp=one(new_values)[..., None],
        context_length=1, micro_batch_inds=every, mb_values=r.values, mb_return=r.returns, mb_logprobs=r.logprobs,
        mb_advantage=r.advantages, padding_mask=r.padding_mask, padding_mask_p1=r.padding_mask_p1,
    )  # fmt: skip
    lost.loss.backward()
    share = run_of("pg_clipfrac = masked_mean", ")", **vars(lost)).pg_clipfrac
    return {
        "rewards": r.rewards, "rewards_k3": k3, "returns": r.returns, "raw_advantages": r.returns - r.values, "advantages": r.advantages,
        "unshifted": ppo_trainer.masked_whiten(r.returns - r.values, ~r.padding_mask, shift_mean=False),
        "policy_loss": lost.pg_loss, "policy_gradient": new.grad, "clip_fraction": share,
        "value_loss": lost.vf_loss, "value_gradient": new_values.grad,
    }  # fmt: skip


def verl(case, x):
    """verl's answers; the policy loss with its second bound out of reach, with its default of 3, and averaged by rewrite."""
    lengths = torch.tensor(case["lengths"])
    mask = (torch.arange(case["width"]) < lengths[:, None]).double()
    token_scores = torch.zeros_like(mask)
    token_scores[torch.arange(len(lengths)), lengths - 1] = x["scores"]
    rewards = core_algos.compute_rewards(token_scores, x["log_old"], x["log_ref"], case["kl"]) * mask
    advantages, returns = core_algos.compute_gae_advantage_return(rewards, x["values"], mask, case["gamma"], case["lam"])
    new, new_values = x["log_new"].clone().requires_grad_(True), x["values_new"].clone().requires_grad_(True)

    def loss(bound, mode="token-mean"):
        clip = {name: case["clip"] for name in ("clip_ratio", "clip_ratio_low", "clip_ratio_high")}
        config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_c=bound, **clip)
        return core_algos.compute_policy_loss_vanilla(x["log_old"], new, advantages, mask, mode, config)

    free, metrics = loss(NEVER)
    value, _ = core_algos.compute_value_loss(new_values, returns, x["values"], mask, case["value_clip"])
    (free + value).backward()
    return {
        "rewards": rewards, "returns": returns, "advantages": advantages,
        **{f"kl_{name}": core_algos.kl_penalty(x["log_old"], x["log_ref"], name) for name in ("k1", "k3")},
        "policy_loss": free, "policy_gradient": new.grad, "clip_fraction": metrics["actor/pg_clipfrac"],
        "policy_loss_bounded": loss(3.0)[0], "policy_loss_by_rewrite": loss(NEVER, "seq-mean-token-mean")[0],
        "value_loss": value, "value_gradient": new_values.grad,
    }  # fmt: skip


def torchrl(case, x, rewards):
    """torchrl's advantages and returns: one trajectory a row, which is over at its last token."""
    end = torch.arange(case["width"]) == torch.tensor(case["lengths"])[:, None] - 1
    after = torch.cat([x["values"][:, 1:], x["values"][:, :1]], 1)  # the last of them is never read
    columns = [t[..., None] for t in (x["values"], after, rewards, end)]
    advantages, returns = generalized_advantage_estimate(case["gamma"], case["lam"], *columns)
    return {"raw_advantages": advantages[..., 0], "returns": returns[..., 0]}


def leave_one_out(samples, prompts, seed):
    """verl's advantage of one-token rewrites, `samples` for each prompt."""
    scores = torch.randn(samples * prompts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(1e4).round().div(1e4)
    index = np.repeat(np.arange(prompts), samples)
    got, _ = core_algos.compute_rloo_outcome_advantage(scores[:, None].clone(), torch.ones(len(scores), 1, dtype=torch.float64), index)
    return {"samples": samples, "scores": scores, "advantages": got[:, 0]}


def controller(coefficient, measured, target, rewrites, horizon):
    """The KL coefficient of verl's controller after one update."""
    kl = core_algos.AdaptiveKLController(coefficient, target, horizon)
    kl.update(measured, rewrites)
    return {"given": [coefficient, measured, target, rewrites, horizon], "coefficient": float(kl.value)}


def plain(x):
    """Tensors as lists of numbers of nine significant digits."""
    if isinstance(x, dict):
        return {name: plain(value) for name, value in x.items()}
    if isinstance(x, list):
        return [plain(value) for value in x]
    if isinstance(x, torch.Tensor):
        return plain(x.tolist())
    return float(f"{x:.9g}") if isinstance(x, float) else x


def main():
    cases = []
    for seed, case in enumerate(CASES):
        x = inputs(case, seed)
        theirs = verl(case, x)
        cases.append({**case, "given": x, "trl": trl(case, x), "verl": theirs, "torchrl": torchrl(case, x, theirs["rewards"])})
    made = {
        "made_with": {name: version(name) for name in ("trl", "verl", "torchrl", "torch")},
        "cases": cases,
        "leave_one_out": [leave_one_out(4, 3, 0), leave_one_out(2, 5, 1)],
        "controller": [controller(0.2, 6.5, 6.0, 64, 2000), controller(0.2, 60.0, 6.0, 100, 1000), controller(0.05, 0.0, 3.0, 16, 500)],
    }
    path = Path(__file__).with_name("ppo_fixtures.json")
    path.write_text(json.dumps(plain(made), separators=(",", ":")).replace('{"lengths"', '\n{"lengths"') + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {made['made_with']}")


if __name__ == "__main__":
    main()
