"""Evaluation: every method on the same prompts and image seeds, differences paired, intervals over families of prompts and training seeds.

Image seeds for training (a million and up, `ppo.PPO.image_seeds`), for selecting and for scoring never meet.
"""

import json
import random
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from promptlab import processes
from promptlab.pictures.sheets import ContactSheet
from promptlab.prompts import split_prompt
from promptlab.rewards import mean_per_pair, promptist_reward
from promptlab.runtime import PromptlabError, data_dir

SCORING = (500_001, 500_002, 500_003, 500_004)  # seeds that only score
SELECTING = (400_001, 400_002)  # seeds that only choose: among best-of-n, among suffixes
LEAST = 2  # prompts in a round of a search: what one says of a suffix may be about that prompt alone
METRICS = ("reward", "aesthetic", "relevance", "gold", "intent", "length")
FIELDS = {"set", "method", "versus", "metric", "mean", "low", "high", "n", "seeds", "per_seed"}  # of a record of `results`


def measure(scorer, records, texts, seeds=SCORING, progress=False) -> dict:
    """Score one method's rewrites of some records: a dict of arrays (prompts,), one per name in METRICS; without a judge no gold, no intent.

    The reward has no KL term. Intent is the share of pictures, in %, in which the judge finds every content word of the
    *typed* prompt; gold is the mean rating, 1-10; length is in words. Of several processes, each draws its own share of the prompts.
    """
    mine = processes.share(len(records))
    plain, texts = [r["x"] for r in records[mine]], list(texts)[mine]
    sheet = ContactSheet(scorer, plain, texts, list(seeds), progress)
    per_prompt = lambda values: mean_per_pair(values, sheet.scores).numpy().astype(float)  # noqa: E731
    judged = {"gold": per_prompt(sheet.gold), "intent": per_prompt(100 * sheet.kept)} if scorer.gallery.judge else {}
    found = {
        "reward": per_prompt(promptist_reward(sheet.scores, scorer.calibration)),
        "aesthetic": per_prompt(sheet.scores.aesthetic),
        "relevance": per_prompt(sheet.scores.relevance),
        **judged,
        "length": np.array([len(t.split()) for t in texts], float),
    }
    parts = processes.every(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in found}


def families_of(records) -> list[tuple]:
    """Which family each prompt belongs to, as a tuple of labels: the nouns it is about, two of a pair; else what it says.

    Prompts about one noun share its picture and what suits it, so they gain and lose together: a target typed in four ways, a
    noun in several colours, both pairs that a noun is in. A noun lies above all these, so it is the family.
    """
    return [tuple(r.get("subjects") or (r["x"],)) for r in records]


@lru_cache(maxsize=16)  # `results` asks about the same few sets of prompts a thousand times
def related(families):
    """Which prompts have a family in common: 0 or 1, (prompts, prompts)."""
    names = {name: i for i, name in enumerate({name for some in families for name in some})}
    member = np.zeros((len(families), len(names)))
    for i, some in enumerate(families):
        member[i, [names[name] for name in some]] = 1
    return (member @ member.T > 0).astype(float)


def between_families(values, families=None):
    """Variance of the mean of one value per prompt, and its degrees of freedom; infinite where all prompts are one family.

    The mean of n values varies by the products of all pairs of deviations, over n^2. Prompts without a common family deviate
    independently, so the products of related ones are all that counts (Aronow, Samii and Assenova 2015). `k` is the effective
    number of families (after Kish 1965): so many of one size would have as many related pairs.
    """
    n, left = len(values), values - values.mean()
    k, square = n, left @ left
    if families is not None:
        if len(families) != n:
            raise PromptlabError(f"Every prompt needs its family: there are {n} prompts and {len(families)} families.")
        pairs = related(tuple(tuple(f) if isinstance(f, (tuple, list)) else (f,) for f in families))
        k, together = n**2 / pairs.sum(), left @ pairs @ left
        square = together if together > 0 else square  # pairs of nouns can, seldom, bring it below zero: then as if unrelated
    return (square / n**2 * k / (k - 1), k - 1) if k > 1 else (np.inf, 1)


