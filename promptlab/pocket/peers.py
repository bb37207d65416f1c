"""Other ways to learn from our reward function, each drawing what PPO draws: the same prompts, groups of twelve, one picture of each.

A learner is a function `(start, pool, reward, seed, points, watch)`: it trains a copy of the policy `start` on prompts of `pool`, paid by
`reward(plain, written, image_seeds)`, and calls `watch(updates, policy)` after each number of updates in `points`. In an update it
draws 96 rewrites, 12 for each of 8 prompts. All sample at temperature 1, without top-k, and at most as many tokens as PPO.
"""

import copy
import itertools
import random
import tempfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from promptlab import ppo
from promptlab.pocket.exploration import exploring, follow, unlike_each_other, without_replacement
from promptlab.policy import MARK, Policy, choices, chosen, rewrite_or_prompt
from promptlab.rewards import as_scores

SETTINGS = ppo.Settings()  # of our PPO; the others take its groups, step size (DPO's apart), number of gradient steps and length limit
PAIRS = 3  # of each group, for DPO: the best with the worst, the second with the second worst, and so on
# What a nat costs, where each learner charges it: RLOO in the reward, as PPO does; GRPO in the loss, per token, against advantages of
# unit spread (DeepSeekMath's value; TRL's own default is none); DPO as the scale of its logarithms (TRL's default).
BETA = {"RLOO": SETTINGS.kl, "GRPO": 0.04, "DPO": 0.1}
DPO_LR = 1e-4  # with PPO's 2.5e-4 it went three times as far from SFT and earned no more


# --- what every learner draws ---------------------------------------------------------------------------------------


def asked(pool, seed, update):
    """The prompts of an update, each as often as a group is large, and its image seeds: those of our PPO, so that luck is shared."""
    import torch

    s = SETTINGS
    stream = torch.Generator().manual_seed(1_000_003 * seed + update)
    order = torch.randperm(len(pool), generator=stream)[: s.prompts].tolist()
    first = 1_000_000 + 10_000_000 * seed + s.images * update
    return [pool[i] for i in order for _ in range(s.samples)], list(range(first, first + s.images))


def gather(policy, pool, reward, seed, updates):
    """What the policy writes in some updates and what it earns: (plain, `Rewrites`, scores) of each."""
    out = []
    for update in updates:
        plain, looks = asked(pool, seed, update)
        rewrites = policy.sample(plain, seed=1_000_003 * seed + update, new_tokens=SETTINGS.new_tokens)
        out.append((plain, rewrites, as_scores(reward(plain, rewrites.texts, looks), plain, rewrites.texts)))
    return out


def rounds(points):
    """The updates between one point and the next."""
    return [range(a, b) for a, b in itertools.pairwise((0, *points))]


# --- the learners ---------------------------------------------------------------------------------------------------


def our_ppo(start, pool, reward, seed, points, watch):
    """PPO as in lesson 03, with the preset's settings."""
    follow(ppo.PPO(copy.deepcopy(start), replace(SETTINGS, seed=seed)), pool, reward, points, watch)


class Retaining(Policy):
    """A policy of which the first of each group of samples is what was typed, as in PromptRL's retention (Wang et al. 2026)."""

    def sample(self, prompts, seed=0, new_tokens=48, greedy=False, rows=slice(None)):
        """As `Policy.sample`; greedy rewrites are the policy's own."""
        drawn = super().sample(prompts, seed, new_tokens, greedy, rows)
        return drawn if greedy else with_typed(self, drawn, list(prompts)[rows])


