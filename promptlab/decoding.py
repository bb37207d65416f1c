"""Decoding with beams: ways to find good rewrites that are unlike each other, or many different ones that still say how likely they are.

A beam search reads several beginnings of a rewrite at once. At each step it scores every token after every beginning and goes
on with the best few. Here are two that transformers 5 does not bring: diverse beam search (Vijayakumar et al. 2018), with
which Promptist explored, and stochastic beams (Kool, van Hoof and Welling 2019), which sample without replacement.
"""

import math
from typing import Any, NamedTuple

from promptlab.rewrites import base, cache_name, distinct, takes
from promptlab.runtime import PromptlabError, bar

DECODERS = ("sample", "greedy", "beam", "diverse_beam", "best_of_n")


def check(decode, n, score=None, num_beams=8, num_beam_groups=4):
    """Whether these settings of `Policy.rewrite` go together. Raises `PromptlabError` that says which do not, and what would."""
    if decode not in DECODERS:
        raise PromptlabError(f"decode={decode!r} is no way to decode. There is {', '.join(map(repr, DECODERS))}.")
    if n < 1:
        raise PromptlabError(f"n={n} asks for no rewrite. Ask for at least 1.")
    if decode == "greedy" and n > 1:
        raise PromptlabError(f"decode='greedy' finds one rewrite per prompt, and n={n} asks for more. Take 'sample' or 'beam'.")
    if decode == "best_of_n" and n < 2:
        raise PromptlabError(f"decode='best_of_n' with n={n} has nothing to choose from. Take n=8, or decode='sample'.")
    if decode == "best_of_n" and score is None:
        raise PromptlabError("decode='best_of_n' needs score=f, where f(plain, written) returns one number per rewrite, higher for better.")
    if decode != "best_of_n" and score is not None:
        raise PromptlabError(f"decode={decode!r} does not look at a score. Leave `score` out, or take decode='best_of_n'.")
    if decode in ("beam", "diverse_beam") and n > num_beams:
        raise PromptlabError(f"num_beams={num_beams} finds at most {num_beams} rewrites, and n={n} asks for more. Take num_beams={n}.")
    if decode == "diverse_beam" and (num_beam_groups < 1 or num_beams % num_beam_groups):
        raise PromptlabError(f"num_beams={num_beams} cannot be split into {num_beam_groups} groups of one size. Take a multiple of it.")


def scored(score, plain, written) -> list[float]:
    """What a reader's `score` says of every rewrite. Raises `PromptlabError` where a number is missing or not one."""
    values = [float(v) for v in score(plain, written)]
    if len(values) != len(written):
        raise PromptlabError(f"score(plain, written) returned {len(values)} numbers for {len(written)} rewrites. Return one for each.")
    for x, y, value in zip(plain, written, values, strict=True):
        if math.isnan(value):
            raise PromptlabError(f"score(plain, written) is not a number for the prompt {x!r} and its rewrite {y!r}.")
    return values


def ranked(texts, values, n) -> list[str]:
    """The same texts, every `n` in a row ordered by their values, the highest first."""
    rows = [sorted(range(i, i + n), key=lambda j: -values[j]) for i in range(0, len(texts), n)]
    return [texts[j] for row in rows for j in row]


class Reader:
    """A causal model that reads on, token by token: what it computed of earlier tokens is kept (a key-value cache).

    Raises `PromptlabError` for a model without such a cache.
    """

    def __init__(self, model, real):
        self.model, self.real, self.cache = model, real, None  # real: bool (rows, length), what is no padding among all that is read
        self.known, self.name = takes(model), cache_name(model)
        if not self.name:
            raise PromptlabError(
                f"{type(base(model)).__name__} keeps a running state in place of a cache, which these beams need. Take 'beam' or 'sample'."
            )

    def read(self, ids):
        """Read the last tokens of every row, ids (rows, length); the log-probability of each next token, float32 (rows, tokens)."""
        given = {"input_ids": ids, "attention_mask": self.real.long(), "use_cache": True, self.name: self.cache}
        if "position_ids" in self.known:  # they count real tokens only, so that padding changes nothing
            given["position_ids"] = (self.real.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self.known:
            given["logits_to_keep"] = 1
        out = self.model(**given)
        self.cache = out[self.name]
        return out.logits[:, -1].float().log_softmax(-1)

    def keep(self, rows):
        """Go on with these rows, in this order; one may come several times."""
        self.cache.reorder_cache(rows)
        self.real = self.real[rows]

    def add(self, tokens):
        """Read one more token in every row, (rows,), as `read` does."""
        import torch

        self.real = torch.cat([self.real, torch.ones_like(self.real[:, :1])], 1)
        return self.read(tokens[:, None])


def continued(model, ids, real, end, new_tokens, choose):
    """New tokens behind every prompt, (n, length), one at a time: `choose(logs, rows)` picks the next of some rows from their scores.

    What transformers' `generate` does, in half the time for twelve of each prompt: a prompt that stands in several rows is read once, and a row that has
    ended is read no further. Args: `ids`, `real` (n, length) as `Policy.encode` returns them. A row that ended is filled up with `end`.
    """
    import torch

    prompts, whole, which = distinct(ids, real)
    reader = Reader(model, whole)
    logs, rows = reader.read(prompts)[which], torch.arange(len(ids), device=ids.device)
    reader.keep(which)
    found = torch.full((len(ids), new_tokens), end, device=ids.device)
    for step in range(new_tokens):
        found[rows, step] = tokens = choose(logs, rows)
        going = tokens != end
        if not going.any() or step == new_tokens - 1:
            break
        if not going.all():
            reader.keep(going.nonzero().flatten())
        rows, logs = rows[going], reader.add(tokens[going])
    return found[:, : step + 1]


def taken(x, index):
    """Per prompt, some of its beams: x (n, beams, ...) and index (n, some) give (n, some, ...)."""
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(*index.shape, *x.shape[2:]))