def interval(values, families=None, minus=None, minus_families=None):
    """Mean and 95 % interval of (training seeds, prompts) values, over prompts like these and trainings like these: (mean, low, high).

    A row per training seed; with one row the interval is about that one policy. For a paired difference, pass the difference.
    `families` holds a label, or a tuple of labels, per prompt (`families_of`); without it, every prompt is its own.
    `minus` are values of the same training seeds on other prompts, nothing of which is paired: for a difference of differences.

    The variance is that between families plus that between training seeds (two ways of clustering, Cameron, Gelbach and Miller 2011;
    their third term, what both do together, is left in, to be on the safe side). Student's t has Satterthwaite's (1946) degrees of
    freedom. One family shows no variance: its interval is from -inf to inf. Raises `PromptlabError` where families do not fit the prompts.
    """
    from scipy.stats import t

    values = np.atleast_2d(np.asarray(values, float))
    runs, parts = values.mean(1), [between_families(values.mean(0), families)]
    if minus is not None:
        minus = np.atleast_2d(np.asarray(minus, float))
        runs, parts = runs - minus.mean(1), [*parts, between_families(minus.mean(0), minus_families)]
    if len(runs) > 1:
        parts.append((runs.var(ddof=1) / len(runs), len(runs) - 1))
    mean, variance = float(runs.mean()), sum(v for v, _ in parts)
    if variance in (0, np.inf):
        return mean, mean - variance, mean + variance
    freedom = variance**2 / sum(v**2 / df for v, df in parts)
    half = float(t.ppf(0.975, freedom) * variance**0.5)
    return mean, mean - half, mean + half


def results(measured, records, versus=("plain", "suffix", "sft")) -> list[dict]:
    """Tidy records ``{set, method, versus, metric, mean, low, high, n, seeds, per_seed}`` (design.md, section 7).

    `measured` maps a method to one dict of `measure` per training seed. Every method is reported alone and as the paired
    difference to each method in `versus`, as far as they were measured; by set, by kind of source, and as "out minus in": how much
    more it is out of domain.
    """
    families, groups = families_of(records), defaultdict(list)
    for i, r in enumerate(records):
        for name in (r["set"], f"{r['set']}: {r['kind']}"):
            groups[name].append(i)
    asked = {name: (index, None) for name, index in groups.items()}
    if {"in_domain", "out_of_domain"} <= groups.keys():
        asked["out minus in"] = groups["out_of_domain"], groups["in_domain"]
    out = []
    for name, (index, minus) in asked.items():
        ours, theirs = ([families[i] for i in some or ()] for some in (index, minus))
        for method, runs in measured.items():
            for other in (None, *(m for m in versus if m in measured and m != method)):
                for metric in runs[0]:
                    values = np.stack([run[metric] for run in runs])
                    if other:
                        base = np.stack([run[metric] for run in measured[other]])
                        values = values - (base if len(base) == len(values) else base.mean(0))
                    mean, low, high = interval(values[:, index], ours, None if minus is None else values[:, minus], theirs)
                    each = values[:, index].mean(1) - (0 if minus is None else values[:, minus].mean(1))
                    out.append({
                        "set": name, "method": method, "versus": other, "metric": metric, "mean": round(mean, 4), "low": round(low, 4),
                        "high": round(high, 4), "n": len(index) + len(minus or ()), "seeds": len(runs), "per_seed": [round(float(v), 4) for v in each],
                    })  # fmt: skip
    return out


