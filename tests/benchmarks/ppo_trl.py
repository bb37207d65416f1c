"""TRL's online trainers doing our work: the same policy, tokens, rewards and number of gradient steps as `promptlab.ppo`.

TRL's own lines run, except the one function of each trainer that writes: in its place stands one that waits for the next turn and
hands over the given rewrites. So a turn is everything between two rollouts: reading, advantages, gradient steps, logging.
Both defaults that are made for GPUs are off, bf16 and gradient checkpointing: each would slow them down here.
"""

import copy
import os
import tempfile

import torch

from promptlab.policy import MARK, rewrite_or_prompt
from promptlab.runtime import device

LR = 1e-6  # where speed is measured: the same rewrites are learnt from again and again


def common(**more):
    """What all their configurations are told."""
    return {
        "output_dir": tempfile.mkdtemp(), "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "bf16": False,
        "gradient_checkpointing": False, "adam_beta2": 0.95, "lr_scheduler_type": "constant", "use_cpu": device().type == "cpu",
        "dataloader_pin_memory": False, "num_train_epochs": 1, "learning_rate": LR, **more,
    }  # fmt: skip


def ids_of(rewrites):
    """The tokens of prompts and of rewrites, two lists of lists without padding."""
    start = rewrites.start
    prompts = [row[real].tolist() for row, real in zip(rewrites.ids[:, :start], rewrites.real[:, :start], strict=True)]
    return prompts, [row[real].tolist() for row, real in zip(rewrites.ids[:, start:], rewrites.mask, strict=True)]


def online(name, policy, settings, reward, plain):
    """TRL's GRPOTrainer or RLOOTrainer, one generation of which is one of our batches."""
    import trl
    from datasets import Dataset

    s = settings
    config = getattr(trl, f"{name}Config")(**common(
        per_device_train_batch_size=s.prompts * s.samples, num_generations=s.samples, num_iterations=s.epochs, beta=s.kl, epsilon=s.clip,
        max_completion_length=s.new_tokens, temperature=1.0, max_steps=1_000_000,
    ))  # fmt: skip
    rows = Dataset.from_list([{"prompt": x + MARK, "x": x} for x in plain[:: s.samples]])
    return getattr(trl, f"{name}Trainer")(
        model=policy.model, reward_funcs=reward, args=config, train_dataset=rows, processing_class=policy.tokenizer
    )


def online_updates(name, policy, settings, rewrites, scores, plain, turns):
    """Learn from the given rewrites, a turn at a time."""
    import trl

    (prompts, written), _ = ids_of(rewrites), getattr(trl, f"{name}Trainer")  # imported before memory is counted
    turns.starts()
    trainer = online(name, policy, settings, lambda completions, **_: scores.tolist(), plain)
    trainer._tokenize_prompts = lambda *_: (prompts, None, {})

    def given(*_):
        turns.wait()
        return (written, None) if name == "GRPO" else written

    trainer._generate_single_turn = given
    trainer.train()


def online_rollout(name, policy, settings, plain, reward):
    """A function that makes one rollout, pictures included: `reward(plain, written)`."""

    def paid(completions, x, **_):
        return reward(x, [rewrite_or_prompt(text.strip(), typed) for text, typed in zip(completions, x, strict=True)])

    trainer = online(name, policy, settings, paid, plain)
    trainer.model.train()
    return lambda some: trainer._generate_and_score_completions([{"prompt": x + MARK, "x": x} for x in some])


class Given(torch.nn.Module):
    """In the place of the reward model that TRL's PPO asks for: it reads nothing and gives each row its score."""

    base_model_prefix = "body"

    def __init__(self, scores):
        super().__init__()
        self.scores = scores
        self.body = lambda input_ids, **_: type("Out", (), {"hidden_states": [torch.zeros(*input_ids.shape, 1, device=input_ids.device)]})

    def score(self, states):
        return self.scores.to(states.device)[:, None, None].expand(*states.shape)


def ppo_updates(policy, settings, rewrites, scores, turns):
    """TRL 1.12's PPOTrainer on the given rewrites: policy, reference and a value model of full size."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import GPT2ForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    s, n = settings, len(rewrites)
    # With padding like the end token it would not learn to end: any token that occurs nowhere serves.
    pad = next(i for i in range(policy.rows) if not (rewrites.ids == i).any())
    policy.tokenizer.pad_token_id, policy.tokenizer.padding_side = pad, "left"
    ids = rewrites.ids.masked_fill(~rewrites.real, pad)
    config = PPOConfig(**common(
        per_device_train_batch_size=n, local_rollout_forward_batch_size=n, total_episodes=n * 1_000_000, num_ppo_epochs=s.epochs,
        num_mini_batches=-(-n // s.minibatch), response_length=ids.shape[1] - rewrites.start, stop_token="eos", temperature=1.0, kl_coef=s.kl,
        cliprange=s.clip, cliprange_value=s.value_clip, vf_coef=2.3, gamma=s.gamma, lam=s.lam, num_sample_generations=0,
    ))  # fmt: skip
    with torch.no_grad():  # it takes the log-probabilities from the scores that generation leaves behind, so it gets them for nothing
        logits = policy.model(**known(rewrites)).logits[:, rewrites.start - 1 : -1].clone()

    def given(*_):
        turns.wait()
        return ids, logits

    ppo_trainer.batch_generation = given
    turns.starts()
    shape = copy.deepcopy(policy.model.config)
    shape.num_labels = 1
    critic = GPT2ForSequenceClassification(shape)
    critic.transformer.load_state_dict(policy.model.transformer.state_dict())
    prompts = Dataset.from_list([{"input_ids": row} for row in ids_of(rewrites)[0]])
    PPOTrainer(
        args=config, processing_class=policy.tokenizer, model=policy.model, ref_model=copy.deepcopy(policy.model), reward_model=Given(scores),
        train_dataset=prompts, value_model=critic,
    ).train()  # fmt: skip


def known(rewrites):
    """What the policy reads to score the rewrites."""
    real = rewrites.real.long()
    return {"input_ids": rewrites.ids, "attention_mask": real, "position_ids": (real.cumsum(1) - 1).clamp(min=0)}
