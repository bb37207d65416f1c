"""Evolved keywords against keywords by chance and the most popular ones, at equal numbers of comparisons, measured by gold.

`python -m promptlab.pocket evolve` runs every search from five seeds with a simulated reader, fine-tunes the SFT policy on what evolution
found, and writes `evolution.json`. Pictures and trainings are remembered, so the same command goes on. Lesson beyond/08 reads the file. The
kept searches were made on one NVIDIA H200; where pictures differ in their last digits, a search may take another way: one of twelve did on a CPU.
"""

import json
import math
import random
from itertools import product
from pathlib import Path

from promptlab import evolution, sft
from promptlab.config import POCKET
from promptlab.evaluation import measure, results
from promptlab.pocket.kept import reading
from promptlab.policy import load_policy
from promptlab.prompts import load_prompts, split_prompt
from promptlab.rewards import Scorer
from promptlab.runtime import append_jsonl, data_dir, home, whole_rows, write_atomically

SEEDS = (0, 1, 2, 3, 4)  # of a search: its first masks, its pairs, its reader
KINDS = ("MC", "held out")  # prompts that name one thing and nothing else
ENDINGS, KEEP, ROUNDS, GENERATIONS = 12, 6, 2, 8  # 12 x 2 x 8 = 192 comparisons, 20 minutes of a reader, and as many pictures
ON = 5  # keywords of a mask by chance: as many as a member of the community adds
SEED = 500_001  # image seed that only scores
METHODS = ("evolved", "chance", "popular", "coin")
BY_REWARD = "oil painting, studio light, highly detailed"  # the reference run's best fixed ending, of 10,400 pictures rated by the reward


def bare(split) -> list[dict]:
    """Records of a split whose prompt names one thing and nothing else."""
    return [r for r in load_prompts(split) if r["kind"] in KINDS]


def search(method, seed, gallery, generations=GENERATIONS, rounds=ROUNDS, mutation=None, progress=False):
    """One search by a simulated reader: the best ending of every generation, and all answers. Every method asks equally often.

    "evolved" breeds (`evolution.breed`), "coin" too, but its reader tosses a coin; "chance" draws masks by chance, "popular" compares the 1
    to 12 most popular keywords.
    """
    rng, words, prompts = random.Random(seed), evolution.popular(load_prompts("sft")), [r["x"] for r in bare("ppo")]

    def make(parents, count, seen):
        if method == "popular":
            return [e for e in start if e not in parents]
        if method == "chance":
            return evolution.by_chance(count, words, ON, rng)
        return evolution.breed(parents, count, words, rng, mutation, seen=seen)

    def ask(endings):
        noise = math.inf if method == "coin" else 1.0
        return evolution.simulated(gallery, evolution.pairings(endings, prompts, rounds, rng), rng, noise)

    tops = [", ".join(words[:k]) for k in range(1, ENDINGS + 1)]
    start = tops if method == "popular" else evolution.by_chance(ENDINGS, words, ON, rng)
    return evolution.evolve(start, make, ask, generations, KEEP, progress)


def searches(gallery) -> list[dict]:
    """Every method from every seed, a dict each: method, seed, best (by generation), comparisons. What an earlier call finished is read."""
    log, settings = home() / POCKET.name / "evolution" / "searches.jsonl", [ENDINGS, KEEP, ROUNDS, GENERATIONS, ON]
    done = {(row["method"], row["seed"]): row["run"] for row in whole_rows(log)[0] if row["settings"] == settings}
    for seed, method in product(SEEDS, METHODS):
        if (method, seed) not in done:
            best, answered = search(method, seed, gallery, progress=True)
            done[method, seed] = {"method": method, "seed": seed, "best": best, "comparisons": len(answered)}
            append_jsonl(log, {"method": method, "seed": seed, "settings": settings, "run": done[method, seed]})
    return [done[key] for key in product(METHODS, SEEDS)]


def examples(text) -> list[dict]:
    """SFT examples that teach one ending: every fifth of the community's, whose rewrite is now its content and the ending."""
    return [r | {"y": evolution.with_ending(split_prompt(r["y"])[0], text)} for r in load_prompts("sft")[::5]]


def write(out: Path):
    """Search, fine-tune and measure, and write `evolution.json` in `out`."""
    scorer, start, records = Scorer(POCKET), load_policy(data_dir() / POCKET.sft), [r | {"set": "test"} for r in bare("test")]
    prompts = [r["x"] for r in records]
    texts = {"plain": [prompts], "ppo": [load_policy(data_dir() / POCKET.ppo).rewrite(prompts)]}
    texts["by reward"] = [[evolution.with_ending(x, BY_REWARD) for x in prompts]]
    runs = searches(scorer.gallery)
    for run in runs:
        texts.setdefault(run["method"], []).append([evolution.with_ending(x, run["best"][-1]) for x in prompts])
    texts["sft evolved"] = [teach(start, run["best"][-1]).rewrite(prompts) for run in runs if run["method"] == "evolved"]
    measured = {method: [measure(scorer, records, y, [SEED], progress=True) for y in some] for method, some in texts.items()}
    found = results(measured, records, versus=("plain", "popular", "chance", "coin", "evolved", "by reward"))
    found = [r for r in found if r["metric"] in ("gold", "intent")]
    shown = [{"x": x} | {method: some[0][i] for method, some in texts.items()} for i, x in enumerate(prompts)]
    write_atomically(out / "evolution.json", json.dumps({"records": found, "runs": runs, "rewrites": shown[::10]}, indent=1))


def teach(start, text):
    """A copy of a policy, fine-tuned to write the content and then one ending: ten seconds on two cores, and never twice."""
    some = examples(text)
    return sft.finetune(start, some, sft.own_folder(start, some, "evolution"), epochs=1, batch=8)


def load(path=None) -> tuple[list[dict], list[dict], list[dict]]:
    """What `write` kept: the records of `evaluation.results`; a dict per search of method, seed, best (by generation), comparisons; and of
    every tenth measured prompt (x) what each method wrote from the first seed.

    Raises `PromptlabError` where the file is missing or damaged.
    """
    path = Path(path or data_dir() / "pocket" / "evolution.json")
    with reading(path, "python -m promptlab.pocket evolve"):
        kept = json.loads(path.read_text(encoding="utf8"))
        return kept["records"], kept["runs"], kept["rewrites"]
