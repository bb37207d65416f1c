"""Rewrites as tokens, and what a model thinks of each of them: exact log-probabilities, with adapters (LoRA) or without.

What PPO learns from are the sampled token ids themselves: they are never decoded and tokenised again.
"""

import inspect
from dataclasses import dataclass, replace
from typing import Any

from promptlab.runtime import PromptlabError
from promptlab.sharding import on

READ_AT_ONCE = 24  # rows, on a CPU: those of like length together have little padding, which costs as much time as words


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
    """What the model thought at every choice: log-probabilities of all tokens, float32 (n, length - start, tokens); zero behind the end.

    With `states`, also its last hidden states there, float32 (n, length - start, width); else None. Every row is read from its first
    real token on, or behind its prompt where several share one, so that padding on the left changes nothing; a token that nothing
    precedes is no choice, and has zeros.
    """
    import torch

    n, width = rewrites.mask.shape
    past, alike = shared_prompts(model, rewrites), []
    if past is None:
        first, lengths = rewrites.real.int().argmax(1), rewrites.real.sum(1)
    else:  # from the last token of the prompt on; the last one of a rewrite chooses nothing any more
        first, lengths = torch.full_like(rewrites.ids[:, 0], rewrites.start - 1), rewrites.mask.sum(1)
    for rows in lengths.argsort(stable=True).split(READ_AT_ONCE if rewrites.ids.device.type == "cpu" and not on() else n):
        places = torch.arange(max(1, int(lengths[rows].max())), device=lengths.device)
        ids = rewrites.ids[rows].gather(1, (first[rows, None] + places).clamp(max=rewrites.ids.shape[1] - 1))
        given = inputs(replace(rewrites, ids=ids, real=places < lengths[rows, None]), model, past and past.rows(rows))
        out = model(**given, output_hidden_states=states)
        row, token = rewrites.mask[rows].nonzero(as_tuple=True)
        before = rewrites.start + token - first[rows[row]] - 1  # the place at which the token is chosen
        row, token, before = (x[before >= 0] for x in (row, token, before))
        found = [out.logits[row, before].float().log_softmax(-1)] + ([out.hidden_states[-1][row, before].float()] if states else [])
        alike.append((rows[row] * width + token, *found))
    at, *found = map(torch.cat, zip(*alike, strict=True))
    logs, *hidden = (x.new_zeros(n * width, x.shape[-1]).index_copy(0, at, x).view(n, width, -1) for x in found)
    return logs, hidden[0] if states else None


def chosen(logs, rewrites):
    """The log-probability of each token that was chosen, of `choices`."""
    return logs.gather(-1, rewrites.ids[:, rewrites.start :, None]).squeeze(-1)


def entropy(logs):
    """The entropy of each choice in nats: minus the expected log-probability."""
    return -(logs.exp() * logs).sum(-1)


@dataclass
class Past:
    """What a model remembers of the prompts of some rows: they need not be read again."""

    layers: list  # of each, keys and values (prompts, heads, length, width)
    real: Any  # bool (prompts, length): no padding
    which: Any  # int64 (n,): the prompt of each row

    def rows(self, index):
        """Of some rows, as `Past`."""
        return Past(self.layers, self.real, self.which[index])

    def cache(self):
        """The same as transformers wants it: a copy for each row, to which more can be added."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, (keys, values) in enumerate(self.layers):
            cache.update(keys[self.which], values[self.which], i)
        return cache


def shared_prompts(model, rewrites) -> Past | None:
    """All but the last token of each prompt, read once for all its rewrites: learning from twelve of each takes a quarter to a third less time.

    None where it would save nothing, or the model cannot: some (Mamba) remember in another way, some trade memory for time.
    """
    from transformers import DynamicCache

    end, trades = rewrites.start - 1, any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    layers = set(getattr(base(model).config.get_text_config(), "layer_types", None) or ())
    able = cache_name(model) and layers <= {"full_attention", "sliding_attention", "chunked_attention"}  # all have keys and values
    if on() or trades or not able or end < 1 or not rewrites.real[:, end - 1].all():
        return None
    ids, real, which = distinct(rewrites.ids[:, :end], rewrites.real[:, :end])
    if len(ids) == len(which):
        return None
    cache = DynamicCache()
    model(**inputs(replace(rewrites, ids=ids, real=real), model) | {cache_name(model): cache, "use_cache": True})
    return Past([(layer.keys, layer.values) for layer in cache.layers], real, which)


def distinct(ids, real):
    """Each prompt once, of ids (n, length) and a bool mask: the same two with a row for each, and int64 (n,), which of them stands in a row."""
    import torch

    prompts, which = torch.unique(torch.cat([ids, real.long()], 1), dim=0, return_inverse=True)
    return prompts[:, : ids.shape[1]], prompts[:, ids.shape[1] :].bool(), which


def inputs(rewrites: Rewrites, model, past: Past | None = None) -> dict:
    """What a causal model of transformers is called with to read these rewrites; some (BLOOM, MPT, Mamba) take no position ids."""
    import torch

    real = rewrites.real if past is None else torch.cat([past.real[past.which], rewrites.real], 1)
    known = {"input_ids": rewrites.ids, "attention_mask": real.long(), "use_cache": False}
    if "position_ids" in takes(model):
        known["position_ids"] = (real.long().cumsum(1) - 1).clamp(min=0)[:, -rewrites.ids.shape[1] :]
    return known if past is None else known | {cache_name(model): past.cache(), "use_cache": True}


def base(model):
    """The model itself, without what trains its adapters."""
    return model.get_base_model() if has_adapters(model) else model


def takes(model):
    """What a causal model of transformers may be called with: the names of its inputs."""
    return inspect.signature(base(model).forward).parameters


def cache_name(model) -> str:
    """What a model calls its key-value cache: "cache", in older transformers "past_key_values"; "" where it keeps a state instead (Mamba)."""
    stateful = getattr(base(model), "_is_stateful", True)
    return "" if stateful else next((name for name in ("cache", "past_key_values") if name in takes(model)), "")


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
