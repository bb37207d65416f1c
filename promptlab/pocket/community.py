"""What a community of prompt writers of the pocket world types, and the one split of it that every stage keeps to.

A stand-in for the engineered prompts that Promptist learned from (Hao et al. 2022, section 3.1). Its habits help on
average and are not what helps: fashion more than fit, placebo words, some words that harm. `python -m
promptlab.pocket prompts` writes `data/prompts/`.
"""

import json
import random
from pathlib import Path

from promptlab.pocket.captions import BACKGROUND_WORDS, EFFECT_WORDS, MEDIUM_WORDS, PLACEBO_WORDS, a_medium, content, without_article
from promptlab.pocket.pictures import COLOURS, Picture
from promptlab.pocket.subjects import KIND, KINDS, SUBJECTS, with_article
from promptlab.prompts.records import CAPTIONS, REPHRASED, SPLITS, deal, distinct, part_of, pick, record, share
from promptlab.runtime import write_atomically, write_jsonl

# Fashion: how often a member names each medium, background and light, whatever the subject.
MEDIA = {"pixel art": 22, "neon": 15, "3d render": 15, "photo": 11, "oil painting": 10, "pencil sketch": 10, "watercolor": 8, "stained glass": 6, "silhouette": 3}  # fmt: skip
BACKGROUNDS = {None: 24, "night": 24, "sunset": 20, "forest": 8, "studio": 6, "ocean": 5, "snow": 6, "plain": 7}
EFFECTS = {
    "detailed": 18,
    "dramatic": 28,
    "vivid": 20,
    "warm": 8,
    "soft": 7,
    "blurry": 6,
    "muted": 4,
    "black and white": 4,
    "overexposed": 2,
}
# What looks right for which kind. Many have seen where a thing belongs, few how it is best painted: the rest follows fashion.
TIPS = {
    "sea": ("watercolor", "ocean"), "wild": ("oil painting", "forest"), "plant": ("watercolor", "snow"), "food": ("photo", "studio"),
    "place": ("oil painting", "sunset"), "vehicle": ("3d render", "night"), "thing": ("3d render", "studio"),
}  # fmt: skip
TIP_MEDIUM, TIP_BACKGROUND = 0.1, 0.22  # how often a member follows it

# Of the nouns of each kind: these shares belong to one split alone; the rest are "common", known to SFT.
ALONE = {"test": 0.15, "validation": 0.06, "ppo": 0.14, "calibration": 0.05}
# Each (noun, colour) of a common noun belongs to one split: shares of 100.
COMMON = {"sft": 60, "ppo": 15, "validation": 8, "test": 17}

SENTENCES = {  # a rewritten target, as prose: content, medium, background or light
    "sft": ("{m} of {c}: {w}", "i want {c} as {m}, {w}", "{c} done as {m}, {w}", "{c} that looks like {m}, {w} too"),
    "ppo": ("make {c} into {m}, {w}", "{m} that shows {c}: {w}"),
    "validation": ("{c}, if possible {m}, {w}",),
    "test": ("please turn {c} into {m}, {w}", "{c}, but as {m}, {w}"),
}


def groups() -> dict[str, list[str]]:
    """Which nouns belong to one split alone, and which are common: every kind is divided in the same proportions."""
    dealt = [deal([s for s in SUBJECTS if KIND[s] == kind], ALONE, "group") for kind in KINDS]
    return {name: [noun for hand in dealt for noun in hand[name]] for name in (*ALONE, "common")}


def contents(split, nouns) -> list[Picture]:
    """The (noun, colour) contents of a split among common nouns."""
    return [Picture((s,), c) for s in nouns for c in (None, *COLOURS) if part_of(COMMON, "content", s, c) == split]


def draw(claims, rng, count=1):
    """Claims by chance; a noun in its own colours is named as often as the six recoloured ones together."""
    return rng.choices(claims, [1 if c.colour else len(COLOURS) for c in claims], k=count)


def modifiers(kind, rng) -> list[str]:
    """What a member adds to a subject of this kind: one medium, mostly a background, one to three kinds of light, placebo."""
    medium = TIPS[kind][0] if rng.random() < TIP_MEDIUM else pick(rng, MEDIA)
    background = TIPS[kind][1] if rng.random() < TIP_BACKGROUND else pick(rng, BACKGROUNDS)
    effects = {pick(rng, EFFECTS) for _ in range(rng.choice((1, 1, 2, 3)))}
    words = [rng.choice(MEDIUM_WORDS[medium])] + ([rng.choice(BACKGROUND_WORDS[background])] if background else [])
    words += [rng.choice(EFFECT_WORDS[e]) for e in sorted(effects)]
    rng.shuffle(words)
    return words + rng.sample(PLACEBO_WORDS, rng.choice((0, 1, 1, 2, 3)))


