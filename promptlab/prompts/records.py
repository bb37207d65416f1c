"""One row of a prompt file, the splits that every stage keeps to, and the wordings that belong to one split alone.

What the pocket world's community, our keyword tables and public collections have in common.
"""

import zlib

from promptlab.prompts.words import split_prompt

SPLITS = ("sft", "ppo", "calibration", "validation", "test")

# Wordings, disjoint between splits as well: a policy is tested on sentences it never read.
REPHRASED = {
    "sft": ("{} please", "draw {}", "i want {}", "show me {}", "something with {}", "{} for my wall", "can you make {}", "just {}", "i would like to see {}", "picture with {} in it"),
    "ppo": ("paint me {}", "{} would be great", "let me see {}", "make {} for a card"),
    "validation": ("could i get {}", "{} thanks", "an idea: {}"),
    "test": ("please create {}", "i am looking for {}", "how about {}", "{} for my daughter", "give me {} to print"),
}  # fmt: skip
CAPTIONS = {  # as someone would describe a photograph they hold: no split but "sft" lacks them
    "ppo": ("{} is standing next to a wall", "there is {} on the table in front of us", "a close up of {} seen from the side",
            "{} that belongs to my neighbour", "we found {} during our holiday"),
    "validation": ("someone left {} in the garden", "{} in the middle of the room"),
    "test": ("{} is waiting on the left of the road", "a person looks at {} through a window", "this old image has {} in the corner",
             "two friends talk about {} near a bench", "{} as it was last summer"),
}  # fmt: skip


def share(*key) -> int:
    """A fixed number 0-99 for a key: the same on every machine, unrelated to the order of any list."""
    return zlib.crc32("|".join(map(str, key)).encode()) % 100


def part_of(shares, *key) -> str:
    """Which of the names in `shares`, a dict to shares of 100, a key belongs to."""
    at = share(*key)
    for name, part in shares.items():
        if at < part:
            return name
        at -= part
    raise AssertionError("shares add up to 100")


def deal(nouns, alone, salt) -> dict[str, list[str]]:
    """Nouns of one kind by the split they belong to alone, at least one each, and as "common" what is left of them."""
    left, out = sorted(nouns, key=lambda noun: zlib.crc32(f"{salt}|{noun}".encode())), {}
    for name, part in alone.items():
        cut = max(1, round(part * len(nouns)))
        out[name], left = left[:cut], left[cut:]
    return out | {"common": left}


def pick(rng, weights):
    return rng.choices(list(weights), list(weights.values()))[0]


def record(name, split, domain, kind, x, y, subjects=(), colour=None) -> dict:
    """One row of a prompt file; where nobody said what a prompt shows, its whole content is the subject."""
    subjects = list(subjects) or [split_prompt(y or x)[0]]
    return {"id": name, "split": split, "set": domain, "kind": kind, "x": x, "y": y, "subjects": subjects, "colour": colour}


def distinct(records):
    """The first record of every x: a prompt counts once."""
    seen = {}
    for r in records:
        seen.setdefault(normalised(r["x"]), r)
    return list(seen.values())


def normalised(text) -> str:
    """Words in order, without case, punctuation and articles: what the overlap of splits is checked on."""
    words = "".join(c if c.isalnum() or c.isspace() else " " for c in text.lower()).split()
    return " ".join(w for w in words if w not in ("a", "an", "the"))
