"""Evaluation: every method on the same prompts and image seeds, differences paired, intervals by bootstrap.

Image seeds for training (a million and up, `ppo.PPO.image_seeds`), for selecting and for scoring never meet.
"""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from promptlab.pictures.sheets import ContactSheet
from promptlab.prompts import split_prompt
from promptlab.rewards import mean_per_pair, promptist_reward
from promptlab.runtime import PromptlabError, data_dir

SCORING = (500_001, 500_002, 500_003, 500_004)  # seeds that only score
SELECTING = (400_001, 400_002)  # seeds that only choose: among best-of-n, among suffixes
METRICS = ("reward", "aesthetic", "relevance", "gold", "intent", "length")
FIELDS = {"set", "method", "versus", "metric", "mean", "low", "high", "n", "seeds", "per_seed"}  # of a record of `results`


def measure(scorer, records, texts, seeds=SCORING, progress=False) -> dict:
    """Score one method's rewrites of some records: a dict of arrays (prompts,), one per name in METRICS; without a judge no gold, no intent.

    The reward has no KL term. Intent is the share of pictures, in %, in which the judge finds every content word of the
    *typed* prompt; gold is the mean rating, 1-10; length is in words.
    """
    plain = [r["x"] for r in records]
    sheet = ContactSheet(scorer, plain, texts, list(seeds), progress)
    per_prompt = lambda values: mean_per_pair(values, sheet.scores).numpy().astype(float)  # noqa: E731
    judged = {"gold": per_prompt(sheet.gold), "intent": per_prompt(100 * sheet.kept)} if scorer.gallery.judge else {}
    return {
        "reward": per_prompt(promptist_reward(sheet.scores, scorer.calibration)),
        "aesthetic": per_prompt(sheet.scores.aesthetic),
        "relevance": per_prompt(sheet.scores.relevance),
        **judged,
        "length": np.array([len(t.split()) for t in texts], float),
    }


def redrawn(values, rows, rng):
    """Bootstrap means of (training seeds, prompts) values: the drawn training seeds `rows` (draws, seeds), prompts drawn here."""
    columns = rng.integers(values.shape[1], size=(len(rows), values.shape[1]))
    return values[rows[:, :, None], columns[:, None, :]].mean((1, 2))


def interval(values, minus=None, draws=2000, seed=0):
    """Mean and 95 % bootstrap interval of (training seeds, prompts) values, resampling both; (mean, low, high).

    A row per training seed; a method without training has one row. For a paired difference, pass the difference. `minus`
    are values of the same training seeds on other prompts, nothing of which is paired: for a difference of differences.
    """
    values, rng = np.atleast_2d(np.asarray(values, float)), np.random.default_rng(seed)
    rows = rng.integers(len(values), size=(draws, len(values)))
    mean, means = values.mean(), redrawn(values, rows, rng)
    if minus is not None:
        minus = np.atleast_2d(np.asarray(minus, float))
        mean, means = mean - minus.mean(), means - redrawn(minus, rows, rng)
    return float(mean), *map(float, np.percentile(means, (2.5, 97.5)))


def results(measured, records, versus=("plain", "suffix", "sft")) -> list[dict]:
    """Tidy records ``{set, method, versus, metric, mean, low, high, n, seeds, per_seed}`` (design.md, section 7).

    `measured` maps a method to one dict of `measure` per training seed. Every method is reported alone and as the paired
    difference to each method in `versus`, as far as they were measured; by set, by kind of source, and as "out minus in": how much
    more it is out of domain.
    """
    groups = defaultdict(list)
    for i, r in enumerate(records):
        for name in (r["set"], f"{r['set']}: {r['kind']}"):
            groups[name].append(i)
    asked = {name: (index, None) for name, index in groups.items()}
    if {"in_domain", "out_of_domain"} <= groups.keys():
        asked["out minus in"] = groups["out_of_domain"], groups["in_domain"]
    out = []
    for name, (index, minus) in asked.items():
        for method, runs in measured.items():
            for other in (None, *(m for m in versus if m in measured and m != method)):
                for metric in runs[0]:
                    values = np.stack([run[metric] for run in runs])
                    if other:
                        base = np.stack([run[metric] for run in measured[other]])
                        values = values - (base if len(base) == len(values) else base.mean(0))
                    mean, low, high = interval(values[:, index], None if minus is None else values[:, minus])
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


def best_of_n(policy, scorer, prompts, n=8, seeds=SELECTING, seed=0, progress=False) -> list[str]:
    """Of `n` sampled rewrites of each prompt, the one with the highest reward on the seeds to choose by."""
    rewrites = policy.sample([p for p in prompts for _ in range(n)], seed=seed).texts
    rewards = scorer.rewards([p for p in prompts for _ in range(n)], rewrites, list(seeds), progress).view(len(prompts), n)
    return [rewrites[i * n + int(best)] for i, best in enumerate(rewards.argmax(1))]


def best_suffix(scorer, prompts, candidates, budget, seeds=SELECTING, seed=0, progress=False) -> str:
    """The one suffix that earns most on average over `prompts`, found by successive halving with `budget` pictures.

    Each round spends an equal part of the budget on the suffixes still in the race, then drops the worse half
    (Karnin, Koren and Somekh 2013).
    """
    rng, left = random.Random(seed), list(dict.fromkeys(candidates))
    rounds = max(1, int(np.ceil(np.log2(len(left)))))
    for _ in range(rounds):
        each = max(1, budget // (rounds * len(left) * len(seeds)))
        some = [rng.choice(prompts) for _ in range(each)]  # the same prompts for every suffix: a paired comparison
        x = [p for _ in left for p in some]
        y = [f"{p}, {suffix}" for suffix in left for p in some]
        means = scorer.rewards(x, y, list(seeds), progress).view(len(left), each).mean(1)
        left = [left[i] for i in means.argsort(descending=True)[: max(1, len(left) // 2)].tolist()]
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
