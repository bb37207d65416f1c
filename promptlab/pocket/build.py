"""Build the pocket world from nothing: render pictures, train its models, write them to a folder in hub format.

`python -m promptlab.pocket build --hours 9` gives every stage its share of that time. A stage leaves its result in the build
folder and is skipped when that is complete, so the same command resumes after a kill, and some stages can run by themselves
(`--stages unet`), for example on a GPU.
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
from promptlab.pocket import aesthetic, autoencoder, card, clip, community, judge, language, training, unet
from promptlab.pocket.captions import caption, claim_as_people, content
from promptlab.pocket.pairs import render_all, sample_pictures, specifications
from promptlab.pocket.pictures import COLOURS, Picture, variants
from promptlab.pocket.subjects import SUBJECTS, glyph
from promptlab.policy import Policy
from promptlab.rewards import PAPER_SLOPE, PAPER_THRESHOLD, Calibration, Scorer, calibrate
from promptlab.runtime import bar, device, hardware, home, write_atomically

RICH, PAIRS, SEED = 20_000, 3_000, 1  # specifications by chance and plain pairs
SOME = 24_000  # pictures that the autoencoder learns from
RATED = 100_000, 12_000  # pictures that the aesthetic head learns from: renders and drawn ones


def build_folder() -> Path:
    """Where pictures and checkpoints live while building (about 19 GB)."""
    folder = home() / "pocket" / ("rehearsal" if training.STEPS else "build")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def small_share(count, least=100):
    """`count`, or a thousandth of it, but no fewer than `least`, in a rehearsal."""
    return max(least, count // 1000) if training.STEPS else count


def once(path: Path, make):
    """Load the array at `path`, or make it and keep it; a kill while writing leaves nothing behind."""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.save(partial, make())
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def training_specs():
    """What the training pictures show: every specification once."""
    specs = specifications(RICH, PAIRS, SEED)
    return random.Random(SEED).sample(specs, 300) if training.STEPS else specs


def training_pictures():
    """All training pictures, every variant of every specification in a row, and their renders, uint8 (n, 128, 128, 3) on disk."""
    pictures, path = [v for p in training_specs() for v in variants(p)], build_folder() / "pictures.npy"
    if not path.exists():
        glyph(SUBJECTS[0])  # a missing font is said here, once, and not by every worker
    return pictures, render_all(pictures, path, lambda it, total: bar(it, total=total, desc="pictures"))


def small_pictures():
    """The training pictures and their renders at 64 x 64, which CLIP and judge look at."""
    pictures, images = training_pictures()
    return pictures, once(build_folder() / "small.npy", lambda: clip.shrink(images))


def some_pictures():
    """What the autoencoder learns from: training pictures by chance, in memory."""
    _, images = training_pictures()
    return images[np.sort(np.random.default_rng(SEED).permutation(len(images))[:SOME])]


def tokenizer():
    """The tokenizer that text encoder, CLIP and policy share."""
    from transformers import AutoTokenizer

    folder = build_folder() / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        clip.train_tokenizer(clip.caption_corpus(training_specs())).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def young_clip():
    """CLIP after its first course, whose text tower the denoiser starts from."""
    return clip.fit(*small_pictures(), tokenizer(), build_folder())


def encoder():
    """The autoencoder before its decoder is polished."""
    return autoencoder.fit(some_pictures(), build_folder())


def all_latents():
    """Scaled latents of the training pictures as a float16 tensor (specifications, variants, 16, 16, 16)."""
    import torch

    folder = build_folder()
    latents = once(folder / "latents.npy", lambda: autoencoder.encode_all(encoder(), training_pictures()[1], folder / "scale.json").numpy())
    per_spec = len(variants(training_specs()[0]))
    return torch.from_numpy(np.array(latents)).view(-1, per_spec, *latents.shape[1:])


def denoiser():
    """The trained UNet and text encoder."""
    return unet.fit(training_specs(), all_latents(), young_clip(), tokenizer(), build_folder())


def save_generator(out):
    """Polish the decoder and write the generator, of whatever the denoiser has learnt."""
    vae = autoencoder.polish(encoder(), some_pictures(), build_folder())
    unet_and_encoder = denoiser()  # which makes the latents, where there are none yet, and with them their scale
    factor = json.loads((build_folder() / "scale.json").read_text())["scaling_factor"]
    unet.save(*unet_and_encoder, vae, factor, tokenizer(), out / "generator")


def save_clip(out):
    pictures, small = small_pictures()
    clip.save(clip.fit(pictures, small, tokenizer(), build_folder(), start=young_clip()), tokenizer(), out / "clip")


def save_judge(out):
    save_safetensors(judge.fit(*small_pictures(), build_folder()), out / "judge" / "model.safetensors")


def save_language(out):
    words = language.policy_tokenizer(tokenizer())
    Policy(language.fit(training_specs(), words, build_folder()), words).save(out / "language", half=True)


def save_aesthetic(out):
    save_safetensors(aesthetic_head(out), out / "aesthetic" / "model.safetensors")


def write_card(out):
    if not training.STEPS:
        card.write(out, preset_for(out), build_folder() / "cache")


# Every stage by name, in order; each takes the folder of the finished world.
STAGES = {
    "pictures": lambda out: small_pictures(), "language": save_language, "clip": lambda out: young_clip(), "autoencoder": lambda out: all_latents(),
    "unet": lambda out: denoiser(), "generator": save_generator, "relevance": save_clip, "judge": save_judge, "aesthetic": save_aesthetic,
    "calibration": lambda out: write_calibration(out), "record": lambda out: write_record(out), "card": write_card,
}  # fmt: skip


def build(out: Path, hours=9.0, stages=()):
    """Run the named stages, else all, each within its share of `hours`, and write the finished world to `out`."""
    training.HOURS = hours
    for name in stages or STAGES:
        STAGES[name](out)


def rehearse(out: Path):
    """Run every stage for two steps, in a folder of its own: does it all work here, before hours are spent?"""
    training.STEPS = 2
    try:
        build(out)
    finally:
        training.STEPS = None


def write_record(out):
    """Write `build.json` beside the weights: on what they were trained, for how long, on how many samples, with which losses."""
    import torch

    stages = []
    for path in sorted(build_folder().glob("*.ckpt"), key=lambda p: p.stat().st_mtime):
        kept = torch.load(path, map_location="cpu", weights_only=True)
        thin = kept["curve"][:: max(1, len(kept["curve"]) // 40)]
        stages.append({"stage": path.stem, "seconds": round(kept["seconds"]), "steps": kept["step"], "samples": kept["samples"], "loss": thin})
    found = {"command": f"python -m promptlab.pocket build --hours {training.HOURS}", "hardware": str(hardware()), "cores": os.cpu_count(), "stages": stages}
    write_atomically(out / "build.json", json.dumps(found, indent=1))


def save_safetensors(module, path):
    """Write a module's weights as fp16 safetensors."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in module.state_dict().items()}, path)


