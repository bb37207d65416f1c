"""What pretraining buys: a language model that has read the web, trained as the pocket one was, measured beside it.

`PROMPTLAB_PRESET=laptop python -m promptlab.pocket pretraining` does it all in three quarters of an hour on two cores, writes
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
from promptlab.policy import load_policy, log_probs, own_policy
from promptlab.prompts import load_prompts
from promptlab.rewards import Scorer
from promptlab.runtime import PromptlabError, data_dir, home, write_atomically

EXAMPLES = 2_000  # of the 6,000 that the pocket policy learns from: who can write already needs the style alone
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


def train(start, scorer, folder):
    """SFT, then PPO, from a language model: the two policies. Nothing is trained twice.

    They also become the reader's own policies of the preset, which every lesson then uses, unless there are some already.
    """
    kept = folder / "sft-policy"
    if not (kept / "config.json").exists():
        examples = random.Random(0).sample(load_prompts("sft"), EXAMPLES)
        sft.finetune(start, examples, folder / "sft").save(kept)
    tuned = load_policy(kept)
    trained, pool = copy.deepcopy(tuned), list(dict.fromkeys(r["x"] for r in load_prompts("ppo")))
    ppo.train(trained, pool, ppo.PictureReward(scorer), folder / "ppo", preset().ppo_updates)
    for stage, policy in (("sft", tuned), ("ppo", trained)):
        if not (own_policy(stage) / "config.json").exists():
            policy.save(own_policy(stage))
    return tuned, trained


def write(out: Path):
    """Train and measure, and write `pretraining.json` in `out`. Raises `PromptlabError` on any other preset than laptop."""
    if preset().name != LAPTOP.name:
        raise PromptlabError(
            f"This compares the preset laptop with pocket; the one in use is {preset().name!r}. Put PROMPTLAB_PRESET=laptop before the command."
        )
    scorer, start = Scorer(preset()), load_policy(preset().language)
    tuned, trained = train(start, scorer, home() / LAPTOP.name / "pretraining")
    by_set = {name: [r for r in load_prompts("test") if r["set"] == name] for name in ("in_domain", "out_of_domain")}
    records = [r for some in by_set.values() for r in random.Random(0).sample(some, min(PROMPTS, len(some)))]
    plain = [r["x"] for r in records]
    policies = {
        "sft": load_policy(data_dir() / POCKET.sft), "ppo": load_policy(data_dir() / POCKET.ppo), "pretrained": start, "pretrained sft": tuned,
        "pretrained ppo": trained,
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
    try:
        kept = json.loads(path.read_text(encoding="utf8"))
        return kept["records"], kept["rewrites"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PromptlabError(
            f"{path} cannot be read ({type(error).__name__}: {error}). `git checkout -- data/pocket` restores it, "
            "`PROMPTLAB_PRESET=laptop python -m promptlab.pocket pretraining` measures it again."
        ) from error


def mean_of(records, method, metric) -> float:
    """One method's mean of a metric over the test prompts of both sets."""
    both = [find(records, set=name, method=method, versus=None, metric=metric) for name in ("in_domain", "out_of_domain")]
    return sum(r["n"] * r["mean"] for r in both) / sum(r["n"] for r in both)
