"""Build the pocket world from nothing: render pictures, train five models, write them to a folder in hub format.

Every stage leaves its result in the build folder and is skipped when that is complete, so the same command resumes
after a kill. `python -m promptlab.pocket build` runs all of them.
"""

import json
import os
from pathlib import Path

import numpy as np

from promptlab.pocket import autoencoder, clip, judge, unet
from promptlab.pocket.pairs import render_all, sample_pictures
from promptlab.runtime import bar, home

PICTURES, SEED = 80_000, 1


def build_folder() -> Path:
    """Where pictures and checkpoints live while building (about 6 GB)."""
    folder = home() / "pocket" / "build"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(path: Path, make):
    """Load the array at `path`, or make it and keep it; a kill while writing leaves nothing behind."""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.save(partial, make())
        os.replace(partial, path)
    return np.load(path)


def training_pictures():
    """The specifications of all training pictures and their renders, uint8 (80000, 128, 128, 3) on disk."""
    specs = sample_pictures(PICTURES, SEED)
    return specs, render_all(specs, build_folder() / "pictures.npy", lambda it, total: bar(it, total=total, desc="pictures"))


def tokenizer(specs):
    """The tokenizer that text encoder, CLIP and policy share."""
    from transformers import AutoTokenizer

    folder = build_folder() / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        clip.train_tokenizer(clip.caption_corpus(specs)).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def build(out: Path):
    """Run every stage and write the finished world to `out`."""
    folder = build_folder()
    specs, images = training_pictures()
    tok = tokenizer(specs)
    vae = autoencoder.fit(images[:20_000], folder)
    small = once(folder / "small.npy", lambda: clip.shrink(images))
    model = clip.fit(specs, small, tok, folder)
    clip.save(model, tok, out / "clip")
    latents, factor = latents_of(vae, images)
    denoiser, encoder = unet.fit(specs, latents, model, tok, folder)
    unet.save(denoiser, encoder, vae, factor, tok, out / "generator")
    judge.save(judge.fit(specs, small, folder), out / "judge" / "model.safetensors")


def latents_of(vae, images):
    """Scaled latents of the training pictures as a float16 tensor, and the scaling factor."""
    import torch

    path = build_folder() / "scale.json"
    latents = once(build_folder() / "latents.npy", lambda: autoencoder.encode_all(vae, images, path).numpy())
    return torch.from_numpy(latents), json.loads(path.read_text())["scaling_factor"]