def load_results(path=None) -> list[dict]:
    """The records of the reference run, `data/pocket/results.json`, or of another file that `results` filled.

    Raises `PromptlabError` where the file is missing, damaged or lacks a field.
    """
    path = Path(path or data_dir() / "pocket" / "results.json")
    repair = "`git checkout -- data/pocket` restores it, `python -m promptlab.pocket reference` measures it again."
    try:
        records = json.loads(path.read_text(encoding="utf8"))
        lacking = {field for r in records for field in FIELDS - r.keys()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise PromptlabError(f"{path} cannot be read as results ({type(error).__name__}: {error}). {repair}") from error
    if lacking or not records:
        what = f"a record lacks {', '.join(sorted(lacking))}" if lacking else "it holds no records"
        raise PromptlabError(f"{path} is not a whole evaluation: {what}. {repair}")
    return records


def find(records, **wanted) -> dict:
    """The one record with these values: ``find(records, set="in_domain", method="ppo", versus="sft", metric="reward")``.

    Raises `PromptlabError` where none or several fit, naming the values to choose from.
    """
    fitting = [r for r in records if all(r[key] == value for key, value in wanted.items())]
    if len(fitting) != 1:
        choice = {key: list(dict.fromkeys(r[key] for r in records)) for key in ("set", "method", "versus", "metric")}
        raise PromptlabError(f"{len(fitting)} records fit {wanted}; one should. There is {choice}.")
    return fitting[0]


def ends(found) -> tuple:
    """Mean and ends of what `interval` returns, or of a record as `find` returns it."""
    return tuple(found[key] for key in ("mean", "low", "high")) if isinstance(found, dict) else tuple(found)


def told(found, digits=2) -> str:
    """An interval, or a record of `find`, as the lessons print it: "+0.18 (-0.10 to +0.46)"."""
    return "{:+.{d}f} ({:+.{d}f} to {:+.{d}f})".format(*ends(found), d=digits)


def standing(found) -> str:
    """Where an interval, or a record of `find`, stands: "ahead" if all of it lies above zero, "behind" if below, else "level"."""
    _, low, high = ends(found)
    return "ahead" if low > 0 else "behind" if high < 0 else "level"


def best_of_n(policy, scorer, prompts, n=8, seeds=SELECTING, seed=0, progress=False) -> list[str]:
    """Of `n` sampled rewrites of each prompt, the one with the highest reward on the seeds to choose by: `Policy.rewrite` with this score."""
    if n == 1:  # nothing to choose from
        return policy.sample(prompts, seed=seed).texts

    def score(plain, written):
        return scorer.rewards(plain, written, list(seeds), progress)

    found = policy.rewrite(prompts, n, "best_of_n", seed=seed, score=score, new_tokens=48, batch=n * len(prompts))  # the noise of one batch
    return [best for best, *_ in found]


def race(suffixes) -> int:
    """How many pictures a race of so many suffixes takes at least."""
    return LEAST * (suffixes + 1) + race(suffixes // 2) if suffixes > 1 else 0


def earned(scorer, prompts, suffixes, seed, progress=False):
    """The summed reward of every suffix over some prompts, drawn from one seed: (suffixes,)."""
    x, y = [p for _ in suffixes for p in prompts], [f"{p}, {suffix}" for suffix in suffixes for p in prompts]
    return scorer.rewards(x, y, [seed], progress).view(len(suffixes), len(prompts)).sum(1).numpy().astype(float)


def best_suffix(scorer, prompts, candidates, budget, seeds=SELECTING, seed=0, progress=False) -> str:
    """The one suffix that earns most on average over `prompts`, found by successive halving with at most `budget` pictures.

    Every picture counts, those of the plain prompts too. In a round all suffixes still in the race get the same new prompts, one
    picture each, as more prompts tell more than more pictures of one; then the half with the lower mean so far leaves. Rounds spend
    equal parts of the budget (Karnin, Koren and Somekh 2013), but none has fewer than two prompts: where that is too dear for all
    candidates, as many as the budget allows are drawn at random. It ends early when `prompts` on all `seeds` are used up.
    """
    rng, left = random.Random(seed), list(dict.fromkeys(candidates))
    left = rng.sample(left, next(n for n in range(len(left), 0, -1) if race(n) <= budget))
    some = rng.sample(list(prompts), len(prompts))
    fresh = [(p, seeds[(i + turn) % len(seeds)]) for turn in range(len(seeds)) for i, p in enumerate(some)]
    means, seen = np.zeros(len(left)), 0
    while len(left) > 1 and fresh:
        equal = budget // (len(left).bit_length() - 1) // (len(left) + 1)  # of the rounds to come
        each = min(max(LEAST, equal), (budget - race(len(left) // 2)) // (len(left) + 1))
        now, fresh = fresh[:each], fresh[each:]
        total = sum(earned(scorer, [p for p, z in now if z == s], left, s, progress) for s in dict.fromkeys(z for _, z in now))
        means, seen = (means * seen + total) / (seen + len(now)), seen + len(now)
        budget -= len(now) * (len(left) + 1)
        best = np.argsort(-means, kind="stable")[: len(left) // 2]
        left, means = [left[i] for i in best], means[best]
    return left[0]


def suffix_of(text) -> str:
    """What a rewrite adds, as a set in a fixed order: two rewrites with the same modifiers have the same suffix."""
    return ", ".join(sorted(split_prompt(text)[1]))


def diversity(texts, embeddings=None) -> dict:
    """How varied a method's rewrites are.

    `distinct_suffixes` per 100 prompts, `distinct_1` and `distinct_2` (different words and pairs of words over all, Li
    et al. 2016), and with `embeddings` (n, width) of one picture each, `image_diversity`: their mean cosine distance.
    """
    words = [text.replace(",", " ").split() for text in texts]
    grams = {n: Counter(tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)) for n in (1, 2)}
    out = {"distinct_suffixes": 100 * len({suffix_of(t) for t in texts}) / len(texts)}
    out |= {f"distinct_{n}": len(count) / max(1, sum(count.values())) for n, count in grams.items()}
    if embeddings is not None and len(embeddings) > 1:
        n, total = len(embeddings), np.asarray(embeddings, float).sum(0)
        out["image_diversity"] = float(1 - (total @ total - n) / (n * (n - 1)))  # of embeddings of length 1
    return out
