"""Numbered sheets of drawn pictures, and in another file what was asked for: can a person who has seen neither name them?"""

import json

import numpy as np

from promptlab.pocket.captions import content
from promptlab.pocket.judge import look, name, shows
from promptlab.pocket.pictures import COLOURS, Picture
from promptlab.pocket.subjects import SUBJECTS
from promptlab.runtime import home, write_atomically

ASKED = {"plain": 60, "coloured": 30, "pairs": 30}  # pictures of each group
ROWS, COLUMNS, MARGIN = 6, 5, 18  # pictures of a sheet, and pixels for the number above each


def contents(rng):
    """What to draw, by chance: a list of (group, Picture)."""
    pick = lambda values: str(rng.choice(list(values)))  # noqa: E731
    makers = {
        "plain": lambda: Picture((pick(SUBJECTS),)), "coloured": lambda: Picture((pick(SUBJECTS),), pick(COLOURS)),
        "pairs": lambda: Picture(tuple(map(str, rng.choice(SUBJECTS, 2, replace=False)))),
    }  # fmt: skip
    asked = [(group, makers[group]()) for group, count in ASKED.items() for _ in range(count)]
    return [asked[i] for i in rng.permutation(len(asked))]


def lay_out(images, first, path):
    """Write one sheet: pictures uint8 (n, 128, 128, 3) in rows, a number above each, counting from `first`."""
    from PIL import Image, ImageDraw

    side = images.shape[1] + 6
    sheet = Image.new("RGB", (COLUMNS * side, -(-len(images) // COLUMNS) * (side + MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = i % COLUMNS * side, i // COLUMNS * (side + MARGIN)
        pen.text((x + 4, y + 3), str(first + i), fill="black")
        sheet.paste(Image.fromarray(image), (x + 3, y + MARGIN))
    sheet.save(path)


def write(out, seed=None):
    """Draw pictures that the world in `out` was never asked for in this test and write `sheet-1.png` ... and `key.json`.

    Nouns, colours and image seeds are chosen by chance, others each time where no `seed` is given. The key says of each number
    what was asked for and whether the judge sees it.
    """
    from promptlab.models.clip import Clip
    from promptlab.pictures.gallery import Gallery
    from promptlab.pocket.build import preset_for

    seed = int(np.random.SeedSequence().generate_state(1)[0]) % 10**6 if seed is None else seed
    folder, asked = home() / "pocket" / f"sheets-{seed}", contents(np.random.default_rng(seed))
    preset = preset_for(out)
    gallery = Gallery(preset, Clip(preset.clip), folder)
    prompts = [content(p) for _, p in asked]
    images = gallery.generator.generate(prompts, range(700_000 + seed, 700_000 + seed + len(prompts)), progress=True)
    seen = name(look(gallery.judge.model, images))
    for k in range(0, len(images), ROWS * COLUMNS):
        lay_out(images[k : k + ROWS * COLUMNS], k + 1, folder / f"sheet-{k // (ROWS * COLUMNS) + 1}.png")
    key = {
        i: {"group": group, "asked": text, "judge": all(shows(fact, p).values())}
        for i, ((group, p), text, fact) in enumerate(zip(asked, prompts, seen, strict=True), 1)
    }
    write_atomically(folder / "key.json", json.dumps(key, indent=1))
    print(f"{folder}: name what the sheets show, then open key.json.")
