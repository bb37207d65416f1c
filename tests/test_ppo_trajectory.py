"""The first ten updates of a small run, pinned: a change of the arithmetic shows even where every formula still passes its own test.

`python tests/test_ppo_trajectory.py` writes the fixture again, which is right only where a change of results was meant.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from test_ppo import FAST, POOL, count
from tiny_policy import tiny_policy

from promptlab.ppo import PPO

PINNED = Path(__file__).parent / "data" / "ppo_trajectory.json"
KEYS = ("reward", "kl", "kl_exact", "entropy", "policy_loss", "value_loss", "gradient_norm", "explained")
TOLERANCE = 2e-3  # of what a number usually is: other machines add in another order


def trajectory(**changes):
    """The metrics of ten updates: a dict of arrays (10,)."""
    run = PPO(tiny_policy(), dataclasses.replace(FAST, compared=True, **changes))
    rows = [run.update(POOL, count("vivid")) for _ in range(10)]
    return {key: np.array([row[key] for row in rows]) for key in KEYS}


def residuals(found):
    """How far each number is from the pinned one, in units of that key's usual size: a dict of arrays (10,)."""
    pinned = {key: np.array(values) for key, values in json.loads(PINNED.read_text()).items()}
    return {key: (found[key] - pinned[key]) / np.abs(pinned[key]).mean() for key in KEYS}


def drifts(found) -> list[str]:
    """Which keys are off: one number by more than the tolerance, or all together to one side."""
    off = []
    for key, r in residuals(found).items():
        one_sided = abs(r.mean()) > 1e-5 and abs(r.mean()) > 3.3 * r.std(ddof=1) / len(r) ** 0.5
        off += [key] if np.abs(r).max() > TOLERANCE or one_sided else []
    return off


def test_the_first_ten_updates_are_the_pinned_ones():
    assert drifts(trajectory()) == []


def test_a_small_change_of_the_arithmetic_is_found():
    """Half a percent more KL price, or a slightly larger step: each formula might pass, the trajectory does not."""
    assert drifts(trajectory(kl=FAST.kl * 1.005))
    assert drifts(trajectory(lr=FAST.lr * 1.002))


def test_a_drift_to_one_side_is_found_below_the_tolerance():
    pinned = {key: np.array(values) for key, values in json.loads(PINNED.read_text()).items()}
    shifted = {key: values + 1e-4 * np.abs(values).mean() for key, values in pinned.items()}
    noisy = {key: v + 1e-4 * np.abs(v).mean() * np.array([1, -1] * 5) for key, v in pinned.items()}
    assert drifts(shifted) == list(KEYS) and drifts(noisy) == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    PINNED.write_text(json.dumps({key: [round(float(v), 8) for v in values] for key, values in trajectory().items()}, indent=1))
    print(f"written: {PINNED}")
