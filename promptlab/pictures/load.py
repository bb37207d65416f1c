"""Which generator a preset draws with: the pocket world's own, or a pipeline of diffusers."""

import json
from pathlib import Path

from promptlab.models.pocket_generator import Generator
from promptlab.models.sources import local
from promptlab.runtime import data_dir


def load_generator(preset, dtype=None):
    """The text-to-image model of a preset, ready to draw: the pocket world's, or any pipeline of diffusers.

    Raises `PromptlabError` for missing or damaged weights, and as `promptlab.models.sources.fetch` does for a hub id.
    """
    folder = local(preset.generator)
    if folder is not None and is_pocket(folder):
        return Generator(folder, preset.steps, preset.guidance, preset.batch, dtype)
    from promptlab.models.diffusion import Diffusion

    return Diffusion(preset, dtype)


def is_pocket(folder) -> bool:
    """Whether a folder holds a pocket world, which has a decoder of its own kind; also where it is too damaged to tell."""
    try:
        index = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf8"))
        return index["vae"][1] == "AutoencoderTiny"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return data_dir() in Path(folder).parents
