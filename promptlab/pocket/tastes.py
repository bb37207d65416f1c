"""Does PPO move a policy towards a taste? The training of lesson beyond/07_your_taste, for all three readers of `readers`.

`python -m promptlab.pocket tastes` trains a policy for each reader, number of choices and seed, and some with the shipped head as a control,
asks every reader about all of them, writes `tastes.json`, and goes on where it stopped. The lesson reads that file.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from promptlab import ppo
from promptlab.evaluation import SCORING, families_of, interval
from promptlab.pictures.sheets import ContactSheet
from promptlab.pocket.build import build_folder, preset_for
from promptlab.pocket.kept import of_each_set, reading, write_rows
from promptlab.pocket.readers import LEAST, READERS, album, likings
from promptlab.policy import load_policy
from promptlab.prompts import load_prompts
from promptlab.rewards import PictureReward, Scorer
from promptlab.runtime import PromptlabError, bar, data_dir, write_atomically

SEEDS, UPDATES = (0, 1, 2), 8  # training seeds; each has choices of its own too, so at most `readers.PARTS`
CHOICES = LEAST, 4 * LEAST  # that a taste is learnt from: as in the lesson, and as many as each seed can have of its own
PROMPTS, LOOKS = 30, SCORING[:2]  # test prompts of each set, and pictures of each
SETTINGS = ppo.Settings(prompts=4, samples=8, minibatch=32, lr=5e-4, decay=0)  # as in the lesson


def trained(start, scorer, rate, pool, seed=0, desc="ppo"):
    """A copy of the policy `start` after UPDATES of PPO, with the taste `rate` in the place of the scorer's aesthetic head."""
    judge = copy.copy(scorer)
    judge.rate = rate
    run, reward = ppo.PPO(copy.deepcopy(start), replace(SETTINGS, seed=seed)), PictureReward(judge)
    for _ in bar(range(UPDATES), desc=desc):
        run.update(pool, reward)
    return run.policy


def compare(scorer, start, shown, pool, records, kept, seeds=SEEDS) -> list[dict]:
    """Train with every taste and seed and ask every reader; rows go to the file `kept` at once, and none is made twice.

    A row is ``{writer, choices, seed, liked, kept}``: `writer` is "plain" (what was typed), "SFT" (the policy `start`), "head" (trained with
    the scorer's own head) or the reader whose taste, of so many `choices`, taught it; `liked` has for each reader one number per record, the mean
    over LOOKS, in that reader's own unit; `kept` is the share of pictures, in %, in which the judge finds what was typed. `seed` is that
    of the training and of the choices; both are 0 where there is none.
    """
    rows = json.loads(kept.read_text(encoding="utf8")) if kept.exists() else []
    x = [r["x"] for r in records]

    def keep(writer, choices, seed, texts):
        sheet = ContactSheet(scorer, x, texts, LOOKS)
        found = likings(sheet.facts, sheet.pictures(range(len(sheet))))
        liked = {name: np.reshape(values, (len(x), -1)).mean(1).round(3).tolist() for name, values in found.items()}
        rows.append(
            {"writer": writer, "choices": choices, "seed": seed, "liked": liked, "kept": round(100 * sheet.kept.float().mean().item(), 1)}
        )
        write_atomically(kept, json.dumps(rows))

    there = lambda *key: any((r["writer"], r["choices"], r["seed"]) == key for r in rows)  # noqa: E731
    if not there("plain", 0, 0):
        keep("plain", 0, 0, x)
    if not there("SFT", 0, 0):
        keep("SFT", 0, 0, start.rewrite(x))
    for seed in seeds:
        for name, count in (("head", 0), *((name, count) for count in CHOICES for name in READERS)):
            if not there(name, count, seed):
                rate = shown.taste(name, count, seed, see=shown.see) if count else scorer.rate
                policy = trained(start, scorer, rate, pool, seed, f"{name}, {count} choices, seed {seed}")
                keep(name, count, seed, policy.rewrite(x))
    return rows


def write(out: Path):
    """Train for the three readers and write `tastes.json` in `out`."""
    scorer = Scorer(preset_for(out), build_folder() / "cache")
    pool, records = [r["x"] for r in load_prompts("ppo")], of_each_set(PROMPTS)
    rows = compare(scorer, load_policy(out / "sft"), album(scorer), pool, records, build_folder() / "tastes.json")
    write_rows(out / "tastes.json", rows)


def load(path=None) -> list[dict]:
    """The rows of `compare` that `write` kept. Raises `PromptlabError` where the file is missing or damaged."""
    path = Path(path or data_dir() / "pocket" / "tastes.json")
    with reading(path, "python -m promptlab.pocket tastes"):
        rows = json.loads(path.read_text(encoding="utf8"))
        if not rows or any("choices" not in r or len(r["liked"][name]) != len(rows[0]["liked"][name]) for r in rows for name in READERS):
            raise ValueError("it has no rows, or they are about different prompts")
        return rows


def apart(rows, reader, writer, versus, choices=LEAST) -> dict:
    """How much more `reader` likes each prompt's pictures of one writer than those of another: by training seed, (prompts,).

    A writer who learnt a taste is the one of so many `choices`; of two that were trained, those of one seed are compared. Raises
    `PromptlabError` for a writer of whom there is no row.
    """
    some = [r for r in rows if r["choices"] in (0, choices)]
    ours, theirs = ({r["seed"]: np.array(r["liked"][reader]) for r in some if r["writer"] == name} for name in (writer, versus))
    if not ours or not theirs:
        raise PromptlabError(
            f"There is no row of {writer if not ours else versus!r}. Choose from: {', '.join({r['writer']: 0 for r in some})}."
        )
    return {seed: values - theirs[seed if len(theirs) > 1 else 0] for seed, values in ours.items()}


def gain(rows, reader, writer, versus, choices=LEAST):
    """`apart` on the mean, and its 95 % interval over families of prompts and trainings (`evaluation.interval`): (mean, low, high)."""
    return interval(list(apart(rows, reader, writer, versus, choices).values()), families_of(of_each_set(PROMPTS)))
