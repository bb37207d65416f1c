"""Searching all combinations of medium, background and light for what the gold rater likes best."""

from itertools import combinations, product

import numpy as np

from promptlab.pocket.captions import BACKGROUND_WORDS, EFFECT_WORDS, MEDIUM_WORDS
from promptlab.pocket.pairs import GOOD
from promptlab.pocket.pictures import BACKGROUNDS, MEDIA, Picture
from promptlab.pocket.subjects import KIND, KINDS, SUBJECTS

EFFECT_SETS = ((), *((e,) for e in GOOD), *combinations(GOOD, 2))
COMBINATIONS = tuple(product(MEDIA, BACKGROUNDS, EFFECT_SETS))  # 9 x 7 x 16 = 1008


def suffix(combination) -> str:
    """The plainest wording of a combination: ``oil painting, at sunset, warm light``."""
    medium, background, effects = combination
    return ", ".join([MEDIUM_WORDS[medium][0], BACKGROUND_WORDS[background][0], *(EFFECT_WORDS[e][0] for e in effects)])


def subjects_per_kind(count, seed):
    """`count` subjects of every kind, chosen by seed, in the order of KINDS."""
    rng = np.random.default_rng(seed)
    return [str(s) for kind in KINDS for s in rng.choice([x for x in SUBJECTS if KIND[x] == kind], count, replace=False)]


def best_choices(scores, kinds, weights):
    """From selection scores (subjects, combinations) to the best fixed combination and the best one per kind (indices)."""
    fixed = int(np.average(scores, axis=0, weights=weights).argmax())
    return fixed, {kind: int(scores[kinds == kind].mean(0).argmax()) for kind in dict.fromkeys(kinds)}


def bootstrap(values, weights=None, draws=2000, seed=0):
    """Mean of per-subject values and its 95 % interval, resampling subjects: (mean, low, high)."""
    values = np.asarray(values, float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    rows = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = (values[rows] * weights[rows]).sum(1) / weights[rows].sum(1)
    return float((values * weights).sum() / weights.sum()), *(float(x) for x in np.percentile(means, (2.5, 97.5)))


def compare(rate, per_kind=4, fresh=8, seed=0):
    """How much choosing by subject is worth: plain against the best fixed suffix against the best per kind.

    `rate(list of (subject, combination or None, seed))` gives gold per entry. Choices are made on some subjects and
    seeds, and scored on other subjects and other seeds, weighted by how many subjects each kind has. Returns a dict with
    (mean, low, high) triples `plain`, `fixed`, `by kind`, `fixed - plain`, `by kind - fixed`, the chosen combinations and
    the largest share of subjects that one medium is best for.
    """
    drawn = np.array(subjects_per_kind(per_kind + fresh, seed)).reshape(len(KINDS), -1)
    chosen_on, scored_on = drawn[:, :per_kind].ravel().tolist(), drawn[:, per_kind:].ravel().tolist()
    kinds = np.array([KIND[s] for s in chosen_on])
    share = {kind: sum(k == kind for k in KIND.values()) for kind in KINDS}

    def weight(subjects):
        return np.array([share[KIND[s]] for s in subjects], float)

    scores = np.array(rate([(s, c, 0) for s in chosen_on for c in COMBINATIONS])).reshape(len(chosen_on), -1)
    fixed, by_kind = best_choices(scores, kinds, weight(chosen_on))
    media = np.array([COMBINATIONS[i][0] for i in scores.argmax(1)])
    share_of_best = {m: float(weight(chosen_on)[media == m].sum() / weight(chosen_on).sum()) for m in MEDIA}
    seeds = (1, 2)
    ask = [(s, c, z) for s in scored_on for c in (None, COMBINATIONS[fixed], COMBINATIONS[by_kind[KIND[s]]]) for z in seeds]
    plain, suffixed, suited = np.array(rate(ask)).reshape(len(scored_on), 3, len(seeds)).mean(2).T
    w = weight(scored_on)
    return {
        "plain": bootstrap(plain, w), "fixed": bootstrap(suffixed, w), "by kind": bootstrap(suited, w),
        "fixed - plain": bootstrap(suffixed - plain, w), "by kind - fixed": bootstrap(suited - suffixed, w),
        "fixed suffix": suffix(COMBINATIONS[fixed]), "suffix by kind": {k: suffix(COMBINATIONS[i]) for k, i in by_kind.items()},
        "largest share of one medium": max(share_of_best.values()), "share by medium": share_of_best,
    }  # fmt: skip


def picture_of(subject, combination, seed) -> Picture:
    """The render that stands for (subject, combination, seed); without a combination, the dull picture a bare noun draws."""
    rng = np.random.default_rng([seed, SUBJECTS.index(subject)])
    unnamed = dict(mirrored=bool(rng.integers(2)), variant=int(rng.integers(3)))
    if combination is None:
        return Picture((subject,), **unnamed)
    return Picture((subject,), None, *combination, **unnamed)
