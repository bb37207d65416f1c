"""What a run costs before it starts: pictures, minutes, memory, download, and the smallest gain it can detect."""

import math
from dataclasses import dataclass, fields

from promptlab.config import POCKET, SAFETY, Preset, for_evaluation, preset
from promptlab.models import sources
from promptlab.models.memory import estimate_memory
from promptlab.runtime import PromptlabError, device

METHODS = 4  # what a lesson's evaluation draws for every prompt: plain, a fixed ending, SFT, PPO
Z = 1.96 + 0.84  # 95 % confidence, and a chance of 80 % to see a gain that is there


def smallest_gain(prompts: int, images: int, spread: float, noise: float) -> float:
    """The smallest mean gain in reward that an evaluation of `prompts` prompts with `images` seeds each detects.

    (1.96 + .84) x sqrt((spread^2 + noise^2 / images) / prompts): the standard error of a mean of paired differences, times
    what 95 % confidence and 80 % power ask for (Cohen 1988, chapter 2). More prompts help in any case, more seeds only until
    the spread between prompts is all that is left.
    """
    return Z * math.sqrt((spread**2 + noise**2 / images) / prompts)


@dataclass(frozen=True)
class Budget:
    """What a full run of a preset takes."""

    updates: int
    rollouts: int  # rewrites sampled
    train_images: int  # pictures drawn at most: a plain prompt is drawn once for all its rewrites
    test_images: int
    minutes: float
    download_mb: float
    gain: float  # the smallest that its evaluation can detect


def budget(chosen: Preset) -> Budget:
    """The budget of a preset: arithmetic on its fields."""
    rollouts = chosen.ppo_updates * chosen.ppo_prompts * chosen.ppo_samples
    train_images = chosen.ppo_updates * chosen.ppo_prompts * (chosen.ppo_samples + 1) * chosen.ppo_images
    test_images = chosen.test_prompts * chosen.test_images * METHODS
    seconds = train_images * chosen.seconds_per_image + chosen.ppo_updates * chosen.seconds_per_update
    seconds += test_images * chosen.seconds_per_test_image
    gain = smallest_gain(chosen.test_prompts, chosen.test_images, chosen.spread, chosen.noise)
    return Budget(chosen.ppo_updates, rollouts, train_images, test_images, seconds / 60, download(chosen), gain)


def download(chosen: Preset) -> float:
    """MB that a preset takes from the hub, or by pip, the first time, all its models together."""
    whole = (chosen.clip, chosen.aesthetic, chosen.judge, chosen.language, chosen.sft, chosen.ppo)
    drawing = (chosen.generator, chosen.test_generator)
    needed = {
        *((s, part) for s in whole for part in sources.parameters(s)),
        *((s, part) for s in drawing for part in sources.parameters(s) if part != "safety_checker"),
        *((s, "safety_checker") for s in (chosen.safety,) if s in sources.HUB),
    }
    packed = sum(sources.PACKAGES[s][3] for s in {chosen.language, chosen.sft, chosen.ppo} if s in sources.PACKAGES)
    return packed + sum(sources.HUB[s].parts[part] * sources.HUB[s].bytes_each for s, part in needed if s in sources.HUB) / 1e6


# --- for people ----------------------------------------------------------------------------------------------------


def describe(chosen: Preset | None = None) -> str:
    """What a preset changes against pocket and what its full run costs, as lines of text; `print(describe())`."""
    chosen = chosen or preset()
    said_below = ("name", "purpose", "spread", "noise", "timed", "seconds_per_image", "seconds_per_test_image", "seconds_per_update")
    changed = [f.name for f in fields(Preset) if f.name not in said_below and getattr(chosen, f.name) != getattr(POCKET, f.name)]
    lines = [f"Preset {chosen.name}: {chosen.purpose}."]
    if changed:
        lines += ["It differs from pocket in:"]
        lines += [f"  {name:<24}{shown(getattr(POCKET, name)):<24} -> {shown(getattr(chosen, name))}" for name in changed]
    b = budget(chosen)
    try:
        memory = estimate_memory(chosen)
    except PromptlabError as unknown:  # a model of the reader's own, not downloaded yet
        memory = unknown
    lines += [
        "A full run of PPO and its evaluation:",
        f"  updates                 {b.updates:,}",
        f"  rollouts                {b.rollouts:,} rewrites",
        f"  images                  {b.train_images:,} to train on at most, {b.test_images:,} to evaluate",
        f"  minutes                 {b.minutes:,.0f} ({chosen.timed})",
        f"  memory                  {memory}",
        f"  download                {b.download_mb / 1000:.1f} GB once" if b.download_mb else "  download                nothing",
        f"  smallest gain           {b.gain:.2f} in reward: 2.8 x sqrt(({chosen.spread}^2 + {chosen.noise}^2 / {chosen.test_images}) / {chosen.test_prompts}), "
        "seen in four of five runs",
    ]
    if chosen.safety or chosen.test_generator:
        lines += [
            f"  evaluation              {for_evaluation(chosen).generator}, {for_evaluation(chosen).steps} steps",
            f"  {shows(b.gain)}",
        ]
    if chosen.generator != POCKET.generator:
        lines += [f"  safety checker          {'on' if chosen.safety else 'SWITCHED OFF'}. {SAFETY}"]
    if chosen.generator != POCKET.generator and device().type == "cpu":
        lines += ["  This machine has no GPU: expect days instead of minutes. Choose pocket here, or open a GPU runtime."]
    return "\n".join(lines)


def shown(value) -> str:
    """A field's value for people."""
    return "none" if value == "" else str(value)


def shows(gain: float) -> str:
    """What an evaluation that detects `gain` can and cannot show, against the gains that Hao et al. 2022 report."""
    known = {"PPO over plain words, in domain": 0.47, "PPO over plain words on COCO captions": 0.48, "SFT over plain words, in domain": 0.36,
             "PPO over SFT on COCO captions": 0.20, "PPO over SFT, in domain": 0.11}  # fmt: skip
    seen = [f"{what} ({size:.2f})" for what, size in known.items() if size >= gain]
    missed = [f"{what} ({size:.2f})" for what, size in known.items() if size < gain]
    said = f"Of the paper's gains this budget can show {', '.join(seen) or 'none'}"
    return f"{said}; it cannot show {', '.join(missed)}." if missed else f"{said}."
