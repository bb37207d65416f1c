"""Sampling pictures to learn from, and rendering them to arrays on disk."""

import random
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from promptlab.pocket.captions import is_dull
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, EFFECTS, HARMFUL, MEDIA, SIZE, VARIANTS, Picture, render
from promptlab.pocket.subjects import SUBJECTS

GOOD = tuple(e for e in EFFECTS if e not in HARMFUL)


def held_out(noun: str, medium: str) -> bool:
    """Whether this subject is never shown in this medium in training (5 % of pairs; photos are always shown)."""
    return medium != "photo" and zlib.crc32(f"{noun}|{medium}".encode()) % 20 == 0


def sample_content(rng):
    """Subjects and colour: 18 % pairs, 18 % coloured, the rest one noun in its own colours."""
    kind = rng.random()
    if kind < 0.18:
        return tuple(rng.sample(SUBJECTS, 2)), None
    return (rng.choice(SUBJECTS),), rng.choice(tuple(COLOURS)) if kind < 0.36 else None


def sample_effects(rng):
    """None, one or two effects; a third of the pictures carry a harmful one."""
    good, bad = rng.choice((0, 1, 1, 2)), rng.random() < 0.3
    return tuple(rng.sample(GOOD, good)) + ((rng.choice(sorted(HARMFUL)),) if bad else ())


def sample_picture(rng, dull=0.2, held=False) -> Picture:
    """Draw one picture at random. `dull` is the share of plain photos; `held` keeps to the held-out pairs instead."""
    while True:
        subjects, colour = sample_content(rng)
        unnamed = dict(mirrored=rng.random() < 0.5, variant=rng.randrange(VARIANTS))
        if rng.random() < dull and not held:
            return Picture(subjects, colour, **unnamed)
        picture = Picture(subjects, colour, rng.choice(MEDIA), rng.choice(BACKGROUNDS), sample_effects(rng), **unnamed)
        if any(held_out(noun, picture.medium) for noun in subjects) == held:
            return picture


def sample_pictures(count, seed, **kwargs) -> list[Picture]:
    """`count` pictures from one seed; the same seed gives the same list."""
    rng = random.Random(seed)
    return [sample_picture(rng, **kwargs) for _ in range(count)]


def specifications(rich, pairs, seed) -> list[Picture]:
    """What training pictures show, each without a variant chosen yet, all different.

    Every noun as it is and in every colour, in every medium (but those held out) and before every background, `pairs` plain
    pairs, and `rich` pictures of all kinds by chance.
    """
    rng = random.Random(seed)
    plain = [Picture((s,), c) for s in SUBJECTS for c in (None, *COLOURS)]
    styled = [Picture((s,), None, m) for s in SUBJECTS for m in MEDIA if not held_out(s, m)]
    placed = [Picture((s,), None, "photo", b) for s in SUBJECTS for b in BACKGROUNDS]
    two = [Picture(tuple(rng.sample(SUBJECTS, 2))) for _ in range(pairs)]
    mixed = [replace(sample_picture(rng, dull=0), mirrored=False, variant=0) for _ in range(rich)]
    return list(dict.fromkeys([*plain, *styled, *placed, *two, *mixed]))


def often(specs) -> np.ndarray:
    """Indices of specifications as often as training meets them: pairs twice, as two are harder to draw than one; a plain noun, which
    is what people type most, sixteen times, a plain coloured one twice."""

    def times(p):
        dull = is_dull(p)
        return 2 if len(p.subjects) == 2 or (dull and p.colour) else 16 if dull else 1

    return np.repeat(np.arange(len(specs)), [times(p) for p in specs])


def _render_block(pictures):
    return np.stack([render(p) for p in pictures])


def render_all(pictures, out: Path | None = None, progress=None, block=500):
    """Render pictures on every core to a (n, 128, 128, 3) uint8 array, memory-mapped at `out` if given.

    A file that is already complete is opened instead of rendered again: pictures follow from their seed.
    """
    shape = (len(pictures), SIZE, SIZE, 3)
    if out is not None and out.exists():
        array = np.load(out, mmap_mode="r")
        if array.shape == shape:
            return array
    partial = None if out is None else out.with_suffix(".partial.npy")
    array = np.empty(shape, np.uint8) if out is None else np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
    blocks = [pictures[i : i + block] for i in range(0, len(pictures), block)]
    with ProcessPoolExecutor() as pool:
        done = pool.map(_render_block, blocks)
        for i, images in enumerate(progress(done, total=len(blocks)) if progress else done):
            array[i * block : i * block + len(images)] = images
    if out is not None:
        array.flush()
        partial.rename(out)
        array = np.load(out, mmap_mode="r")
    return array