def rows_of(beams):
    """Where the beams of every prompt, (n, beams), lie when the beams of all prompts lie in one list."""
    import torch

    n, each = beams.shape
    return (torch.arange(n, device=beams.device)[:, None] * each + beams).flatten()


def diverse_beam(
    model, ids, real, end, new_tokens, num_beams=8, num_beam_groups=4, diversity_penalty=1.0, length_penalty=1.0, early_stopping=False
):
    """Diverse beam search (Vijayakumar et al. 2018): groups of beams that avoid the tokens which earlier groups just wrote.

    `ids` (n, length) are padded on the left, `real` is their bool mask. Returns the new tokens, (n, num_beams, new_tokens), the
    `end` token behind what is written, and their scores, (n, num_beams), best first: the sum of the log-probabilities in nats, less
    `diversity_penalty` for every earlier beam with the same token at the same step, divided by length ** length_penalty.

    It gives the very tokens of `generate(num_beam_groups=...)` in transformers 4, padded by `end`, by the same rules. A beam that
    ends is laid aside if it was among the best of its group; a group stops once it laid as many aside as it has beams and none
    better can come, judged by the likeliest beginning at its length now. `early_stopping` "never" judges by the longest length it
    may reach; True stops at once. A group that stopped goes on as end tokens, which later groups avoid like any other.
    """
    import torch

    n, groups, size = len(ids), num_beam_groups, num_beams // num_beam_groups
    new = {"device": ids.device}
    scores = torch.tensor([0.0] + [-1e9] * (size - 1), **new).repeat(n, groups, 1)  # of one beginning only one beam goes on
    written = torch.full((n, num_beams, new_tokens), end, **new).view(n, groups, size, new_tokens)
    aside, aside_scores = written.clone(), torch.full((n, groups, size), -torch.inf, **new)
    done = torch.zeros(n, groups, dtype=torch.bool, **new)

    def lay_aside(g, texts, values):
        """Keep the best `size` of what the group has laid aside and these, where a value is -inf for "not this one"."""
        aside_scores[:, g], best = torch.cat([aside_scores[:, g], values], 1).topk(size)
        aside[:, g] = taken(torch.cat([aside[:, g], texts], 1), best)

    reader = Reader(model, real)
    first = torch.arange(n, **new).repeat_interleave(num_beams)
    logs = reader.read(ids)[first]
    reader.keep(first)
    for step in range(new_tokens):
        logs = logs.view(n, groups, size, -1)
        used, went = logs.new_zeros(n, logs.shape[-1]), []
        for g in range(groups):
            total = logs[:, g] - diversity_penalty * used[:, None] + scores[:, g, :, None]
            values, index = total.flatten(1).topk(2 * size)  # a beam ends in one way only, so at least half of these go on
            beams, tokens = index // logs.shape[-1], index % logs.shape[-1]
            ends, over = tokens == end, done[:, g, None].clone()
            ended = values[:, :size].masked_fill(~ends[:, :size] | over, -torch.inf) / (step + 1) ** length_penalty
            lay_aside(g, taken(written[:, g], beams[:, :size]), ended)
            reached = new_tokens if early_stopping == "never" and length_penalty > 0 else step + 1
            worst, hope = aside_scores[:, g, -1], values[:, 0] / reached**length_penalty
            done[:, g] |= worst.isfinite() & ((worst >= hope) | (early_stopping is True))

            going = ends.int().sort(stable=True).indices[:, :size]  # those that do not end, by their scores
            values, beams, tokens = (x.gather(1, going) for x in (values, beams, tokens))
            scores[:, g], tokens = values, tokens.masked_fill(over, end)
            written[:, g] = taken(written[:, g], beams)
            written[:, g, :, step] = tokens
            used.scatter_add_(1, tokens, torch.ones_like(values))
            went.append(beams + g * size)
        if done.all() or step == new_tokens - 1:
            break
        reader.keep(rows_of(torch.cat(went, 1)))
        logs = reader.add(written[..., step].flatten())
    for g in range(groups):  # what the length limit cuts counts as well
        lay_aside(g, written[:, g], scores[:, g].masked_fill(done[:, g, None], -torch.inf) / new_tokens**length_penalty)
    values, best = aside_scores.flatten(1).sort(descending=True, stable=True)
    return taken(aside.flatten(1, 2), best), values


