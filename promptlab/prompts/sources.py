"""What someone might have typed who wanted an engineered prompt: the paper's four kinds of source, for prompts from anywhere.

The pocket world has its own (promptlab.pocket.community) with the same wordings (promptlab.prompts.records): those of different splits differ.
"""

import re

from promptlab.prompts.records import REPHRASED, SPLITS, normalised, record
from promptlab.prompts.words import SWITCH, praises, split_prompt

KINDS = ("MC", "MCM", "RMC", "RTP")
SENTENCES = {  # a rewritten target, as prose: content, and some of how it should look
    "sft": ("{c}, and it should have {w}", "i want {c}, done with {w}", "{c} with a look of {w}", "a picture of {c} where you see {w}"),
    "ppo": ("make {c}, think of {w}", "{c}; for the style take {w}"),
    "validation": ("{c}, if possible with {w}",),
    "test": ("please show {c} and give it {w}", "{c}, but in the manner of {w}"),
}  # fmt: skip


def sources(target, split, rng) -> dict[str, str] | None:
    """One source of every kind for an engineered prompt (Hao et al. 2022, section 3.1), or None where it adds nothing to its content.

    MC main content, MCM main content with some modifiers in another order, RMC main content rephrased, RTP the target
    rephrased as prose.
    """
    content, words = split_prompt(target)
    said = [w for w in words if not praises(w) and not re.match(SWITCH, w)]
    if not said:
        return None
    some, two = rng.sample(words, min(len(words), rng.choice((1, 1, 2)))), rng.sample(said, min(len(said), 2))
    sentence = rng.choice(SENTENCES[split]).format(c=content, w=" and ".join(two))
    return {"MC": content, "MCM": ", ".join([content, *some]), "RMC": rng.choice(REPHRASED[split]).format(content), "RTP": sentence}


def in_domain(split, targets, rng) -> list[dict]:
    """Records of the four kinds SFT sees: for every target, a (text, subject or None, colour or None), one source of every kind, in a row."""
    out = []
    for i, (target, subject, colour) in enumerate(targets):
        for kind, x in (sources(target, split, rng) or {}).items():
            out.append(record(f"{split}-{i}", split, "in_domain", kind, x, target, [subject] if subject else (), colour))
    return out


def separate(splits) -> dict[str, list[dict]]:
    """Drop what normalises to the x or y of another split; the smaller and later in the course, the sooner a split keeps its own.

    SFT loses all four sources of a target at once, as lessons count on four in a row.
    """
    taken, out = set(), {}
    for split in ("test", "validation", "calibration", "ppo", "sft"):
        texts = [{normalised(t) for t in (r["x"], r["y"]) if t} for r in splits[split]]
        clash = [bool(t & taken) for t in texts]
        gone = {r["id"] for r, c in zip(splits[split], clash, strict=True) if c and split == "sft"}
        out[split] = [r for r, c in zip(splits[split], clash, strict=True) if not c and r["id"] not in gone]
        taken |= set().union(*texts)
    return {split: out[split] for split in SPLITS}
