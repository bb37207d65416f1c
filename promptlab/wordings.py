"""What someone might have typed who wanted an engineered prompt: the paper's four kinds of source, for prompts from anywhere.

The pocket world has its own (promptlab.pocket.community), from which the wordings are taken: those of different splits differ.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from promptlab.config import preset
from promptlab.pocket.community import REPHRASED, SPLITS, normalised, record
from promptlab.prompts import PRAISE, SWITCH, split_prompt
from promptlab.runtime import PromptlabError, home, read_jsonl, write_atomically, write_jsonl

KINDS = ("MC", "MCM", "RMC", "RTP")
SENTENCES = {  # a rewritten target, as prose: content, and some of how it should look
    "sft": ("{c}, and it should have {w}", "i want {c}, done with {w}", "{c} with a look of {w}", "a picture of {c} where you see {w}"),
    "ppo": ("make {c}, think of {w}", "{c}; for the style take {w}"),
    "validation": ("{c}, if possible with {w}",),
    "test": ("please show {c} and give it {w}", "{c}, but in the manner of {w}"),
}  # fmt: skip
# What a language model is asked for, in place of the rules above.
REQUESTS = {
    "RMC": "Ask for the same picture in other words, in one short sentence. Keep every thing that is named. Answer with the sentence only: {}",
    "RTP": "These keywords describe a picture. Turn them into one plain sentence. Answer with the sentence only: {}",
}


def sources(target, split, rng) -> dict[str, str] | None:
    """One source of every kind for an engineered prompt (Hao et al. 2022, section 3.1), or None where it adds nothing to its content.

    MC main content, MCM main content with some modifiers in another order, RMC main content rephrased, RTP the target
    rephrased as prose.
    """
    content, words = split_prompt(target)
    said = [w for w in words if w.lower() not in PRAISE and not re.match(SWITCH, w)]
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


def reword(records, write: Callable[[list[str]], list[str]]) -> tuple[list[dict], int]:
    """Let a language model rephrase the RMC and RTP sources; returns the records and how many targets it could not do.

    `write` answers a list of requests, such as `instruct(...)`. An answer that is empty, over 60 words, or has lost a word of
    the main content is no source of that target: the whole target goes, so that every target keeps four.
    """
    todo = [r for r in records if r["kind"] in REQUESTS]
    asked = [REQUESTS[r["kind"]].format(split_prompt(r["y"])[0] if r["kind"] == "RMC" else r["y"]) for r in todo]
    answers = [" ".join(a.split()).strip(" \"'") for a in write(asked)]
    new, failed = {}, set()
    for r, answer in zip(todo, answers, strict=True):
        needed = set(normalised(split_prompt(r["y"])[0]).split())
        if not answer or len(answer.split()) > 60 or not needed <= set(normalised(answer).split()):
            failed.add(r["id"])
        new[r["id"], r["kind"]] = answer
    kept = [r | {"x": new.get((r["id"], r["kind"]), r["x"])} for r in records if r["id"] not in failed or r["set"] != "in_domain"]
    return kept, len(failed)


def instruct(name, batch=16, new_tokens=80) -> Callable[[list[str]], list[str]]:
    """An instruction-following language model, by hub id or folder, as a function from requests to answers; greedy, so it repeats itself.

    Raises `PromptlabError` where it cannot be loaded or has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from promptlab.runtime import hardware

    where = hardware()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, dtype=where.dtype).to(where.device).eval()
    except Exception as error:  # transformers and the hub raise their own kinds
        raise PromptlabError(
            f"The language model {name!r} cannot be loaded ({type(error).__name__}). Check the hub id and the network, name a local folder, or leave it out: then rules rephrase."
        ) from error
    if not tokenizer.chat_template:
        raise PromptlabError(f"{name!r} has no chat template, so it follows no instructions. Name one whose id ends in Instruct or Chat.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def write(requests):
        import torch

        answers = []
        for i in range(0, len(requests), batch):
            chats = [[{"role": "user", "content": text}] for text in requests[i : i + batch]]
            inputs = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, return_tensors="pt", padding=True, return_dict=True
            )
            with torch.inference_mode():
                rows = model.generate(
                    **inputs.to(where.device), max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
            answers += tokenizer.batch_decode(rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers

    return write


def own_folder() -> Path:
    """Where a reader's own collection of prompts for this preset is kept: a folder of the run folder."""
    return home() / preset().name / "prompts"


def write(splits, manifest, folder=None) -> Path:
    """Keep a collection: one jsonl file per split, then `manifest.json`, which says where it came from; `load` reads it from now on."""
    folder = Path(folder or own_folder())
    for split, records in splits.items():
        write_jsonl(folder / f"{split}.jsonl", records)
    manifest = manifest | {"records": {split: len(records) for split, records in splits.items()}}
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False))
    return folder


def load(split) -> list[dict]:
    """The records of one split for Stable Diffusion: your own collection where you made one, else those of our keyword tables.

    Prints once which of the two it is. Raises `PromptlabError` for an unknown split or a damaged file.
    """
    if split not in SPLITS:
        raise PromptlabError(f"There is no split {split!r}. Choose one of: {', '.join(SPLITS)}.")
    folder = own_folder()
    if not (folder / "manifest.json").exists():
        from promptlab import keywords

        tell("prompts: made from our keyword tables; `python -m promptlab prompts` fetches what people wrote")
        return [dict(r) for r in keywords.make_all()[split]]
    tell(f"prompts: your own collection, {folder}")
    path = folder / f"{split}.jsonl"
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        raise PromptlabError(f"{path} cannot be read ({error}). Delete {folder}, or run `python -m promptlab prompts` again.") from error


@cache
def tell(line):
    """Print a line once in a session."""
    print(line)
