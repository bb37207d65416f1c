"""The judge, a classifier that names what is in a picture, or says that it knows nothing of it. For evaluation and gold, never in a reward."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from promptlab.models.weights import load_weights
from promptlab.pocket.clip import augment, encode_attributes
from promptlab.pocket.pairs import often
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, MEDIA
from promptlab.pocket.subjects import SUBJECTS
from promptlab.pocket.training import on_device, train
from promptlab.runtime import device

BOX, BATCH = 0.06, 128
WAYS = 5  # of spoiling a picture
NOTHING = "nothing"  # what it answers where no subject can be made out
HEADS = {"subject": (*SUBJECTS, NOTHING), "colour": (*COLOURS, "its own"), "medium": MEDIA, "background": BACKGROUNDS}


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


def shuffled(x, cells):
    """Pictures (n, 3, h, h) cut into cells x cells patches, each picture's in another order."""
    n, side = len(x), x.shape[2] // cells
    patches = x.view(n, 3, cells, side, cells, side).permute(0, 2, 4, 1, 3, 5).reshape(n, cells * cells, 3, side, side)
    order = torch.rand(patches.shape[:2], device=x.device).argsort(1)
    patches = patches.gather(1, order[:, :, None, None, None].expand_as(patches))
    return patches.view(n, cells, cells, 3, side, side).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def spoil(x, kind):
    """Pictures that show nothing one could name, made of pictures that do; x (n, 3, 64, 64) in -1..1, `kind` (n,) 0 to WAYS says how.

    As it is; the mean of two; the soft mean of eight, as a denoiser answers from pure noise; fine and coarse patches shuffled;
    blurred until only colours are left.
    """
    turned = [x.roll(i + 1, 0) for i in range(7)]
    ways = (x, (x + turned[0]) / 2, soften(sum(turned, x) / 8, 3), shuffled(x, 8), shuffled(x, 4), soften(x, 9))
    return torch.stack(ways)[kind, torch.arange(len(x), device=x.device)]


def soften(x, width):
    """Three box blurs in a row, which is close to a Gaussian of standard deviation width / 2; edges repeated."""
    for _ in range(3):
        x = F.avg_pool2d(F.pad(x, (width // 2,) * 4, mode="replicate"), width, 1)
    return x


def fit(pictures, small, folder, steps=None):
    """Train on renders (n, 64, 64, 3) uint8, a seventh of them spoilt. Of a pair, each subject is half of the answer."""
    torch.manual_seed(0)
    facts, small, where = on_device(encode_attributes(pictures)), on_device(small), device()
    order = on_device(often(pictures))
    nothing = HEADS["subject"].index(NOTHING)

    def loss_of(indices):
        indices = order[indices]
        x, truth = small[indices].permute(0, 3, 1, 2).float() / 127.5 - 1, facts[indices]
        kind = torch.randint(1, WAYS + 1, (len(x),), device=where).masked_fill(torch.rand(len(x), device=where) > 1 / 7, 0)
        spoilt = kind > 0
        out = judge(augment(shift(spoil(x, kind))))
        first = truth[:, 0].masked_fill(spoilt, nothing)
        second = torch.where(truth[:, 1] < 0, truth[:, 0], truth[:, 1]).masked_fill(spoilt, nothing)
        colour, medium, background = (truth[:, i].masked_fill(spoilt, -100) for i in (2, 3, 4))  # of what is spoilt nothing else is asked
        colour = colour.masked_fill(colour == -1, len(COLOURS))
        loss = (F.cross_entropy(out["subject"], first) + F.cross_entropy(out["subject"], second)) / 2
        loss = loss + 0.5 * F.cross_entropy(out["colour"], colour)
        return loss + 0.3 * (F.cross_entropy(out["medium"], medium) + F.cross_entropy(out["background"], background))

    judge = Judge()
    return train("judge", folder, BOX, {"judge": judge}, loss_of, 2e-3, BATCH, len(order), ema=("judge",), steps=steps)["judge"]


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
    """The judge's first choices in words, one dict per picture: subjects (the best two, or none), colour, medium, background.

    Where "nothing" is the likeliest subject none is named; a second subject is named only before "nothing".
    """
    ranked, nothing = np.argsort(-seen["subject"], 1), HEADS["subject"].index(NOTHING)
    best = {key: [HEADS[key][i] for i in seen[key].argmax(1)] for key in ("colour", "medium", "background")}
    named = [[SUBJECTS[j] for j in row[: (*row[:2], nothing).index(nothing)]] for row in ranked]
    return [{"subjects": subjects} | {key: values[i] for key, values in best.items()} for i, subjects in enumerate(named)]


def shows(fact, claim):
    """Which content words of `claim` a picture shows, given one dict of `name`: such as ``{"frog": True, "blue": False}``.

    A subject counts if it is the judge's first choice, or among the first two of a pair; a colour if it is the first choice.
    """
    top = fact["subjects"][: len(claim.subjects)]
    found = {noun: noun in top for noun in claim.subjects}
    return found | ({claim.colour: fact["colour"] == claim.colour} if claim.colour else {})
