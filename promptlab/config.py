"""The scales the course runs in: one frozen `Preset` each, chosen by name or by `PROMPTLAB_PRESET`."""

import os
from dataclasses import dataclass

from promptlab.runtime import PromptlabError


@dataclass(frozen=True)
class Preset:
    """One scale of the course; make another with `dataclasses.replace(preset(), images_per_prompt=4)`."""

    name: str  # what PROMPTLAB_PRESET says, and the folder below the run folder
    purpose: str  # one line for people
    generator: str  # folder of the text-to-image pipeline, below the data folder
    clip: str  # folder of the CLIP that measures relevance
    aesthetic: str  # folder of the head that rates a CLIP image embedding
    judge: str  # folder of the classifier that tells what a picture shows; for evaluation, never in a reward
    calibration: str  # file with the slope, threshold and scale that carry the paper's reward over to this CLIP and head
    language: str  # folder of the language model that every policy starts from
    sft: str  # folder of the shipped policy after supervised fine-tuning
    ppo: str  # folder of the shipped policy after PPO
    image_size: int  # pixels a side
    steps: int  # denoising steps a picture: more is finer, and slower in proportion
    guidance: float  # how hard a picture is pushed towards its prompt: 1 is no push, more is more literal and less varied
    images_per_prompt: int  # seeds averaged in one reward: more is less noise, at as much more time
    batch: int  # pictures drawn at once: more is faster until memory runs out


POCKET = Preset(
    name="pocket",
    purpose="a small world trained by us: two CPU cores, offline, minutes",
    generator="pocket/generator",
    clip="pocket/clip",
    aesthetic="pocket/aesthetic",
    judge="pocket/judge",
    calibration="pocket/calibration.json",
    language="pocket/language",
    sft="pocket/sft",
    ppo="pocket/ppo",
    image_size=128,
    steps=8,
    guidance=3.5,
    images_per_prompt=2,
    batch=32,
)

PRESETS = {p.name: p for p in (POCKET,)}


def preset(name: str | None = None) -> Preset:
    """The preset of this name, else the one `PROMPTLAB_PRESET` names, else `pocket`.

    Raises `PromptlabError` where there is no such preset.
    """
    name = name or os.environ.get("PROMPTLAB_PRESET") or POCKET.name
    if name not in PRESETS:
        raise PromptlabError(f"There is no preset {name!r}. Choose one of: {', '.join(PRESETS)} (as argument or in PROMPTLAB_PRESET).")
    return PRESETS[name]


def preset_reason() -> str:
    """Why `preset()` is the one it is, for people."""
    return "PROMPTLAB_PRESET says so" if os.environ.get("PROMPTLAB_PRESET") else "the default"