class Drawn(NamedTuple):
    """Rewrites drawn without replacement, `n` different ones for each of p prompts, in the order drawn."""

    ids: Any  # int64 (p, n, new_tokens): the end token behind what is written
    texts: list  # p lists of n strings
    log_probs: Any  # float64 (p, n): of the whole rewrite, end token included, in nats
    weights: Any  # float64 (p, n): probability / probability of being among the n; 0 where a prompt has fewer than n rewrites


def stochastic_beam(policy, prompts, n, seed=0, new_tokens=48, batch=64, progress=False) -> Drawn:
    """Draw `n` different rewrites of each prompt, as if each drawn one were taken out of the urn (Kool et al. 2019, algorithm 1).

    For any f, the sum of weights * f over the n rewrites is the mean of f under the policy, on average over seeds; divided by the
    sum of the weights it is a little biased and varies less (their section 4.2). What the limit of `new_tokens` cuts counts as a
    rewrite, as in `Policy.sample`. `batch` beams are in work at once. Raises `PromptlabError` for n below 1 or no prompts.
    """
    import torch

    if n < 1 or not prompts:
        raise PromptlabError(f"n={n} rewrites of {len(prompts)} prompts are none. Ask for at least one of one.")
    parts, texts, step = [], [], max(1, batch // (n + 1))
    for i in bar(range(0, len(prompts), step), desc="drawing", disable=not progress):
        ids, real = policy.encode(prompts[i : i + step], policy.room - new_tokens)
        draw = torch.Generator(ids.device).manual_seed(seed + 1_000_003 * i)
        with torch.no_grad():
            found, log_probs, keys = gumbel_beam(policy.model, ids, real, policy.end, new_tokens, n + 1, draw)
        log_probs, keys = log_probs.cpu().double(), keys.cpu().double()
        limit = keys[:, n:]  # the best key that was left out: a rewrite is in when its own exceeds this
        inside = -torch.expm1(-(log_probs[:, :n] - limit).exp())
        weights = (log_probs[:, :n].exp() / inside).where(log_probs[:, :n].isfinite(), 0)
        parts.append((found[:, :n], log_probs[:, :n], weights))
        texts += [policy.texts_of(rows, [p] * n) for rows, p in zip(found[:, :n], prompts[i : i + step], strict=True)]
    ids, log_probs, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    return Drawn(ids, texts, log_probs, weights)


def gumbel_beam(model, ids, real, end, new_tokens, beams, generator):
    """The texts with the largest keys, where a key is the text's log-probability plus Gumbel noise of its own: a top-k of them is a draw.

    Of a beginning the key is the largest among all texts that begin so, which is again Gumbel noise about its log-probability. So keys
    are drawn from the beginning on: those of the children are Gumbel, given that the largest of them is the parent's.
    Returns tokens (n, beams, new_tokens), log-probabilities and keys, float32 (n, beams), by keys; -inf where there are no more texts.
    """
    import torch

    def gumbel(shape):
        return -torch.empty(shape, device=ids.device).exponential_(generator=generator).clamp(min=1e-30).log()

    n = len(ids)
    log_probs = torch.full((n, beams), -torch.inf, device=ids.device)
    log_probs[:, 0] = 0
    keys = log_probs + gumbel((n, beams))
    written = torch.full((n, beams, new_tokens), end, device=ids.device)
    over = log_probs == -torch.inf
    reader = Reader(model, real)
    first = torch.arange(n, device=ids.device).repeat_interleave(beams)
    logs = reader.read(ids)[first]
    reader.keep(first)
    for step in range(new_tokens):
        logs = logs.view(n, beams, -1)
        stay = torch.full_like(logs[:1, :1], -torch.inf)
        stay[..., end] = 0  # what has ended has one way to go on
        logs = log_probs[..., None] + logs.where(~over[..., None], stay)
        noisy = logs + gumbel(logs.shape)
        keys, index = given_largest(noisy, keys[..., None]).where(logs.isfinite(), -torch.inf).flatten(1).topk(beams)
        parents, tokens = index // logs.shape[-1], index % logs.shape[-1]
        log_probs = logs.flatten(1).gather(1, index)
        written = taken(written, parents)
        written[..., step] = tokens
        over = (tokens == end) | (log_probs == -torch.inf)
        if over.all() or step == new_tokens - 1:
            break
        reader.keep(rows_of(parents))
        logs = reader.add(tokens.flatten())
    return written, log_probs, keys


def given_largest(noisy, largest):
    """Gumbel variables moved so that the largest along the last axis is `largest` (Kool et al. 2019, appendix B.3, which does not overflow)."""
    import torch

    gap = noisy - noisy.amax(-1, keepdim=True)
    # log(1 - exp(gap)), exact near 0 and far below it
    rest = torch.where(gap > -math.log(2), (-torch.expm1(gap)).log(), torch.log1p(-gap.exp()))
    v = largest - noisy + rest
    return largest - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
