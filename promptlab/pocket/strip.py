"""The README's first picture and its one number: plain prompts beside the best of sixteen rewrites."""

import json
import random

import numpy as np

from promptlab.pocket.captions import BACKGROUND_WORDS, EFFECT_WORDS, MEDIUM_WORDS
from promptlab.pocket.pairs import GOOD
from promptlab.pocket.subjects import KINDS, with_article
from promptlab.pocket.suffixes import bootstrap, subjects_per_kind
from promptlab.runtime import write_atomically

TRIES, CHOOSE, SHOW = 16, (90_001, 90_002), (91_001, 91_002, 91_003, 91_004)  # seeds to choose by and to score by never meet
FEATURED = ("fish", "castle", "rocket", "cupcake", "tulip", "fox")


def keyword_rewrites(prompt, rng, count=TRIES):
    """`count` rewrites of a prompt with a random medium, background and effect each."""
    pick = lambda table, keys: rng.choice(table[rng.choice(keys)])  # noqa: E731
    suffixes = [
        f"{pick(MEDIUM_WORDS, list(MEDIUM_WORDS))}, {pick(BACKGROUND_WORDS, list(BACKGROUND_WORDS))}, {pick(EFFECT_WORDS, GOOD)}"
        for _ in range(count)
    ]
    return [f"{prompt}, {suffix}" for suffix in suffixes]


def best_of_n(scorer, prompts, seed=0):
    """For each prompt, the rewrite with the highest reward among sixteen, on the seeds to choose by."""
    rng, chosen = random.Random(seed), []
    for prompt in prompts:
        rewrites = keyword_rewrites(prompt, rng)
        rewards = scorer.rewards([prompt] * len(rewrites), rewrites, list(CHOOSE))
        chosen.append(rewrites[int(rewards.argmax())])
    return chosen


def measure(scorer, per_kind=6):
    """Gold of best-of-16 against plain on seeds it was not chosen by, for six subjects of every kind; a results record."""
    prompts = [with_article(s) for s in subjects_per_kind(per_kind, seed=3)]
    chosen, seeds = best_of_n(scorer, prompts), list(SHOW)

    def rate(texts):
        facts = scorer.gallery.facts([t for t in texts for _ in seeds], seeds * len(texts), progress=True)
        return np.array([f["gold"] for f in facts])

    gain = (rate(chosen) - rate(prompts)).reshape(len(prompts), -1).mean(1)
    mean, low, high = bootstrap(gain)
    base = {"set": "bare labels", "method": "best_of_n", "versus": "plain", "metric": "gold"}
    return base | {"mean": round(mean, 3), "low": round(low, 3), "high": round(high, 3), "n": len(prompts), "seeds": len(seeds)}


def draw(scorer, path):
    """Write the strip: plain prompts above, their rewrites below, the same seed in a column."""
    from textwrap import fill

    import matplotlib.pyplot as plt
    from PIL import Image

    prompts = [with_article(s) for s in FEATURED]
    chosen = best_of_n(scorer, prompts)
    seed = [SHOW[0]] * len(prompts)
    rows = [scorer.gallery.pictures(prompts, seed), scorer.gallery.pictures(chosen, seed)]
    figure, axes = plt.subplots(2, len(prompts), figsize=(1.75 * len(prompts), 4.5), layout="constrained")
    for row, texts, line in zip(rows, (prompts, chosen), axes, strict=True):
        for image, text, ax in zip(row, texts, line, strict=True):
            ax.imshow(image)
            ax.set_title(fill(text, 26), fontsize=8)
            ax.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)  # a palette: a third of the size, no visible loss


def write(out):
    """Write `figures/strip.png` beside the world in `out` and `results.json` into it, and print the README's number."""
    from promptlab.pocket.build import build_folder, preset_for
    from promptlab.rewards import Scorer

    scorer = Scorer(preset_for(out), build_folder() / "cache")
    draw(scorer, out.parent / "figures" / "strip.png")
    record = measure(scorer)
    write_atomically(out / "results.json", json.dumps([record], indent=1))
    print(
        f"gold {record['mean']:+.2f} [{record['low']:+.2f}, {record['high']:+.2f}], {record['n']} prompts of {len(KINDS)} kinds, {record['seeds']} seeds each"
    )
