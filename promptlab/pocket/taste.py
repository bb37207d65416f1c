"""The gold rater: what people of the pocket world find beautiful, from pixels and from what fits the subject.

Gold stands in for human judgement (1-10). It is used to simulate ratings for the aesthetic head and to evaluate; no
reward ever sees it.
"""

import numpy as np

from promptlab.pocket.judge import HEADS, look, name
from promptlab.pocket.pictures import BACKGROUNDS, MEDIA
from promptlab.pocket.subjects import KIND, KINDS, SUBJECTS

# What fits which kind of thing, -1 to 1. One row per kind; columns as in MEDIA, then as in BACKGROUNDS, then how colourful
# and how contrasty it should be (in standard deviations from the average picture): plants and things like it quiet.
TASTE = """
          photo  3d  pixel pencil water  oil  neon glass silh | plain studio sunset night forest ocean snow | colour contrast
sea         .2   .0   -.4   -.3   1.0   .4   -.6   .3   -.5   |  -.5   -.3    .2   -.3   -.7   1.0   .0     |   .6     .0
wild        .3  -.2   -.5    .0    .1  1.0   -.7   .0   -.2   |  -.4   -.2    .2   -.2   1.0   -.5   .3     |   .6     .5
plant       .2  -.5   -.6    .2   1.0   .4   -.7   .4   -.4   |  -.2    .1    .3   -.6    .6   -.5   .8     |  -.1    -.5
food       1.0   .3   -.6   -.5   -.1   .2   -.4  -.7   -.9   |  -.2   1.0   -.2   -.6   -.3   -.6  -.5     |   .9     .3
place       .2  -.2   -.2    .2    .3  1.0   -.4   .5    .4   |  -.6   -.6   1.0    .4    .2   -.2   .3     |   .7     .4
vehicle     .2  1.0    .2   -.4   -.5  -.2    .2  -.5    .1   |  -.5    .1    .3   1.0   -.6   -.3  -.1     |   .7    1.0
thing       .1  1.0   -.1    .0   -.3  -.2    .2  -.4   -.5   |  -.3    .9   -.2    .3   -.5   -.7  -.1     |   .1     .0
"""
WEIGHTS = {"fit": 1.0, "colour": 0.6, "contrast": 0.5, "sharpness": 0.5, "separation": 0.25, "exposure": 0.35, "clipped": 0.8}
SLOPE, CENTRE = 0.85, 0.1  # the sigmoid that maps the sum to 1-10: flat enough that the best pictures do not all score 10


def table():
    """TASTE as arrays: media (7, 9), backgrounds (7, 7), wanted colourfulness and contrast (7, 2), rows as in KINDS."""
    rows = [line.replace("|", " ").split()[1:] for line in TASTE.strip().splitlines()[1:]]
    values, m, b = np.array(rows, dtype=float), len(MEDIA), len(BACKGROUNDS)
    return values[:, :m], values[:, m : m + b], values[:, m + b :]


def statistics(images):
    """Pixel facts of uint8 (n, 128, 128, 3) as a dict of (n,) arrays; all but sharpness at half size, which is 4 x faster."""
    full = images.astype(np.float32) / 255
    n, side = len(full), full.shape[1] // 2
    x = full.reshape(n, side, 2, side, 2, 3).mean((2, 4))
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601 luma
    red, green, blue, grey = x[..., 0], x[..., 1], x[..., 2], (x @ weights).reshape(n, -1)
    rg, yb = (red - green).reshape(n, -1), (0.5 * (red + green) - blue).reshape(n, -1)
    low, high = np.percentile(grey, (3, 97), axis=1)
    sharp = full @ weights
    steps = np.abs(np.diff(sharp, axis=1)).mean((1, 2)) + np.abs(np.diff(sharp, axis=2)).mean((1, 2))
    middle = np.zeros((side, side), bool)
    middle[side // 4 : -side // 4, side // 5 : -side // 5] = True
    return {
        # Hasler and Suesstrunk (2003), "Measuring colourfulness in natural images", on 0-1 pixels
        "colour": np.hypot(rg.std(1), yb.std(1)) + 0.3 * np.hypot(rg.mean(1), yb.mean(1)),
        "contrast": high - low,
        "sharpness": np.log(1e-3 + steps),
        "separation": np.linalg.norm(x[:, middle].mean(1) - x[:, ~middle].mean(1), axis=1),  # subject against border
        "exposure": grey.mean(1),
        "clipped": ((x.min(-1) > 0.985) | (x.max(-1) < 0.015)).reshape(n, -1).mean(1),
    }


# Mean and standard deviation of each statistic over the first 4,000 training pictures.
NORMS = {
    "colour": (0.2186, 0.1592), "contrast": (0.5511, 0.2157), "sharpness": (-3.456, 0.7761),
    "separation": (0.2987, 0.1879), "exposure": (0.5488, 0.1827), "clipped": (0.0321, 0.1154),
}  # fmt: skip


def gold(images, seen):
    """Rate pictures 1-10.

    `images` uint8 (n, 128, 128, 3); `seen` what the judge saw (`judge.look`), or the truth (`truth_as_seen`) on renders.
    Returns float (n,).
    """
    facts = {k: (v - NORMS[k][0]) / NORMS[k][1] for k, v in statistics(images).items()}
    media, backgrounds, wanted = table()
    kind = seen["subject"][:, : len(SUBJECTS)] @ np.eye(len(KINDS))[[list(KINDS).index(KIND[s]) for s in SUBJECTS]]
    fit = kind.sum(1) - 1  # where nothing can be made out, nothing fits
    fit += ((kind @ media) * seen["medium"]).sum(1) + ((kind @ backgrounds) * seen["background"]).sum(1)
    off = lambda name, column: np.clip(np.abs(facts[name] - kind @ wanted[:, column]) - 0.3, 0, 2.5)  # noqa: E731
    w = WEIGHTS
    total = w["fit"] * fit - w["colour"] * off("colour", 0) - w["contrast"] * off("contrast", 1)
    total += w["sharpness"] * np.clip(facts["sharpness"], -3, 1) + w["separation"] * np.clip(facts["separation"], -1.5, 1.5)
    # Too bright is worse than too dark: were they equal, overexposure would repair every night scene.
    total -= w["exposure"] * (np.clip(facts["exposure"] - 0.7, 0, 3) + 0.3 * np.clip(-facts["exposure"] - 1.2, 0, 3)) + w[
        "clipped"
    ] * np.clip(facts["clipped"] - 0.5, 0, 3)
    return 1 + 9 / (1 + np.exp(-SLOPE * (total - CENTRE)))


def facts(images, judge):
    """What the judge and the gold rater say of pictures, one small dict each: gold, subjects, colour, medium, background."""
    seen = look(judge, images)
    return [fact | {"gold": round(float(g), 4)} for fact, g in zip(name(seen), gold(images, seen), strict=True)]


def truth_as_seen(pictures):
    """What a perfect judge would see in renders, in the format of `judge.look`."""
    seen = {name: np.zeros((len(pictures), len(values))) for name, values in HEADS.items()}
    for i, p in enumerate(pictures):
        for noun in p.subjects:
            seen["subject"][i, SUBJECTS.index(noun)] = 1 / len(p.subjects)
        seen["colour"][i, HEADS["colour"].index(p.colour or "its own")] = 1
        seen["medium"][i, MEDIA.index(p.medium)] = 1
        seen["background"][i, BACKGROUNDS.index(p.background)] = 1
    return seen