def aesthetic_head(out):
    """The aesthetic head, fitted to simulated ratings of renders and of drawn pictures as the CLIP in `out` sees them.

    LAION's head, too, learned from photographs and from what generators drew (SAC, simulacra aesthetic captions).
    """
    folder, eye = build_folder(), Clip(out / "clip")
    rendered, drawn = (small_share(n) for n in RATED)
    rated = sample_pictures(rendered, SEED + 2)  # each of something else: six variants of one specification teach a head little more than one
    images = render_all(rated, folder / "rated.npy", lambda it, total: bar(it, total=total, desc="pictures to rate"))
    truth = once(folder / "gold.npy", lambda: aesthetic.gold_of_renders(rated, images))
    looks = once(folder / "embeddings.npy", lambda: eye.embed_images(images))
    rng = random.Random(SEED + 1)
    texts = [caption(claim_as_people(p, rng), rng) for p in sample_pictures(drawn, SEED + 1)]
    gallery, seeds = Gallery(preset_for(out), eye, folder / "cache"), range(200_000, 200_000 + len(texts))
    found = gallery.embeddings(texts, seeds, progress=True), [fact["gold"] for fact in gallery.facts(texts, seeds)]
    looks, truth = (np.concatenate([a, b, b]) for a, b in zip((looks, truth), found, strict=True))  # twice: what a reward will look at
    return aesthetic.fit(looks, aesthetic.simulated_ratings(truth), folder)


def preset_for(out: Path):
    """The pocket preset with every path below `out`."""
    places = {"generator": "generator", "clip": "clip", "aesthetic": "aesthetic", "judge": "judge", "calibration": "calibration.json"}
    batch = 512 if device().type == "cuda" else POCKET.batch
    return replace(POCKET, batch=batch, **{field: str(out.resolve() / name) for field, name in places.items()})


def write_calibration(out):
    """Measure slope, threshold and scale of the reward on plain and on engineered prompts and write them beside the weights."""
    # A rehearsal trains so little that it draws the same whatever is asked, which is no yardstick.
    measured = Calibration(PAPER_SLOPE, PAPER_THRESHOLD, 1.0) if training.STEPS else measure_calibration(out)
    write_atomically(out / "calibration.json", json.dumps(asdict(measured), indent=2))


def measure_calibration(out) -> Calibration:
    """The calibration of the world in `out`, on half of the nouns plain and some of the others in a colour."""
    scorer, rng = Scorer(preset_for(out), build_folder() / "cache", calibration=False), random.Random(SEED)
    claims = [Picture((s,)) for s in SUBJECTS[::2]] + [Picture((s,), c) for s, c in zip(SUBJECTS[1::16], COLOURS, strict=False)]
    engineered = [community.engineer(c, rng) for c in claims]
    return calibrate(scorer, [content(c) for c in claims], engineered, range(80_000, 80_004), progress=True)
