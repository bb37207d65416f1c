"""Proximal policy optimisation with a KL leash, short enough to read in one sitting.

Sources: Schulman et al. 2017 (clipped objective), Schulman et al. 2016 (generalised advantage estimation), Ziegler et
al. 2019 (KL to a frozen reference, adaptive coefficient), Hao et al. 2022, section 2.3 (this task and most values below).
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad

from promptlab import processes, restart, sharding
from promptlab.config import preset
from promptlab.models.weights import load_checkpoint
from promptlab.objective import (
    adapt_kl,
    advantages_of,
    explained,
    leave_one_out,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from promptlab.policy import Policy, Rewrites, choices, chosen, entropy, merged, with_adapters
from promptlab.rewards import PictureReward, as_scores  # noqa: F401 - so that a lesson finds the reward beside its learner
from promptlab.runtime import PromptlabError, bar, device, enough_memory, interrupts, write_jsonl


def _preset(knob):
    """A field whose default is the value of the preset in use: the same line of a lesson suits pocket and Stable Diffusion."""
    return field(default_factory=lambda: getattr(preset(), f"ppo_{knob}"))


@dataclass(frozen=True)
class Settings:
    """The knobs of a PPO run; the paper's value where one is named in brackets, the default of some in `config`."""

    prompts: int = _preset("prompts")  # different prompts in an update: more is a steadier gradient and slower
    samples: int = _preset("samples")  # rewrites of each prompt: they share its plain pictures
    compared: bool = True  # score each against the others of its prompt: steadier, but where all earn the same nothing is learnt
    images: int = _preset("images")  # seeds, so pictures, a reward is averaged over: another rewrite teaches more than a second look [2]
    new_tokens: int = _preset("new_tokens")  # length limit of a rewrite [15 to 75, random]
    epochs: int = _preset("epochs")  # passes over a rollout: more squeezes it harder, and drifts farther from the policy that wrote it [4]
    minibatch: int = _preset("minibatch")  # rewrites per gradient step
    microbatch: int = _preset("microbatch")  # of them at once in memory; 0: all. The gradient is the same, the memory less
    lr: float = _preset("lr")  # Adam's step size at the start [5e-5, for a model fifty times larger]
    decay: int = _preset("decay")  # updates over which it falls to a tenth: late steps settle what early ones found; 0: never [0]
    clip: float = 0.2  # a probability may change by this share before its gradient stops [0.2]
    value_clip: float = _preset("value_clip")  # and a value by this much: about as far as our rewards spread [0.2]
    value_weight: float = 0.2  # of the value loss, which changes the policy too [2.3, for a value model of its own]
    gamma: float = 1.0  # a reward at the end counts in full for the first token [1]
    lam: float = 0.95  # GAE: 1 trusts only rewards, 0 only the value head [0.95]
    kl: float = _preset("kl")  # price of one nat of divergence from the reference, at the start [0.2]
    kl_target: float | None = None  # nats per rewrite an adaptive coefficient steers to, 5 to 15 here; None keeps it fixed
    kl_horizon: int = 2000  # rewrites after which the coefficient may have changed by a factor of e at most [10,000]
    lora: int = field(default_factory=lambda: preset().lora)  # rank of adapters to train; 0: all weights [0]
    seed: int = 0


# --- the state: a policy, its frozen start, a value head ------------------------------------------------------------


class ValueHead(nn.Module):
    """What a rewrite is expected to earn, before each of its tokens: a small network on the policy's last hidden states; zero at first.

    The paper trains a second language model for this. Reading what the policy has read anyway spares that model's passes and
    memory, and on pocket the rewards were no lower; the value loss then pulls at the policy too, so it weighs little.
    """

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 1))
        nn.init.zeros_(self.layers[-1].weight), nn.init.zeros_(self.layers[-1].bias)

    def forward(self, states):
        """Values (n, length) from hidden states (n, length, width)."""
        return self.layers(states).squeeze(-1)


