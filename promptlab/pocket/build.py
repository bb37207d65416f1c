"""Build the pocket world from nothing: render pictures, train six models, write them to a folder in hub format.

Every stage leaves its result in the build folder and is skipped when that is complete, so the same command resumes
after a kill. `python -m promptlab.pocket build` runs all of them.
"""

import json
import os
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from promptlab.config import POCKET
from promptlab.models.clip import Clip
from promptlab.pictures.gallery import Gallery
from promptlab.pocket import aesthetic, autoencoder, card, clip, judge, language, training, unet
from promptlab.pocket.captions import caption, claim_as_people
from promptlab.pocket.pairs import render_all, sample_pictures
from promptlab.pocket.pictures import COLOURS
from promptlab.pocket.subjects import SUBJECTS, glyph, with_article
from promptlab.policy import Policy
from promptlab.rewards import Scorer, calibrate
from promptlab.runtime import bar, home, write_atomically

PICTURES, SEED = 80_000, 1


def build_folder() -> Path:
    """Where pictures and checkpoints live while building (about 6 GB)."""
    folder = home() / "pocket" / ("rehearsal" if training.SHARE < 1 else "build")
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
    specs, path = sample_pictures(max(500, int(PICTURES * training.SHARE)), SEED), build_folder() / "pictures.npy"
    if not path.exists():
        glyph(SUBJECTS[0])  # a missing font is said here, once, and not by every worker
    return specs, render_all(specs, path, lambda it, total: bar(it, total=total, desc="pictures"))


def tokenizer(specs):
    """The tokenizer that text encoder, CLIP and policy share."""
    from transformers import AutoTokenizer

    folder = build_folder() / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        clip.train_tokenizer(clip.caption_corpus(specs)).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def build(out: Path):
    """Run every stage and write the finished world, its calibration and its model card to `out`."""
    folder = build_folder()
    specs, images = training_pictures()
    tok = tokenizer(specs)
    small = once(folder / "small.npy", lambda: clip.shrink(images))
    young = clip.fit(specs, small, tok, folder)
    vae = autoencoder.fit(images[:20_000], folder)
    latents, factor = latents_of(vae, images)
    vae = autoencoder.polish(vae, images[:20_000], folder)
    unet.save(*unet.fit(specs, latents, young, tok, folder), vae, factor, tok, out / "generator")
    clip.save(clip.fit(specs, small, tok, folder, start=young), tok, out / "clip")
    save_safetensors(judge.fit(specs, small, folder), out / "judge" / "model.safetensors")
    save_safetensors(aesthetic_head(out, specs, images), out / "aesthetic" / "model.safetensors")
    write_calibration(out)
    words = language.policy_tokenizer(tok)
    Policy(language.fit(specs, words, folder), words).save(out / "language", half=True)
    if training.SHARE == 1:
        card.write(out, preset_for(out), folder / "cache")


def rehearse(out: Path):
    """Run every stage for a thousandth of its steps, in a folder of its own: does it all work here, before hours are spent?"""
    training.SHARE = 0.001
    try:
        build(out)
    finally:
        training.SHARE = 1


def save_safetensors(module, path):
    """Write a module's weights as fp16 safetensors."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in module.state_dict().items()}, path)


def aesthetic_head(out, specs, images, count=PICTURES, drawn=24_000):
    """The aesthetic head, fitted to simulated ratings of renders and of drawn pictures as the CLIP in `out` sees them.

    LAION's head, too, learned from photographs and from what generators drew (SAC, simulacra aesthetic captions).
    """
    folder, eye = build_folder(), Clip(out / "clip")
    truth = once(folder / "gold.npy", lambda: aesthetic.gold_of_renders(specs[:count], images[:count]))
    looks = once(folder / "embeddings.npy", lambda: eye.embed_images(images[:count]))
    rng = random.Random(SEED + 1)
    texts = [caption(claim_as_people(p, rng), rng) for p in sample_pictures(max(100, int(drawn * training.SHARE)), SEED + 1)]
    gallery, seeds = Gallery(preset_for(out), eye, folder / "cache"), range(200_000, 200_000 + len(texts))
    found = gallery.embeddings(texts, seeds, progress=True), [fact["gold"] for fact in gallery.facts(texts, seeds)]
    looks, truth = (np.concatenate([a, b, b]) for a, b in zip((looks, truth), found, strict=True))  # twice: what a reward will look at
    return aesthetic.fit(looks, aesthetic.simulated_ratings(truth), folder)


def preset_for(out: Path):
    """The pocket preset with every path below `out`."""
    places = {"generator": "generator", "clip": "clip", "aesthetic": "aesthetic", "judge": "judge", "calibration": "calibration.json"}
    return replace(POCKET, **{field: str(out.resolve() / name) for field, name in places.items()})


def write_calibration(out):
    """Measure slope, threshold and scale of the reward on plain prompts and write them beside the weights."""
    scorer = Scorer(preset_for(out), build_folder() / "cache", calibration=False)
    plain = [with_article(s) for s in SUBJECTS[::4]] + [with_article(s, c) for s, c in zip(SUBJECTS[1::16], COLOURS, strict=False)]
    measured = calibrate(scorer, plain, range(80_000, 80_004), progress=True)
    write_atomically(out / "calibration.json", json.dumps(asdict(measured), indent=2))


def latents_of(vae, images):
    """Scaled latents of the training pictures as a float16 tensor, and the scaling factor."""
    import torch

    path = build_folder() / "scale.json"
    latents = once(build_folder() / "latents.npy", lambda: autoencoder.encode_all(vae, images, path).numpy())
    return torch.from_numpy(latents), json.loads(path.read_text())["scaling_factor"]