def with_typed(policy, drawn, prompts):
    """Rewrites in which the first of each group is replaced by the prompt itself, as tokens, with its end."""
    import torch

    rows = torch.arange(0, len(drawn), SETTINGS.samples)
    typed = policy.encode_rewrites([prompts[i] for i in rows], [f" {prompts[i]}" for i in rows])
    tail, mask = typed.ids[:, typed.start :], typed.mask
    wider = max(0, tail.shape[1] - (drawn.ids.shape[1] - drawn.start))
    ids = torch.nn.functional.pad(drawn.ids, (0, wider), value=policy.end)
    real = torch.nn.functional.pad(drawn.real, (0, wider), value=False)
    ids[rows, drawn.start :], real[rows, drawn.start :] = policy.end, False
    ids[rows, drawn.start : drawn.start + tail.shape[1]] = tail
    real[rows, drawn.start : drawn.start + tail.shape[1]] = mask
    texts = [p if i % SETTINGS.samples == 0 else t for i, (p, t) in enumerate(zip(prompts, drawn.texts, strict=True))]
    return replace(drawn, ids=ids, real=real, texts=texts, finished=drawn.finished.index_fill(0, rows.to(drawn.finished.device), True))


def retaining_ppo(start, pool, reward, seed, points, watch):
    """PPO in whose groups of 12 one is the typed prompt, compared and learnt from like the others."""
    our_ppo(Retaining(start.model, start.tokenizer), pool, reward, seed, points, watch)


def expert_iteration(start, pool, reward, seed, points, watch):
    """Imitate the best rewrite of each group, then draw from the imitator, and again (Anthony et al. 2017; RAFT, Dong et al. 2023)."""
    policy = copy.deepcopy(start)
    for updates in rounds(points):
        best = []
        for plain, rewrites, scores in gather(policy, pool, reward, seed, updates):
            for rows in np.arange(len(plain)).reshape(-1, SETTINGS.samples):
                i = rows[scores[rows].argmax()]
                best.append((plain[i], rewrites.texts[i]))
        imitate(policy, best, seed)
        watch(updates.stop, policy)


def imitate(policy, pairs, seed=0):
    """A few epochs of SFT on (plain, written) pairs, in place; as many pairs in a step as an update yields."""
    import torch

    optimiser, order = torch.optim.Adam(policy.model.parameters(), SETTINGS.lr), random.Random(seed)
    for _ in range(SETTINGS.epochs):
        mixed = order.sample(pairs, len(pairs))
        for i in range(0, len(mixed), SETTINGS.prompts):
            some = mixed[i : i + SETTINGS.prompts]
            rewrites = policy.encode_rewrites([x for x, _ in some], [f" {y}" for _, y in some])
            logs, _ = choices(policy.model, rewrites)
            optimiser.zero_grad()
            (-(chosen(logs, rewrites) * rewrites.mask).sum() / rewrites.mask.sum()).backward()
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
            optimiser.step()


def dpo(start, pool, reward, seed, points, watch):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the start wrote: at each point trained anew on all so far."""
    pairs = []
    for updates in rounds(points):
        pairs += ranked_pairs(gather(start, pool, reward, seed, updates))
        policy = copy.deepcopy(start)
        prefer(policy, start, pairs, seed)
        watch(updates.stop, policy)


def iterated_dpo(start, pool, reward, seed, points, watch):
    """DPO in rounds: each on fresh pairs of the policy before it, the leash still at the start (Guo et al. 2024)."""
    policy = copy.deepcopy(start)
    for updates in rounds(points):
        prefer(policy, start, ranked_pairs(gather(policy, pool, reward, seed, updates)), seed)
        watch(updates.stop, policy)


def ranked_pairs(gathered):
    """Pairs (plain, better, worse) of each group: the best and the worst, the second and the second worst, ...; none of equal worth."""
    out = []
    for plain, rewrites, scores in gathered:
        for rows in np.arange(len(plain)).reshape(-1, SETTINGS.samples):
            ranked = rows[np.argsort(-scores[rows].numpy(), kind="stable")]
            for better, worse in zip(ranked[:PAIRS], ranked[::-1][:PAIRS], strict=True):
                if scores[better] > scores[worse]:
                    out.append((plain[better], rewrites.texts[better], rewrites.texts[worse]))
    return out


# --- the learners of TRL --------------------------------------------------------------------------------------------


@contextmanager
def quietly(lr=None):
    """Inside the block TRL and its kin print neither tables nor warnings nor bars; gives the arguments all its trainers share.

    Of TRL's defaults they change the step size (1e-6, for models a thousand times larger), its decay, and half precision.
    """
    import logging
    import warnings

    from datasets import disable_progress_bars
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # as in `sft.finetune`
    disable_progress_bars()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            yield {
                "output_dir": folder, "learning_rate": lr or SETTINGS.lr, "lr_scheduler_type": "constant", "adam_beta2": 0.95, "bf16": False,
                "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
                "dataloader_pin_memory": False,
            }  # fmt: skip
    finally:
        logging.disable(before)


def prefer(policy, reference, pairs, seed):
    """Train a policy in place with `trl.DPOTrainer` on (plain, better, worse), the KL measured against `reference`."""
    from datasets import Dataset
    from transformers import PrinterCallback

    rows = [{"prompt": x + MARK, "chosen": f" {better}", "rejected": f" {worse}"} for x, better, worse in pairs]
    with quietly(DPO_LR) as common:
        from trl import DPOConfig, DPOTrainer

        arguments = DPOConfig(
            beta=BETA["DPO"], num_train_epochs=SETTINGS.epochs, per_device_train_batch_size=SETTINGS.prompts * PAIRS,
            max_length=policy.room, seed=seed, **common,
        )  # fmt: skip
        models = copy.deepcopy(policy.model), copy.deepcopy(reference.model)
        trainer = DPOTrainer(*models, arguments, train_dataset=Dataset.from_list(rows), processing_class=policy.tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    policy.model.load_state_dict(trainer.model.state_dict())


def grpo(start, pool, reward, seed, points, watch):
    """Group-relative policy optimisation (Shao et al. 2024), `trl.GRPOTrainer`: no critic, advantages in units of the group's spread."""
    critic_free("GRPO", start, pool, reward, seed, points, watch)