class PPO:
    """One training run. `update` makes a rollout and learns from it; `save` and `load` keep everything a run needs.

    Each update seeds itself from (seed, update), so neither random states nor a place in the data need to be kept: a
    run that was killed and resumed goes on with the same prompts, samples and image seeds.
    """

    def __init__(self, policy: Policy, settings=None):
        self.policy, self.settings, self.done = policy, settings or Settings(), 0
        self.history, self.kept = [], None  # the metrics of every update made, and the checkpoint last written or read
        self.kl = self.settings.kl
        self.reference = copy.deepcopy(policy.model).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.value = ValueHead(policy.model.config.get_text_config().hidden_size).to(device())
        policy.model = with_adapters(policy.model, self.settings.lora).eval()
        self.plain = sharding.divide(policy.model, self.reference)
        parameters = [p for model in (policy.model, self.value) for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(parameters, self.settings.lr, betas=(0.9, 0.95))

    def stream(self):
        """The seed of everything random in this update but its pictures."""
        return 1_000_003 * self.settings.seed + self.done

    def image_seeds(self):
        """The seeds of this update's pictures: never seen before, and above a million, where no other stage has any."""
        n = self.settings.images
        return [1_000_000 + 10_000_000 * self.settings.seed + n * self.done + i for i in range(n)]

    def rollout(self, pool, reward):
        """Draw prompts from `pool`, sample rewrites, score them; a dict with everything an update learns from.

        Of several processes, each writes and scores its own share of the prompts; then all have all of it.
        """
        s, stream = self.settings, self.stream()
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(stream))[: s.prompts]
        mine, plain = processes.share(len(order), s.samples), [pool[i] for i in order.tolist() for _ in range(s.samples)]
        shared = {"rows": mine} if processes.count() > 1 else {}  # alone, a policy of another kind need not know how to share
        own = self.policy.sample(plain, seed=stream, new_tokens=s.new_tokens, **shared)
        scores = as_scores(reward(plain[mine], own.texts, self.image_seeds()), plain[mine], own.texts)
        largest = -(-len(order) // processes.count()) * s.samples
        portions = processes.portions(torch.arange(len(own)), largest, s.microbatch or largest)
        parts = [read for read, ours in ((self.read(own.rows(rows)), ours) for rows, ours in portions) if ours]
        r = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        r |= {"rewrites": own, "scores": scores, "noted": getattr(reward, "last", None) or {}}
        r = self.joined(r) if processes.count() > 1 else r
        scores, mask = r["scores"], r["rewrites"].mask
        gain = (leave_one_out(scores, s.samples) if s.compared and s.samples > 1 else scores).to(r["values"].device)
        rewards = token_rewards(gain, r["log_old"], r["log_ref"], mask, self.kl)
        advantages, returns = advantages_of(rewards, r["values"] * mask, mask, s.gamma, s.lam)
        return r | {"returns": returns, "advantages": whiten(advantages, mask)}

    def joined(self, r):
        """The rollouts of all processes as one, each padded to the longest rewrite."""
        parts = processes.every(r | {"rewrites": vars(r["rewrites"])})
        some, widths = [part["rewrites"] for part in parts], [part["values"].shape[1] for part in parts]

        def cat(values, fill=0):
            wide = [pad(x, (0, max(widths) - width), value=fill) for x, width in zip(values, widths, strict=True)]
            return torch.cat(wide).to(device())

        rewrites = Rewrites(
            cat([w["ids"] for w in some], self.policy.end), cat([w["real"] for w in some]), some[0]["start"],
            [text for w in some for text in w["texts"]], torch.cat([w["finished"] for w in some]),
        )  # fmt: skip
        noted = processes.merged_figures([part["noted"] for part in parts], [len(w["texts"]) for w in some])
        known = {key: cat([part[key] for part in parts]) for key in ("log_old", "log_ref", "values", "entropy", "exact_kl")}
        return known | {"rewrites": rewrites, "scores": torch.cat([part["scores"] for part in parts]), "noted": noted}

    @torch.no_grad()
    def read(self, rewrites):
        """What policy, reference and value head think of some rewrites, as they were sampled: a dict of (n, length) tensors.

        Beside the sampled KL, log_old - log_ref of the tokens that were chosen, stands the exact one, over all tokens that might have been.
        """
        logs, states = choices(self.policy.model, rewrites, states=True)
        reference, _ = choices(self.reference, rewrites)
        return {
            "log_old": chosen(logs, rewrites), "log_ref": chosen(reference, rewrites), "values": self.value(states),
            "entropy": entropy(logs), "exact_kl": (logs.exp() * (logs - reference)).sum(-1),
        }  # fmt: skip

    def update(self, pool, reward) -> dict:
        """One rollout and the gradient steps on it; returns the metrics of this update. Every KL is in nats."""
        r, s = self.rollout(pool, reward), self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = s.lr * (max(0.1, 1 - 0.9 * self.done / s.decay) if s.decay else 1)
        n, mask, records = len(r["rewrites"]), r["rewrites"].mask, []
        shuffle = torch.Generator().manual_seed(7 + self.stream())
        for _ in range(s.epochs):
            for index in torch.randperm(n, generator=shuffle).split(s.minibatch):
                records.append(self.learn(r, index))
        kl = ((r["log_old"] - r["log_ref"]) * mask).sum(1).mean().item()  # nats per rewrite
        metrics = {
            "update": self.done, "reward": r["scores"].mean().item(), "kl": kl, "kl_exact": (r["exact_kl"] * mask).sum(1).mean().item(),
            "kl_per_token": kl / mask.sum(1).float().mean().item(), "kl_coefficient": self.kl,
            "entropy": masked_mean(r["entropy"], mask).item(), "length": mask.sum(1).float().mean().item(),
            "unfinished": 1 - r["rewrites"].finished.float().mean().item(), "explained": explained(r["values"], r["returns"], mask),
            "first_ratio": records[0]["ratio"],
            **{key: sum(x[key] for x in records) / len(records) for key in ("policy_loss", "value_loss", "clip_fraction", "gradient_norm")},
            **r["noted"],
        }  # fmt: skip
        if s.kl_target:
            self.kl = adapt_kl(self.kl, kl, s.kl_target, n, s.kl_horizon)
        self.done += 1
        self.history.append(metrics)
        return metrics

    def learn(self, r, index):
        """One gradient step on some rows of a rollout, in parts that fit into memory: each weighs as much as it has tokens.

        Of n processes, each reads every n-th row; what they found is added up.
        """
        s, tokens, n = self.settings, r["rewrites"].mask[index].sum(), processes.count()
        largest = -(-len(index) // n)
        record = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "ratio"), 0.0)
        weights = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.optimiser.zero_grad(set_to_none=True)
        for part, ours in processes.portions(index[processes.index() :: n], largest, s.microbatch or largest):
            rows = r["rewrites"].rows(part)
            part, share = part.to(rows.ids.device), rows.mask.sum() / tokens if ours else torch.zeros_like(tokens)
            logs, states = choices(self.policy.model, rows, states=True)
            log_p = chosen(logs, rows)
            loss, clipped = policy_loss(log_p, r["log_old"][part], r["advantages"][part], rows.mask, s.clip)
            value = value_loss(self.value(states), r["values"][part], r["returns"][part], rows.mask, s.value_clip)
            total = share * (loss + s.value_weight * value)
            if not torch.isfinite(total):
                raise PromptlabError(f"The loss of update {self.done} is {total.item()}; this step was not taken. Lower Settings.lr.")
            total.backward()
            ratio = masked_mean((log_p.detach() - r["log_old"][part]).exp(), rows.mask)
            for key, seen in zip(record, (loss, value, clipped, ratio), strict=True):
                record[key] += (share * seen).item()
        processes.add_gradients(weights)
        norm = sharding.clip(weights, 1.0)
        self.optimiser.step()
        parts = processes.every(record)
        return {key: sum(part[key] for part in parts) for key in record} | {"gradient_norm": norm.item()}

    def save(self, path):
        """Write a checkpoint so that a kill or a full disk leaves the previous one intact."""
        restart.save(self, path)

    def load(self, path):
        """Go on from a checkpoint. Raises `PromptlabError` where it is damaged or belongs to another run; then nothing has changed."""
        restart.restore(self, load_checkpoint(path), path)
        return self

    def rewind(self):
        """Back to the last checkpoint, or to the start where there is none: an update that broke off leaves the policy half-trained.

        Without this, the same call with the same policy would take half-trained weights for the reference.
        """
        if self.kept and self.kept.exists():
            self.load(self.kept)
        else:
            self.policy.model = merged(self.policy.model)
            self.policy.model.load_state_dict(self.reference.state_dict())
            self.history, self.done = [], 0


