"""The reference run: trains the shipped policies, measures every method on the test prompts, writes `results.json`.

`python -m promptlab.pocket reference` does it all, and goes on where it stopped: every training has checkpoints, and
every picture ever drawn is remembered. `python -m promptlab.pocket results` makes `results.json` again from what that run measured.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from promptlab import ppo, sft
from promptlab.config import POCKET
from promptlab.evaluation import best_of_n, best_suffix, measure, results
from promptlab.pocket.build import build_folder, preset_for
from promptlab.pocket.suffixes import COMBINATIONS, suffix
from promptlab.policy import load_policy
from promptlab.prompts import load_prompts
from promptlab.rewards import Scorer
from promptlab.runtime import PromptlabError, write_atomically

UPDATES, SETTINGS = POCKET.ppo_updates, ppo.Settings()  # PPO updates, and all other knobs as they stand
SEEDS = (0, 1, 2, 3, 4)  # training seeds; with three of them, what their luck adds to an interval is twice as wide


def train_sft(out: Path):
    """Fine-tune the shipped language model on the community's prompts and ship the result."""
    policy = sft.finetune(load_policy(out / "language"), load_prompts("sft"), build_folder() / "sft")
    policy.save(out / "sft", half=True)
    return load_policy(out / "sft")


def train_ppo(start, scorer, seed):
    """One PPO run from the SFT policy on the training prompts."""
    folder, policy = build_folder() / f"ppo-{seed}", copy.deepcopy(start)
    pool = list(dict.fromkeys(r["x"] for r in load_prompts("ppo")))
    ppo.train(policy, pool, ppo.PictureReward(scorer), folder, UPDATES, replace(SETTINGS, seed=seed))
    return policy


def budget():
    """How many pictures one PPO run draws at most: rewrites and plain prompts."""
    return UPDATES * SETTINGS.prompts * (SETTINGS.samples + 1) * SETTINGS.images


def rewrites_of(start, trained, scorer, records):
    """What every method writes for some records: a dict from method to one list of texts per training seed."""
    plain = [r["x"] for r in records]
    pool = list(dict.fromkeys(r["x"] for r in load_prompts("ppo")))
    ending = best_suffix(scorer, pool, [suffix(c) for c in COMBINATIONS], budget(), progress=True)
    print(f"best fixed suffix: {ending}")
    return {
        "plain": [plain],
        "engineered": [[r["y"] or r["x"] for r in records]],
        "suffix": [[f"{x}, {ending}" for x in plain]],
        "sft": [start.rewrite(plain)],
        "best_of_n": [best_of_n(start, scorer, plain, progress=True)],
        "ppo": [policy.rewrite(plain) for policy in trained],
    }


def write(out: Path):
    """Train, measure and write: `sft`, `ppo` and `results.json` in `out`."""
    scorer = Scorer(preset_for(out), build_folder() / "cache")
    start = train_sft(out)
    trained = [train_ppo(start, scorer, seed) for seed in SEEDS]
    validation = load_prompts("validation")
    scores = [measure(scorer, validation, p.rewrite([r["x"] for r in validation]), progress=True)["reward"].mean() for p in trained]
    best = max(range(len(trained)), key=scores.__getitem__)
    print(f"reward on the validation prompts by training seed: {[round(float(s), 3) for s in scores]}")
    trained[best].save(out / "ppo", half=True)
    write_atomically(out / "ppo" / "metrics.jsonl", (build_folder() / f"ppo-{SEEDS[best]}" / "metrics.jsonl").read_bytes())
    records = load_prompts("test")
    written = rewrites_of(start, trained, scorer, records)
    write_atomically(build_folder() / "rewrites.json", json.dumps(written, indent=1))
    measured = {m: [measure(scorer, records, texts, progress=True) for texts in runs] for m, runs in written.items()}
    write_atomically(build_folder() / "measured.json", json.dumps(measured, default=np.ndarray.tolist))
    write_results(out)


def write_results(out: Path):
    """Write `results.json` from the scores of each prompt that the last run kept; trains and draws nothing.

    Raises `PromptlabError` where no run has kept any.
    """
    kept, records = build_folder() / "measured.json", load_prompts("test")
    if not kept.exists():
        raise PromptlabError(f"{kept} is missing: no reference run has ended here. Run: python -m promptlab.pocket reference")
    measured = json.loads(kept.read_text(encoding="utf8"))
    write_atomically(out / "results.json", json.dumps(results(measured, records), indent=1))