def rloo(start, pool, reward, seed, points, watch):
    """REINFORCE with the mean of the others as baseline (Ahmadian et al. 2024), `trl.RLOOTrainer`: one ratio for a whole rewrite."""
    critic_free("RLOO", start, pool, reward, seed, points, watch)


def critic_free(name, start, pool, reward, seed, points, watch):
    """Train with one of TRL's two trainers that draw for themselves: same prompts and image seeds, but TRL's own noise."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    s, policy, drawn = SETTINGS, copy.deepcopy(start), itertools.count()
    prompts = [x for update in range(points[-1]) for x in asked(pool, seed, update)[0][:: s.samples]]

    def paid(prompts, completions, x, **_):
        written = [rewrite_or_prompt(text.strip(), typed) for text, typed in zip(completions, x, strict=True)]
        return as_scores(reward(x, written, asked(pool, seed, next(drawn))[1]), x, written).tolist()

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            update, rest = divmod(state.global_step, s.epochs)
            if rest == 0 and update in points:
                policy.model.load_state_dict(model.state_dict())
                watch(update, policy)

    with quietly() as common:
        import trl

        arguments = getattr(trl, f"{name}Config")(
            beta=BETA[name], num_generations=s.samples, per_device_train_batch_size=s.prompts * s.samples, num_iterations=s.epochs,
            max_steps=s.epochs * points[-1], max_completion_length=s.new_tokens, temperature=1.0, shuffle_dataset=False,
            disable_dropout=True, seed=seed, **common,
        )  # fmt: skip
        trainer = getattr(trl, f"{name}Trainer")(
            model=copy.deepcopy(start.model), reward_funcs=paid, args=arguments, processing_class=start.tokenizer,
            train_dataset=Dataset.from_list([{"prompt": x + MARK, "x": x} for x in prompts]),
        )  # fmt: skip
        trainer.ref_model.load_state_dict(start.model.state_dict())  # it has read a folder; the leash belongs to this very start
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Watch())
        trainer.train()


LEARNERS = {
    "PPO": our_ppo, "PPO with the typed prompt": retaining_ppo, "GRPO": grpo, "RLOO": rloo, "expert iteration": expert_iteration,
    "DPO": dpo, "iterated DPO": iterated_dpo, "iterated DPO without SFT": iterated_dpo,
    "PPO with stochastic beams": exploring(without_replacement), "PPO with diverse beams": exploring(unlike_each_other),
}  # fmt: skip