def train(policy, pool, reward, folder, updates, settings=None, watch=None, every=5, quiet=False) -> list[dict]:
    """Run PPO for `updates` updates and return their metrics; resumes from `folder`, and an interrupt loses nothing.

    The first interrupt lets the update in progress end and writes a checkpoint. A second one, or an error, breaks it off: the
    policy and the metrics are then those of the last checkpoint, or of the start.

    Args: `pool` the training prompts; `reward(plain, rewritten, image_seeds)` one float per rewrite; `watch(ppo, metrics)`
    is called after each update and stops the run by returning True; a checkpoint is written every `every` updates; `quiet`
    shows no progress bar. In several processes (`promptlab.processes`) all call this, and the first writes and shows what there is.
    """
    if not pool:
        raise PromptlabError("There are no prompts to train on. Give `pool` at least one.")
    ppo, folder, stopping = PPO(policy, settings), Path(folder), []
    fewer = max(1, (ppo.settings.microbatch or ppo.settings.minibatch) // 2)
    checkpoint, log = folder / "ppo.ckpt", folder / "metrics.jsonl"
    try:
        known, speaks = restart.resume(ppo, checkpoint), processes.first()
        processes.same_start(policy.model, ppo.done)
        if known and speaks:
            restart.repair(ppo, log)
        progress = bar(total=updates, initial=ppo.done, desc="ppo", disable=quiet or not speaks)
        with progress, interrupts(lambda: stopping.append(True)):
            while ppo.done < updates:
                with enough_memory(f"Read fewer rewrites at once, as in ppo.Settings(microbatch={fewer})."):
                    metrics = ppo.update(pool, reward)
                progress.set_postfix_str(f"reward {metrics['reward']:.3f}, KL {metrics['kl']:.2f}", refresh=False)
                progress.update()
                stop = any(processes.every(bool(watch and watch(ppo, metrics)) or bool(stopping)))
                if stop or ppo.done % every == 0 or ppo.done == updates:
                    ppo.save(checkpoint)
                    if speaks:
                        write_jsonl(log, ppo.history)
                if stop:
                    break
        if ppo.plain is not None:  # divided among processes
            ppo.plain.load_state_dict(sharding.whole(policy.model.state_dict()))
            policy.model = ppo.plain
        if stopping:
            print(f"Stopped after update {ppo.done} of {updates}. Run again to go on from there.")
    except BaseException as error:
        if processes.count() > 1:  # the launcher ends the others, and none can be asked for its part any more
            raise
        broke_off = ppo.done
        with interrupts(lambda: None):  # an impatient third press would leave half of it
            ppo.rewind()
        if not isinstance(error, KeyboardInterrupt):
            raise
        print(f"Stopped during update {broke_off}; {ppo.done} are kept in {folder}. Run again to go on from there.")
    finally:
        policy.model = merged(policy.model)
    return ppo.history
