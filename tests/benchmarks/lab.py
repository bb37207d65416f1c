"""How long a slider of the reward lab takes in the kernel, from its new value to the new order, for 500 pictures of the pocket world.

Run it on two quiet cores: `.venv/bin/python tests/benchmarks/lab.py`. It draws 500 pictures once (a minute), moves every slider a hundred
times by chance, and writes the slowest twentieth's limit to data/benchmarks/lab.json. What a browser adds is `browser_ms`.
"""

import datetime
import json
import random
import sys
import time
from pathlib import Path

from promptlab import config
from promptlab.lab.reward_lab import RewardLab
from promptlab.pictures.sheets import ENDINGS, PLAIN
from promptlab.rewards import Scorer
from promptlab.runtime import bar, write_atomically

TARGET = 100.0  # milliseconds
RECORDS = Path(__file__).resolve().parents[2] / "data" / "benchmarks" / "lab.json"
COMMAND = ".venv/bin/python tests/benchmarks/lab.py"


def slider_ms(lab, moves=100, seed=0) -> list[float]:
    """Milliseconds from a slider's new value to the new order on the page, sorted; each move as the front end's message arrives."""
    chance, took = random.Random(seed), []
    lab.widget  # noqa: B018 - made before it is timed
    for _ in bar(range(moves), desc="sliders"):
        for knob in lab._knobs.values():
            value = chance.uniform(knob.min, knob.max)
            began = time.perf_counter()
            knob.set_state({"value": value})
            took.append(1000 * (time.perf_counter() - began))
            assert knob.value in lab.values.values() and not lab.problem
    return sorted(took)


def keep(record, path=RECORDS):
    """Put a record in the file in place of the one it repeats; others' records stay."""
    known = json.loads(path.read_text(encoding="utf8")) if path.exists() else []
    same = lambda old: (old["against"], old["metric"]) == (record["against"], record["metric"])  # noqa: E731
    write_atomically(path, json.dumps([*(old for old in known if not same(old)), record], indent=1) + "\n")


def main():
    lab = RewardLab(Scorer(config.POCKET), PLAIN, ENDINGS[:18], seeds=(1, 2))  # 14 x 18 x 2 = 504
    took = slider_ms(lab)
    ours = took[int(0.95 * len(took))]
    print(
        f"{len(lab.sheet)} pictures, {len(took)} moves: median {took[len(took) // 2]:.1f} ms, 95 % below {ours:.1f}, slowest {took[-1]:.1f}"
    )
    keep({"against": f"target, {len(lab.sheet)} pictures", "metric": "slider_ms", "ours": round(ours, 1), "theirs": TARGET,
          "ratio": round(TARGET / ours, 2), "command": COMMAND, "date": f"{datetime.date.today()}"})  # fmt: skip
    return int(ours > TARGET)


if __name__ == "__main__":
    sys.exit(main())
