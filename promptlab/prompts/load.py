"""The prompts of every stage, split by split: the pocket world's, a reader's own collection, or those of our keyword tables."""

import json
from functools import cache
from pathlib import Path

from promptlab.config import preset
from promptlab.prompts.records import SPLITS
from promptlab.runtime import PromptlabError, data_dir, home, read_jsonl, write_atomically, write_jsonl


def load_prompts(split) -> list[dict]:
    """The records of one split: dicts with x, y, kind, set, subjects, colour; from `data/prompts` where the pocket world draws.

    Raises `PromptlabError` for an unknown split or a damaged file.
    """
    if not preset().prompts:
        return load(split)
    path = data_dir() / preset().prompts / f"{split}.jsonl"
    if not path.exists():
        raise PromptlabError(
            f"{path} is missing. The splits are sft, ppo, calibration, validation and test; `git checkout -- data/prompts` restores them."
        )
    try:
        return read_jsonl(path)
    except ValueError as error:
        raise PromptlabError(f"{path} is damaged ({error}). `git checkout -- data/prompts` restores it.") from error


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
        from promptlab.prompts import keywords

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
