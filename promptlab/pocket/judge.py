"""Stage (e): the judge, a classifier that names what is in a picture. It serves evaluation and gold, never a reward."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from promptlab.models.weights import load_weights
from promptlab.pocket.clip import augment, encode_attributes
from promptlab.pocket.pairs import pairs_twice
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, MEDIA
from promptlab.pocket.subjects import SUBJECTS
from promptlab.pocket.training import train
from promptlab.runtime import device

STEPS, BATCH = 12_000, 128
HEADS = {"subject": SUBJECTS, "colour": (*COLOURS, "its own"), "medium": MEDIA, "background": BACKGROUNDS}


class Block(nn.Module):
    """A residual block that may halve the resolution."""

    def __init__(self, inp, out, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inp, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        )  # fmt: skip
        self.skip = nn.Identity() if (inp, stride) == (out, 1) else nn.Conv2d(inp, out, 1, stride, bias=False)

    def forward(self, x):
        return F.relu(self.skip(x) + self.body(x))


class Judge(nn.Module):
    """A small residual network that classifies each of 4 x 4 places, so that a pair is two places and not one blur."""

    def __init__(self, width=32):
        super().__init__()
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
            Block(w, w, 1), Block(w, 2 * w, 2), Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w, 1), Block(4 * w, 8 * w, 2),
        )  # fmt: skip
        self.places = nn.ModuleDict({name: nn.Conv2d(8 * w, len(HEADS[name]), 1) for name in ("subject", "colour")})
        self.whole = nn.ModuleDict({name: nn.Linear(16 * w, len(HEADS[name])) for name in ("medium", "background")})

    def forward(self, x):
        """Pictures (n, 3, 64, 64) in -1..1 to a dict of logits, one (n, classes) array per attribute.

        What stands at one place (subject, colour) is pooled by a soft maximum over places; what fills the picture
        (medium, background) is read from the mean and the maximum of the features.
        """
        features = self.body(x)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        local = {name: head(features).flatten(2).logsumexp(2) for name, head in self.places.items()}
        return local | {name: head(pooled) for name, head in self.whole.items()}


def shift(x, far=2):
    """Each picture moved by up to `far` pixels both ways, edges repeated: without it the judge learns single pictures by heart."""
    i, j = torch.randint(2 * far + 1, (2, len(x)), device=x.device)
    places = F.pad(x, (far,) * 4, mode="replicate").unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    return places[torch.arange(len(x), device=x.device), :, i, j]


def fit(pictures, small, folder, steps=STEPS):
    """Train on renders (n, 64, 64, 3) uint8. Of a pair, each subject is half of the answer."""
    torch.manual_seed(0)
    facts, order = torch.from_numpy(encode_attributes(pictures)), pairs_twice(pictures)

    def loss_of(indices):
        indices = order[indices]
        x = torch.from_numpy(small[indices]).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1
        truth, out = facts[indices].to(device()), judge(augment(shift(x)))
        second = torch.where(truth[:, 1] < 0, truth[:, 0], truth[:, 1])
        colour = torch.where(truth[:, 2] < 0, len(COLOURS), truth[:, 2])
        loss = (F.cross_entropy(out["subject"], truth[:, 0]) + F.cross_entropy(out["subject"], second)) / 2
        return (
            loss
            + 0.5 * F.cross_entropy(out["colour"], colour)
            + 0.3 * (F.cross_entropy(out["medium"], truth[:, 3]) + F.cross_entropy(out["background"], truth[:, 4]))
        )

    judge = Judge()
    return train("judge", folder, steps, {"judge": judge}, loss_of, 2e-3, BATCH, len(order), ema=("judge",), log=folder / "log.txt")[
        "judge"
    ]


def load_judge(folder):
    """The judge from `folder`, in float32 and evaluation mode. Raises `PromptlabError` for missing or foreign weights."""
    return load_weights(Judge(), folder / "model.safetensors").to(device())


@torch.no_grad()
def look(judge, images, batch=256):
    """What the judge sees in pictures (n, 128, 128, 3) uint8: a dict of probabilities, one (n, classes) array per attribute."""
    parts = []
    for i in range(0, len(images), batch):
        x = torch.from_numpy(np.array(images[i : i + batch])).to(device()).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=64, mode="bilinear", antialias=True) / 127.5 - 1
        parts.append({k: v.float().softmax(-1).cpu().numpy() for k, v in judge(x).items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def name(seen):
    """The judge's first choices in words, one dict per picture: subjects (the best two), colour, medium, background."""
    ranked = np.argsort(-seen["subject"], 1)
    best = {key: [HEADS[key][i] for i in seen[key].argmax(1)] for key in ("colour", "medium", "background")}
    return [{"subjects": [SUBJECTS[j] for j in row[:2]]} | {key: values[i] for key, values in best.items()} for i, row in enumerate(ranked)]


def shows(fact, claim):
    """Which content words of `claim` a picture shows, given one dict of `name`: such as ``{"frog": True, "blue": False}``.

    A subject counts if it is the judge's first choice, or among the first two of a pair; a colour if it is the first choice.
    """
    top = fact["subjects"][: len(claim.subjects)]
    found = {noun: noun in top for noun in claim.subjects}
    return found | ({claim.colour: fact["colour"] == claim.colour} if claim.colour else {})
