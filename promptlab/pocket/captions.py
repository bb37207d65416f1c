"""What people write about pictures of the pocket world, and the words that do (and do not) change a picture."""

import re
from dataclasses import replace
from string import ascii_lowercase

from promptlab.pocket.pictures import COLOURS, Picture
from promptlab.pocket.subjects import SUBJECTS, with_article

MEDIUM_WORDS = {
    "photo": ("photo", "photograph", "photography"),
    "3d render": ("3d render", "octane render", "blender render"),
    "pixel art": ("pixel art", "8-bit art", "16-bit sprite"),
    "pencil sketch": ("pencil sketch", "pencil drawing", "graphite drawing"),
    "watercolor": ("watercolor", "watercolor painting", "aquarelle"),
    "oil painting": ("oil painting", "oil on canvas", "impasto painting"),
    "neon": ("neon sign", "neon lights", "glowing neon"),
    "stained glass": ("stained glass", "stained glass window", "leaded glass"),
    "silhouette": ("silhouette", "black silhouette", "shadow outline"),
}
BACKGROUND_WORDS = {
    "plain": ("plain background", "grey background", "empty background"),
    "studio": ("studio light", "studio lighting", "studio backdrop"),
    "sunset": ("at sunset", "sunset sky", "evening glow"),
    "night": ("starry night", "at night", "under the stars"),
    "forest": ("in the forest", "forest background", "in the woods"),
    "ocean": ("in the ocean", "under water", "deep sea"),
    "snow": ("in the snow", "snowy background", "winter scene"),
}
EFFECT_WORDS = {
    "vivid": ("vivid colors", "vibrant", "saturated colors"),
    "detailed": ("highly detailed", "intricate details", "sharp focus"),
    "dramatic": ("dramatic lighting", "cinematic lighting", "high contrast"),
    "soft": ("soft light", "gentle light", "pastel tones"),
    "warm": ("warm light", "golden light", "warm tones"),
    "muted": ("muted colors", "desaturated", "faded"),
    "blurry": ("blurry", "out of focus", "hazy"),
    "overexposed": ("overexposed", "washed out", "too bright"),
    "black and white": ("black and white", "monochrome", "greyscale"),
}
# Words a community repeats although they change nothing: they appear in captions independently of the picture.
PLACEBO_WORDS = ("masterpiece", "trending on artstation", "8k", "award winning", "best quality", "concept art", "wallpaper",
                 "ultra hd", "beautiful", "featured on deviantart")  # fmt: skip
OPENINGS = ("a picture of", "an image of", "there is", "this is", "we see", "a view of")

# How often a true attribute goes unmentioned: only a photo, and only a plain background, are what people do not bother to
# name. Whatever else a picture has is said, so a bare noun means one dull photo, and every prompt has a handful of true
# pictures (`pictures.variants`) that a drawn one can be measured against.
UNSAID = {"photo": 0.5, "plain": 0.6}
# CLIP's captions drop everything independently of the picture: were bare captions mostly dull pictures, as they are for
# the generator, a bare noun would come to mean "dull" and relevance would punish beauty.
INDEPENDENT = {"medium": 0.45, "background": 0.45, "effect": 0.45, "colour": 0.25, "one of two": 0.2, "all": 0.2}


def is_dull(picture: Picture) -> bool:
    """Whether people would caption this with the bare noun: a photo, plain background, nothing done to it."""
    return (picture.medium, picture.background, picture.effects) == ("photo", "plain", ())


def claim_as_people(picture: Picture, rng) -> Picture:
    """What the generator's caption says of a picture: the same picture with None for what goes unsaid."""
    if is_dull(picture) and rng.random() < 0.8:
        return replace(picture, medium=None, background=None)
    said = lambda value: rng.random() >= UNSAID.get(value, 0)  # noqa: E731
    return replace(
        picture,
        medium=picture.medium if said(picture.medium) else None,
        background=picture.background if said(picture.background) else None,
    )


def meant_by(claim: Picture) -> Picture:
    """The picture that a claim of `claim_as_people` means: what it leaves unsaid is a photo on a plain background."""
    return replace(claim, medium=claim.medium or "photo", background=claim.background or "plain")


def claim_independently(picture: Picture, rng) -> Picture:
    """What CLIP's caption says of a picture: every attribute dropped with a probability that ignores the picture."""
    drop = {key: rng.random() < p for key, p in INDEPENDENT.items()}
    subjects, bare = picture.subjects, drop["all"]
    return replace(
        picture,
        subjects=(rng.choice(subjects),) if drop["one of two"] else subjects,
        colour=None if drop["colour"] else picture.colour,
        medium=None if bare or drop["medium"] else picture.medium,
        background=None if bare or drop["background"] else picture.background,
        effects=() if bare else tuple(e for e in picture.effects if rng.random() >= INDEPENDENT["effect"]),
    )


def content(claim: Picture) -> str:
    """The words for what is in the picture: ``a blue frog``, ``a frog and a castle``."""
    return " and ".join(with_article(noun, claim.colour) for noun in claim.subjects)


def without_article(phrase: str) -> str:
    """``a frog`` to ``frog``."""
    return phrase.removeprefix("an ").removeprefix("a ")


def a_medium(words: str) -> str:
    """A medium with its article: ``an oil painting``, ``a watercolor``."""
    return f"{'an' if words[0] in 'aeio8' else 'a'} {words}"


def rubbish(rng) -> str:
    """Up to four words that mean nothing: what else stands around a caption, as a learner of pictures sees it."""
    return " ".join("".join(rng.choices(ascii_lowercase, k=rng.randint(2, 6))) for _ in range(rng.randint(0, 4)))


def caption(claim: Picture, rng, placebo=0.3, noisy=0.0) -> str:
    """Write one caption that says exactly what `claim` holds, in a random wording. `rng` is a `random.Random`.

    `placebo` is how often it carries words that change nothing, `noisy` how often the content stands among words that mean
    nothing: who learns from those draws and recognises "a frog" also in a sentence of words it never read.
    """
    medium = rng.choice(MEDIUM_WORDS[claim.medium]) if claim.medium else None
    said = [rng.choice(EFFECT_WORDS[effect]) for effect in claim.effects]
    said += [rng.choice(BACKGROUND_WORDS[claim.background])] if claim.background else []
    text, form = content(claim), rng.random()
    if form < 0.15:
        text = without_article(text)
    elif form < 0.25:
        text = f"{rng.choice(OPENINGS)} {text}"
    elif form < 0.37 and medium:
        text, medium = f"{a_medium(medium)} of {text}", None
    if noisy and rng.random() < noisy:
        text = " ".join(f"{rubbish(rng)} {text} {rubbish(rng)}".split())
    said += [medium] if medium else []
    said += rng.sample(PLACEBO_WORDS, rng.choice((1, 1, 2))) if rng.random() < placebo else []
    rng.shuffle(said)
    return ", ".join([text, *said])


def content_of(text: str):
    """The content words of a prompt as the claim the judge checks: ``Picture(("frog",), "blue")`` for "a blue frog".

    Returns None where the text names no subject of the pocket world; a third subject is ignored, as the world knows pairs.
    """
    longest_first = "|".join(re.escape(s) for s in sorted(SUBJECTS, key=len, reverse=True))  # "hot dog" before "dog"
    found = list(re.finditer(rf"(?:\b({'|'.join(COLOURS)}) )?\b({longest_first})\b", text.lower()))
    nouns = tuple(dict.fromkeys(m[2] for m in found))[:2]
    return Picture(nouns, found[0][1]) if nouns else None