def engineer(claim: Picture, rng) -> str:
    """An engineered prompt: the content, then modifiers behind commas."""
    return ", ".join([content(claim), *modifiers(KIND[claim.subjects[0]], rng)])


def source(kind, target, claim, split, rng) -> str:
    """What someone might have typed who wanted `target`: one of the paper's four kinds of source (section 3.1).

    MC main content, MCM main content with some modifiers in another order, RMC main content rephrased, RTP the target
    rephrased as prose.
    """
    bare, words = content(claim), target.split(", ")[1:]
    if kind == "MC":
        return bare
    if kind == "MCM":
        return ", ".join([bare, *rng.sample(words, min(len(words), rng.choice((1, 1, 2))))])
    if kind == "RMC":
        return rng.choice(REPHRASED[split]).format(bare)
    media = [w for group in MEDIUM_WORDS.values() for w in group]
    (medium,) = [w for w in words if w in media]
    rest = [w for w in words if w != medium and w not in PLACEBO_WORDS]
    return rng.choice(SENTENCES[split]).format(c=bare, m=a_medium(medium), w=", ".join(rng.sample(rest, min(2, len(rest)))))


def in_domain(split, count, rng) -> list[dict]:
    """Records of the four kinds SFT sees, on common nouns: `count` targets, each with one source of every kind."""
    pool = contents(split, groups()["common"])
    chosen = draw(pool, rng, count)
    out = []
    for i, claim in enumerate(chosen):
        target = engineer(claim, rng)
        for kind in ("MC", "MCM", "RMC", "RTP"):
            out.append(
                record(
                    f"{split}-{i}", split, "in_domain", kind, source(kind, target, claim, split, rng), target, claim.subjects, claim.colour
                )
            )
    return out


def out_of_domain(split, count, rng) -> list[dict]:
    """Records of what SFT never saw: captions, bare labels, pairs, and nouns of this split alone; `count` of each kind."""
    alone, out = groups()[split], []
    mine = [Picture((s,), c) for s in alone for c in (None, *COLOURS)]
    pairs = [Picture((a, b)) for a in alone for b in alone if a != b]
    labels = [c for c in mine if share("label", c.subjects[0], c.colour) < 40]  # "a frog" and "frog" are the same prompt
    articled = [c for c in mine if c not in labels]
    makers = {
        "caption": lambda: (c := draw(mine, rng)[0], rng.choice(CAPTIONS[split]).format(content(c))),
        "label": lambda: (c := draw(labels, rng)[0], without_article(content(c))),
        "pair": lambda: (c := rng.choice(pairs), content(c)),
        "held out": lambda: (c := draw(articled, rng)[0], content(c)),
    }
    for kind, make in makers.items():
        seen = {}
        for _ in range(50 * count):  # a small split runs out of labels before it has `count` different ones
            claim, text = make()
            seen.setdefault(text, claim)
            if len(seen) == count:
                break
        out += [
            record(f"{split}-{kind}-{i}", split, "out_of_domain", kind, text, None, claim.subjects, claim.colour)
            for i, (text, claim) in enumerate(seen.items())
        ]
    return out


def make_all(seed=0) -> dict[str, list[dict]]:
    """Every split's records. SFT repeats a prompt with several targets, as people do; elsewhere a prompt occurs once."""
    out = {"sft": in_domain("sft", 1500, random.Random(f"{seed} sft"))}
    for split, inside, outside in (("ppo", 110, 100), ("validation", 20, 20), ("test", 80, 80)):
        rng = random.Random(f"{seed} {split}")
        out[split] = distinct(in_domain(split, inside, rng)) + distinct(out_of_domain(split, outside, rng))
    out["calibration"] = [
        record(f"calibration-{i}", "calibration", "out_of_domain", "held out", with_article(s, c), None, (s,), c)
        for i, (s, c) in enumerate((s, c) for s in groups()["calibration"] for c in (None, *list(COLOURS)[::2]))
    ]
    return {split: out[split] for split in SPLITS}


def write(folder: Path):
    """Write one jsonl file per split, and `manifest.json`: what belongs to which split."""
    splits, folder = make_all(), Path(folder)
    for split, records in splits.items():
        write_jsonl(folder / f"{split}.jsonl", records)
    manifest = {
        "command": "python -m promptlab.pocket prompts", "nouns": groups(), "wordings": {"RMC": REPHRASED, "RTP": SENTENCES, "caption": CAPTIONS},
        "records": {s: len(r) for s, r in splits.items()},
    }  # fmt: skip
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))
