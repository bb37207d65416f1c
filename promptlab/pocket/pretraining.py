"""What pretraining buys: a language model that has read the web, and the pocket one, trained on the same examples for as many updates.

`PROMPTLAB_PRESET=laptop python -m promptlab.pocket pretraining` does it all in about an hour on two cores, writes
`pretraining.json`, and goes on where it stopped. Lesson beyond/11_pretraining reads that file.
"""

import copy
import json
import random
from pathlib import Path

import numpy as np

from promptlab import ppo, sft
from promptlab.config import LAPTOP, POCKET, preset
from promptlab.evaluation import SCORING, find, measure, results
from promptlab.pocket import community
from promptlab.pocket.captions import content, without_article
from promptlab.pocket.kept import of_each_set, reading
from promptlab.pocket.pictures import Picture
from promptlab.policy import load_policy, log_probs, own_policy
from promptlab.prompts import load_prompts
from promptlab.prompts.records import REPHRASED
from promptlab.rewards import PictureReward, Scorer
from promptlab.runtime import PromptlabError, data_dir, home, write_atomically

EXAMPLES = 2_000  # for both models: a third of the course's, so that the larger one is done within the hour
PROMPTS, SEEDS = 120, SCORING[:2]  # test prompts of each set, and pictures of each


def surprise(reader, records, texts, batch=16):
    """Nats per token of each rewrite for a language model that learnt nothing of prompts: low where it reads like English; (n,)."""
    import torch

    out = []
    for i in range(0, len(texts), batch):
        rewrites = reader.encode_rewrites([r["x"] for r in records[i : i + batch]], [f" {t}" for t in texts[i : i + batch]])
        with torch.inference_mode():
            log_p, _ = log_probs(reader.model, rewrites)
        out += (-(log_p * rewrites.mask).sum(1) / rewrites.mask.sum(1)).tolist()
    return np.array(out)


def examples() -> list[dict]:
    """What both models learn to write from: two thirds are the course's own, a sixth are pairs of things, in several wordings, and a sixth
    bare labels, which the course keeps for its test. The nouns are those that SFT knows."""
    rng, sixth = random.Random(0), EXAMPLES // 6
    course, nouns = rng.sample(load_prompts("sft"), EXAMPLES - 2 * sixth), community.groups()["common"]
    pairs = [Picture(tuple(rng.sample(nouns, 2))) for _ in range(sixth)]
    typed = [(rng.choice(("{}", *REPHRASED["sft"])).format(content(pair)), pair) for pair in pairs]
    typed += [(without_article(content(label)), label) for label in community.draw(community.contents("sft", nouns), rng, sixth)]
    return course + [{"x": x, "y": community.engineer(claim, rng)} for x, claim in typed]


def train(start, scorer, folder, sft_lr, **knobs):
    """SFT, then PPO, from a language model: the two policies. Nothing is trained twice."""
    kept = folder / "sft-policy"
    if not (kept / "config.json").exists():
        sft.finetune(start, examples(), folder / "sft", lr=sft_lr, lora=knobs["lora"]).save(kept)
    tuned = load_policy(kept)
    trained, pool = copy.deepcopy(tuned), list(dict.fromkeys(r["x"] for r in load_prompts("ppo")))
    ppo.train(trained, pool, PictureReward(scorer), folder / "ppo", preset().ppo_updates, ppo.Settings(**knobs))
    return tuned, trained


def write(out: Path):
    """Train and measure, and write `pretraining.json` in `out`. Raises `PromptlabError` on any other preset than laptop."""
    if preset().name != LAPTOP.name:
        raise PromptlabError(
            f"This compares the preset laptop with pocket; the one in use is {preset().name!r}. Put PROMPTLAB_PRESET=laptop before the command."
        )
    scorer, start, folder = Scorer(preset()), load_policy(preset().language), home() / LAPTOP.name / "pretraining"
    ours = load_policy(data_dir() / POCKET.language)
    # The step size and the adapters that suit each; examples, updates, rewrites and steps are the same.
    small = train(ours, scorer, folder / "pocket", POCKET.sft_lr, lr=POCKET.ppo_lr, lora=0)
    tuned, trained = train(start, scorer, folder / "pretrained", preset().sft_lr, lora=preset().lora)
    for stage, policy in (("sft", tuned), ("ppo", trained)):  # every lesson then uses them, unless the reader has some already
        if not (own_policy(stage) / "config.json").exists():
            policy.save(own_policy(stage))
    records = of_each_set(PROMPTS)
    plain = [r["x"] for r in records]
    policies = {
        "sft": small[0], "ppo": small[1], "pretrained": start, "pretrained sft": tuned, "pretrained ppo": trained,
        "ppo, whole course": load_policy(data_dir() / POCKET.ppo),
    }  # fmt: skip
    texts = {"plain": plain} | {name: policy.rewrite(plain, batch=16, progress=True) for name, policy in policies.items()}
    measured = {
        name: [measure(scorer, records, y, SEEDS, progress=True) | {"surprise": surprise(start, records, y)}] for name, y in texts.items()
    }
    found = results(measured, records, versus=("plain", "sft", "ppo", "pretrained sft"))
    shown = [{"x": r["x"], "set": r["set"], **{name: y[i] for name, y in texts.items()}} for i, r in enumerate(records)]
    write_atomically(out / "pretraining.json", json.dumps({"records": found, "rewrites": shown}, indent=1))


def load(path=None) -> tuple[list[dict], list[dict]]:
    """What `write` measured: the records of `evaluation.results`, and per test prompt what every method wrote.

    Raises `PromptlabError` where the file is missing or damaged.
    """
    path = Path(path or data_dir() / "pocket" / "pretraining.json")
    with reading(path, "PROMPTLAB_PRESET=laptop python -m promptlab.pocket pretraining"):
        kept = json.loads(path.read_text(encoding="utf8"))
        return kept["records"], kept["rewrites"]


def mean_of(records, method, metric) -> float:
    """One method's mean of a metric over the test prompts of both sets."""
    both = [find(records, set=name, method=method, versus=None, metric=metric) for name in ("in_domain", "out_of_domain")]
    return sum(r["n"] * r["mean"] for r in both) / sum(r["n"] for r in both)
