"""What a run costs, by hand and by simulation."""

import dataclasses
import math

import numpy as np
import pytest

from promptlab.config import COLAB, LAPTOP, POCKET, PRESETS
from promptlab.course import budget
from promptlab.course.budget import smallest_gain


def test_the_smallest_gain_is_seen_in_four_of_five_simulated_evaluations():
    """The formula against simulation: true gains differ by prompt, each picture adds noise, an interval must exclude zero."""
    rng, prompts, images, spread, noise, tries = np.random.default_rng(0), 48, 2, 0.5, 0.6, 4000
    gain = smallest_gain(prompts, images, spread, noise)
    measured = gain + rng.normal(0, spread, (tries, prompts)) + rng.normal(0, noise, (tries, prompts, images)).mean(2)
    low = measured.mean(1) - 1.96 * measured.std(1, ddof=1) / prompts**0.5
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.03)


def test_the_seeds_noise_is_that_of_the_papers_setting():
    """Two aesthetic ratings of spread .26 and a relevance of 20 x .017: about .35 for two pictures."""
    assert COLAB.noise == pytest.approx(math.hypot(2**0.5 * 0.26, 20 * 0.017), abs=0.01)
    assert COLAB.noise / 2**0.5 == pytest.approx(0.35, abs=0.01)


def test_budgets_by_hand():
    b = budget.budget(COLAB)
    assert (b.updates, b.rollouts, b.train_images, b.test_images) == (60, 60 * 8 * 6, 60 * 8 * 7, 24 * 2 * 4)
    assert b.minutes == pytest.approx((3360 * 0.5 + 60 * 6 + 192 * 3.65) / 60)
    turbo, v1_4 = 2 * (865_910_724 + 340_387_840 + 83_653_863), 2 * (859_520_964 + 123_060_480 + 83_653_863 + 303_981_588)
    rest = 4 * (427_616_513 + 927_969 + 986_109_441 + 124_439_808 + 124_439_808)
    assert b.download_mb == pytest.approx((turbo + v1_4 + rest) / 1e6)
    assert budget.budget(POCKET).download_mb == 0 and budget.budget(LAPTOP).download_mb == 98


def test_a_description_says_what_differs_and_what_it_costs():
    text = budget.describe(COLAB)
    for part in ("pocket/generator", "stabilityai/sd-turbo", "rollouts", "2,880", "minutes", "estimated for a T4", "12.0 GB once", "smallest gain",
                 "GB resident all the time", "CompVis/stable-diffusion-v1-4, 20 steps", "it cannot show PPO over SFT"):  # fmt: skip
        assert part in text, part
    assert "safety checker          on" in text and "OFF" in budget.describe(dataclasses.replace(COLAB, safety=""))
    assert "safety checker  " not in budget.describe(LAPTOP)
    assert "size of some/model is not known" in budget.describe(dataclasses.replace(COLAB, generator="some/model"))
    assert "differs" not in budget.describe(POCKET) and "nothing" in budget.describe(POCKET)
    assert "cannot" not in budget.shows(0.01) and "can show none" in budget.shows(9.0)


def test_numbers_say_whether_they_are_measured():
    for chosen in PRESETS.values():
        assert "measured 20" in chosen.timed or "estimated" in chosen.timed, chosen.name
