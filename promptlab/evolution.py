"""Evolving keywords with a person in the loop: masks over a community's keywords, bred by who wins blind comparisons.

Source: Pavlichenko and Ustalov 2023, "Best Prompts for Text-to-Image Models and How to Find Them" (arXiv 2209.11711). A mask holds one
bit per keyword; its *ending* is the keywords it switches on, behind commas, and names it in every comparison.
"""

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np

from promptlab.preferences import bradley_terry
from promptlab.prompts import split_prompt
from promptlab.runtime import PromptlabError, bar


def popular(records, count=100) -> list[str]:
    """The most used keywords of some records' engineered prompts, the most popular first; each prompt counts once."""
    prompts = dict.fromkeys(r["y"] for r in records if r["y"])
    uses = Counter(word for y in prompts for word in dict.fromkeys(split_prompt(y)[1]))
    return [word for word, _ in uses.most_common(count)]


def ending(mask, words) -> str:
    """The keywords that a mask switches on, in the order of `words`."""
    return ", ".join(word for bit, word in zip(mask, words, strict=True) if bit)


def mask_of(text, words) -> list[int]:
    """The mask of an ending: `ending` backwards. Raises `PromptlabError` for a keyword that is not in `words`."""
    parts = text.split(", ") if text else []
    if unknown := [part for part in parts if part not in words]:
        raise PromptlabError(f"{unknown[0]!r} is none of the {len(words)} keywords, such as {words[0]!r}.")
    return [int(word in parts) for word in words]


def with_ending(prompt, text) -> str:
    """A prompt with an ending behind it; an empty ending leaves it alone."""
    return f"{prompt}, {text}" if text else prompt


def by_chance(count, words, on, rng) -> list[str]:
    """`count` different endings of `on` keywords each, drawn by chance. Raises `PromptlabError` where there are not so many."""
    if count > math.comb(len(words), on):
        raise PromptlabError(
            f"There are no {count} different endings of {on} of {len(words)} keywords. Ask for fewer, or give more keywords."
        )
    found = {}
    while len(found) < count:
        chosen = set(rng.sample(words, on))
        found[ending([word in chosen for word in words], words)] = None
    return list(found)


def breed(parents, count, words, rng, mutation=None, crossover=True, seen=()) -> list[str]:
    """`count` new endings: two parents by chance, two-point crossover, then every bit flipped with chance `mutation` (1 / keywords).

    Without `crossover` a child is one parent, mutated. What is in `seen` is not made again. Both operators are DEAP's. Raises
    `PromptlabError` where hardly anything new can be made.
    """
    from deap import tools

    mutation = 1 / len(words) if mutation is None else mutation
    state, found, known = random.getstate(), [], {*parents, *seen}
    random.seed(rng.random())  # DEAP draws from the one generator of the module `random`: it is given back as it was
    try:
        for _ in range(1000 * count):
            if len(found) == count:
                break
            one, other = (mask_of(parent, words) for parent in random.sample(parents, 2))
            if crossover:
                tools.cxTwoPoint(one, other)
            tools.mutFlipBit(one, mutation)
            if (child := ending(one, words)) not in known:
                found.append(child)
                known.add(child)
    finally:
        random.setstate(state)
    if len(found) < count:
        raise PromptlabError(
            f"{len(parents)} parents give {len(found)} new endings, not {count}. Use a mutation above {mutation:g}, or more parents."
        )
    return found


def pairings(endings, prompts, rounds, rng) -> list[dict]:
    """Pairs for `preferences.Choices`: in each round the endings stand in a ring, shuffled, and each is compared with both neighbours.

    A round is about one prompt and one image seed, both by chance, so that only the keywords differ. It gives as many pairs as endings
    (one for two), and takes as many pictures.
    """
    pairs = []
    for _ in range(rounds):
        prompt, seed, order = rng.choice(prompts), rng.randrange(100_000), rng.sample(endings, len(endings))
        ring = order + order[:1] if len(order) > 2 else order
        for a, b in pairwise(ring):
            texts = {"text_a": with_ending(prompt, a), "text_b": with_ending(prompt, b)}
            pairs.append({"prompt": prompt, "seed": seed, "method_a": a, "method_b": b, **texts})
    return pairs


def answers(choices) -> list[tuple]:
    """What a reader chose, as (ending, other, how far the first won, prompt); a skipped pair is left out, one that came back counts once."""
    made = [(choices.pairs[pair], won) for (pair, again), won in choices.choices.items() if won is not None and not again]
    return [(ask["left"]["method"], ask["right"]["method"], won, ask["prompt"]) for ask, won in made]


def simulated(gallery, pairs, rng, noise=1.0, progress=False) -> list[tuple]:
    """What a simulated reader of the gold taste chooses, in the form of `answers`.

    The picture whose gold is `d` higher is chosen with chance 1 / (1 + exp(-d / noise)); with `noise` infinite the reader tosses a coin.
    """
    chance = np.full(len(pairs), 0.5)
    if np.isfinite(noise):  # who tosses a coin need not look
        sides = [(pair[f"text_{side}"], pair["seed"], pair["prompt"]) for pair in pairs for side in "ab"]
        texts, seeds, plain = map(list, zip(*sides, strict=True))
        gold = gallery.judge.gold(gallery.facts(texts, seeds, progress), plain).reshape(-1, 2)
        chance = 1 / (1 + np.exp(-(gold[:, 0] - gold[:, 1]) / noise))
    return [(p["method_a"], p["method_b"], float(rng.random() < c), p["prompt"]) for p, c in zip(pairs, chance, strict=True)]


def ranking(answered) -> dict:
    """Bradley-Terry scores of all endings over all comparisons so far: `{ending: (score, low, high)}`, the best first."""
    return bradley_terry([a[:3] for a in answered], [a[3] for a in answered])


def champion(ranked) -> str:
    """The ending with the highest lower end of its interval: by score alone, one of many newcomers would lead by luck."""
    return max(ranked, key=lambda name: ranked[name][1])


def evolve(start, make, ask, generations, keep=6, progress=False) -> tuple[list[str], list[tuple]]:
    """Compare, rank, keep the best, make new ones, and again.

    Args: `start` the first endings; `make(parents, count, seen)` new ones (`breed`, or chance for a fair rival); `ask(endings)` compares some
    and returns `answers`; `keep` of all endings ever made stay, by score. Returns the champion of every generation, and all answers.
    """
    current, answered, best = list(start), [], []
    for _ in bar(range(generations), desc="generations", disable=not progress):
        answered += ask(current)
        ranked = ranking(answered)
        best.append(champion(ranked))
        parents = list(ranked)[:keep]
        current = parents + list(make(parents, len(start) - len(parents), list(ranked)))
    return best, answered
