"""A gallery and a scorer that draw one colour per (prompt, seed), for tests of what stands on them."""

import io
import types

import numpy as np
import torch
from PIL import Image

from promptlab.pictures.sheets import ContactSheet
from promptlab.referee import World
from promptlab.rewards import Scores


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(buffer, "PNG")
    return buffer.getvalue()


class FakeReferee(World):
    """The pocket world's own reading of facts, without its network."""

    def __init__(self):
        pass


class FakeGallery:
    """A picture of (prompt, seed) is one colour; its embedding is that colour; the judge believes every prompt but `wrong`."""

    preset = types.SimpleNamespace(name="fake")

    def __init__(self, wrong=(), judge=True):
        self.wrong, self.judge, self.drawn = wrong, FakeReferee() if judge else None, 0

    def colours(self, prompts, seeds):
        self.drawn += len(prompts)
        return [tuple(np.random.default_rng([s, *p.encode()]).integers(256, size=3).tolist()) for p, s in zip(prompts, seeds, strict=True)]

    def embeddings(self, prompts, seeds, progress=False):
        x = np.array(self.colours(prompts, seeds), np.float32) + 1
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def blacked_out(self, prompts, seeds):
        return np.zeros(len(prompts), bool)

    def thumbnails(self, prompts, seeds, progress=False):
        return [png(c) for c in self.colours(prompts, seeds)]

    def pictures(self, prompts, seeds, progress=False):
        return np.stack([np.asarray(Image.open(io.BytesIO(p))) for p in self.thumbnails(prompts, seeds)])

    def facts(self, prompts, seeds, progress=False):
        subject = lambda p: "fox" if p in self.wrong else "frog"  # noqa: E731
        return (
            [{"gold": 5.0 + s, "subjects": [subject(p), "ant"], "colour": "blue"} for p, s in zip(prompts, seeds, strict=True)]
            if self.judge
            else [{} for _ in prompts]
        )


class FakeScorer:
    def __init__(self, **kwargs):
        self.gallery = FakeGallery(**kwargs)

    def texts(self, prompts):
        return self.gallery.embeddings(prompts, [0] * len(prompts))

    def score(self, plain, rewritten, seeds, progress=False):
        n, g = len(plain) * len(seeds), torch.Generator().manual_seed(0)
        column = lambda: torch.rand(n, generator=g)  # noqa: E731
        return Scores(
            torch.arange(len(plain)).repeat_interleave(len(seeds)),
            torch.tensor(list(seeds) * len(plain)),
            column(),
            column(),
            column(),
            column(),
        )


def make_sheet(count=20, **kwargs):
    return ContactSheet(FakeScorer(**kwargs), ["a blue frog"] * count, [f"a blue frog, way {i}" for i in range(count)], [1, 2])
