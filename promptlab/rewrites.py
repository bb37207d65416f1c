"""Rewrites as tokens, and what a model thinks of each of them: exact log-probabilities, with adapters (LoRA) or without.

What PPO learns from are the sampled token ids themselves: they are never decoded and tokenised again.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from promptlab.runtime import PromptlabError


@dataclass
class Rewrites:
    """Sampled rewrites as tokens: prompts padded on the left, rewrites on the right, one row each."""

    ids: Any  # int64 (n, length): prompt, then rewrite
    real: Any  # bool (n, length): a token of the prompt or the rewrite, its end token included; not padding
    start: int  # the column at which every rewrite begins
    texts: list  # the rewrites in words; the prompt itself where one has none: nothing gained, nothing lost
    finished: Any  # bool (n,): ended by itself; False where the length limit cut it

    def __len__(self):
        return len(self.texts)

    @property
    def mask(self):
        """Which tokens were chosen by the policy: bool (n, length - start), the end token included."""
        return self.real[:, self.start :]

    def rows(self, index):
        """Some rows, as `Rewrites`."""
        return Rewrites(self.ids[index], self.real[index], self.start, [self.texts[i] for i in index.tolist()], self.finished[index])


def log_probs(model, rewrites: Rewrites):
    """Log-probability of every chosen token, and the entropy of each choice: two float32 (n, length - start) tensors."""
    logs, _ = choices(model, rewrites)
    return chosen(logs, rewrites), entropy(logs)


def choices(model, rewrites: Rewrites, states=False):
    """What the model thought at every choice: log-probabilities of all tokens, float32 (n, length - start, tokens).

    With `states`, also its last hidden states there, float32 (n, length - start, width); else None. Position ids count real
    tokens only, so that padding on the left changes nothing.
    """
    out, here = model(**inputs(rewrites, model), output_hidden_states=states), slice(rewrites.start - 1, -1)
    return out.logits[:, here].float().log_softmax(-1), out.hidden_states[-1][:, here].float() if states else None


def chosen(logs, rewrites):
    """The log-probability of each token that was chosen, of `choices`."""
    return logs.gather(-1, rewrites.ids[:, rewrites.start :, None]).squeeze(-1)


def entropy(logs):
    """The entropy of each choice in nats: minus the expected log-probability."""
    return -(logs.exp() * logs).sum(-1)


def inputs(rewrites: Rewrites, model) -> dict:
    """What a causal model of transformers is called with to read these rewrites; some (BLOOM, MPT, Mamba) take no position ids."""
    known = {"input_ids": rewrites.ids, "attention_mask": rewrites.real.long(), "use_cache": False}
    plain = model.get_base_model() if has_adapters(model) else model
    if "position_ids" in inspect.signature(plain.forward).parameters:
        known["position_ids"] = (rewrites.real.long().cumsum(1) - 1).clamp(min=0)
    return known


def has_adapters(model) -> bool:
    """Whether this model is trained by low-rank adapters."""
    return hasattr(model, "merge_and_unload")


def with_adapters(model, rank):
    """The model with all of it frozen and low-rank adapters on its linear layers to train (LoRA, Hu et al. 2021); itself if `rank` is 0.

    They start as no change at all. Raises `PromptlabError` where the library peft is missing.
    """
    if not rank:
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise PromptlabError("Adapters need the library peft. To repair it: pip install peft") from error
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # half of an adapter starts at random
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"))


def merged(model):
    """The model with its adapters added into its weights, all of them free to train again. Itself where it has none."""
    return model.merge_and_unload().requires_grad_(True) if has_adapters(model) else model
