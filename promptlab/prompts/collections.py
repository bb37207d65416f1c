"""Public collections of prompts, captions and labels: fetched by hub id or read from files, filtered, divided into our splits.

Nothing of them travels with this package: `python -m promptlab prompts` fetches them to the reader's run folder.
"""

import glob
import os
import random
import re
import tempfile
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from promptlab.prompts.files import FILES, choose, readable, rows
from promptlab.prompts.instruct import reword
from promptlab.prompts.keywords import PLAIN, imagenet_labels, label_split
from promptlab.prompts.records import SPLITS, distinct, normalised, part_of, record
from promptlab.prompts.sources import in_domain, separate
from promptlab.prompts.words import SWITCH, clean_prompt, split_prompt, wanted
from promptlab.runtime import PromptlabError


@dataclass(frozen=True)
class Collection:
    """Where one public collection is, and what may be done with it."""

    id: str  # on the hub
    column: str  # of the text; where it holds lists, the first entry counts: five captions of one picture are near duplicates
    split: str
    licence: str
    megabytes: int  # to download; estimated
    file: str | None = None  # the one file to take where the repository holds much else
    revision: str = "main"  # a branch: no commit could be looked up where this was written


COLLECTIONS = {
    c.id: c
    for c in (
        Collection("Gustavosta/Stable-Diffusion-Prompts", "Prompt", "train", "none stated: for study, do not pass on", 10),
        # 14 million pictures lie beside this table of who typed what for the first two million.
        Collection("poloclub/diffusiondb", "prompt", "train", "CC0-1.0", 200, "metadata.parquet"),
        Collection("phiyodr/coco2017", "captions", "train", "captions CC-BY-4.0", 30),
        Collection("nateraw/parti-prompts", "Prompt", "train", "Apache-2.0", 1),
    )
}
PROMPTS, TYPED, CAPTIONS, PARTI = COLLECTIONS  # engineered prompts, what people typed, captions, prompts of a benchmark
# Words that make a picture unfit for a class; the safety checker would black it out. A reader passes another list to `keep`.
UNFIT = frozenset("""nude naked nudity nsfw sex sexy sexual erotic porn hentai lingerie breasts nipples genitals fetish topless gore gory
    gruesome mutilated decapitated corpse blood bloody suicide rape torture cock""".split())  # fmt: skip
# The most frequent little words: English prompts hold more of the first than of the second.
ENGLISH = frozenset("the a an of in on with and at by from is are to for his her its under over".split())
FOREIGN = frozenset("el los las una un con del en por para que der das und mit ein eine im auf von le les une des et avec dans sur est di il che na com um uma em da een het van".split())  # fmt: skip

# Shares of 100, by main content, so that all targets of one content lie in one split; at most so many targets of each.
SHARES = {"sft": 60, "ppo": 14, "validation": 6, "test": 14, "calibration": 6}
# Targets of each split at most, each with four sources. The paper has 90,000 for SFT: 20,000 are what a T4 reads once in half an hour
# (estimated); its 12,000 episodes of PPO need few prompts; 64 x 4 to test on are its 256.
COUNTS = {"sft": 20_000, "ppo": 1000, "validation": 50, "test": 64}
# Of every kind SFT never sees, and of prompts people typed. The paper tests on 256 of DiffusionDB and 256 of COCO.
OTHERS = {"ppo": 500, "validation": 50, "test": 256}
PER_CONTENT = 4  # targets of one content: people post the same prompt with one word changed


def read(name, column=None, split=None, limit=None, seed=0) -> list[str]:
    """The texts of a collection: a hub id, a folder in the hub's format or of .txt files, or a file (parquet, csv, tsv, json, jsonl, txt).

    `column` is one name or several, of which the first that is there counts. `limit` takes that many rows at random. Raises
    `PromptlabError` where nothing of the kind exists, it may not be read, there is no network, or `column` and `split` are not in it,
    and says what to do.
    """
    known, path = COLLECTIONS.get(str(name)), Path(name).expanduser()
    names = [column] if isinstance(column, str) else list(column or ([known.column] if known else ()))
    split = split or (known and known.split) or "train"
    if path.is_file() and path.suffix.lower() not in FILES:
        raise PromptlabError(f"{name} is of no kind we read. Give a file that ends in {', '.join(FILES)}.")

    def some(n):
        return sorted(random.Random(seed).sample(range(n), limit)) if limit and limit < n else range(n)

    if own := readable(path, split):
        found = [row for file in own for row in rows(file, names)]
        column = choose(name, names, list(dict.fromkeys(key for row in found for key in row)))
        values = [found[i].get(column) for i in some(len(found))]
    else:
        data = load(name, path, known, split)
        values = data.select(some(len(data)))[choose(name, names, data.column_names)]
    first = (v[0] if isinstance(v, list) and v else v for v in values)
    texts = [v for v in first if isinstance(v, str) and v.strip()]
    if not texts:
        raise PromptlabError(f"{name} holds no text in the column read. Name another (`--column`, `column=`), or another file.")
    return texts


def load(name, path, known, split):
    """What `datasets` makes of a hub id, a folder or a parquet file: a table of one split. Raises `PromptlabError`."""
    from datasets import config, disable_progress_bars, load_dataset
    from huggingface_hub.constants import HF_HUB_CACHE

    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else every load, of a local file too, is reported to a server
    disable_progress_bars()
    for folder in (config.HF_DATASETS_CACHE, *(() if path.exists() else (HF_HUB_CACHE,))):
        try:  # where it may not write, `datasets` waits for its lock for ever
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise PromptlabError(
                f"{name} needs a folder for copies, and {folder} cannot be written ({error.strerror}). Let HF_HOME (and HF_DATASETS_CACHE, "
                "HF_HUB_CACHE, where they are set) name a folder that can, or give a .csv, .jsonl or .txt file, which needs none."
            ) from None
    try:
        if path.is_file():
            return load_dataset("parquet", data_files={split: glob.escape(str(path))}, split=split)
        if path.is_dir():
            if glob.has_magic(str(path)):  # would be taken for a pattern, and `datasets` escapes no folder whose kind it must find out
                return load_dataset("parquet", data_dir=glob.escape(str(path)), split=split)
            return load_dataset(str(path), split=split)
        if known and known.file:
            from huggingface_hub import hf_hub_download

            file = hf_hub_download(known.id, known.file, repo_type="dataset", revision=known.revision)
            return load_dataset("parquet", data_files={split: file}, split=split, columns=[known.column])
        return load_dataset(str(name), split=split, revision=known and known.revision)
    except Exception as error:  # datasets, the hub, pyarrow and httpx raise their own kinds
        raise PromptlabError(explain(name, split, error)) from None  # their tracebacks may show headers with a token


def explain(name, split, error) -> str:
    """One sentence on why a collection cannot be read, and the next step; never with the reader's token in it."""
    kinds = {c.__name__ for e in (error, error.__cause__, error.__context__) if e for c in type(e).__mro__}
    said = " ".join(str(error).split())
    if Path(name).expanduser().is_file():
        return f"{name} cannot be read ({_safe(said)}). Check that it is complete, or name another file."
    if "is a gated dataset" in said or "GatedRepoError" in kinds:
        return f"{name} is gated: accept its terms at https://huggingface.co/datasets/{name}, then set HF_TOKEN to a token that may read."
    if "no longer supported" in said:
        return f"{name} is a script, which `datasets` runs no more. Download one of its data files and name that file."
    if kinds & {"OfflineModeIsEnabled", "ConnectError", "TimeoutException", "ConnectionError"}:
        return f"{name} needs the network, which cannot be reached. Try again online, name a local file, or leave it out: our own keyword tables need none."
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "HFValidationError", "RevisionNotFoundError"} or re.search(
        r"doesn't exist|not found", said
    ):
        return (
            f"{name} is neither a file or folder here nor a public collection on the hub. Check the spelling; a private one needs HF_TOKEN."
        )
    if "Unknown split" in said:
        return f"{name} has no split {split!r} ({_safe(said)}). Name one of those."
    return f"{name} cannot be read ({type(error).__name__}: {_safe(said)}). Try again, or name a file of it on this machine."


def _safe(text, width=200) -> str:
    """The start of a message without the hub token, which a library may repeat."""
    token = os.environ.get("HF_TOKEN", "")
    return (text.replace(token, "***") if token else text)[:width]


def keep(texts, shortest=2, longest=60, blocked=UNFIT, english=True) -> tuple[list[str], Counter]:
    """The texts that pass every filter, cleaned, in order; and how many each filter took, by its name.

    `shortest` and `longest` count words: the text encoder reads 77 tokens, about 60 words. `blocked` is a list of words. Interface
    syntax such as ``(word:1.2)`` or ``--ar 16:9`` goes as well: to the text encoder it is noise; so is what follows ``Negative prompt:``.
    """
    kept, gone = {}, Counter()
    for text in map(wanted, texts):
        words = set(normalised(text).split())
        if not words:
            gone["empty"] += 1
        elif not shortest <= len(text.replace(",", " ").split()) <= longest:
            gone["length"] += 1
        elif words & set(blocked):
            gone["word list"] += 1
        elif english and not looks_english(text):
            gone["language"] += 1
        elif re.search(SWITCH + r"|[\[\]{}<>|\\]|:\d|\(\(|https?:", text):
            gone["syntax"] += 1
        elif normalised(text) in kept:
            gone["duplicates"] += 1
        else:
            kept[normalised(text)] = clean_prompt(text)
    return list(kept.values()), gone


FILTERS = {  # what passes, by the name of the filter
    "empty": "no word in it", "length": "2 to 60 words pass", "word list": "what a safety checker blacks out",
    "language": "English passes", "syntax": "weights, brackets, switches such as --ar and links are noise to the text encoder: take them out",
    "duplicates": "the same words again",
}  # fmt: skip


def looks_english(text) -> bool:
    """Whether a text may be English: Latin letters, and not more little words of other languages than of English."""
    letters = [c for c in text if c.isalpha()]
    words = re.findall(r"[a-z]+", text.lower())
    foreign = sum(w in FOREIGN for w in words)
    latin = sum(unicodedata.name(c, "").startswith("LATIN") for c in letters)
    return latin >= 0.95 * len(letters) and not (foreign > 1 and foreign > sum(w in ENGLISH for w in words))


def split_of(text) -> str:
    """The split a text's main content belongs to, the same on every machine and in whatever company."""
    return part_of(SHARES, "collection", normalised(split_prompt(text)[0]))


def divide(texts, seed=0) -> dict[str, list[str]]:
    """Texts by split, in an order of chance, at most PER_CONTENT of one main content."""
    texts, seen, out = sorted(texts), Counter(), {split: [] for split in SPLITS}
    random.Random(seed).shuffle(texts)
    for text in texts:
        content = normalised(split_prompt(text)[0])
        seen[content] += 1
        if content and seen[content] <= PER_CONTENT:
            out[split_of(text)].append(text)
    return out


def build(prompts, others, writer=None, seed=0, gone=None) -> tuple[dict[str, list[dict]], int]:
    """Every split's records from engineered prompts, and how many targets `writer`, a language model, could not rephrase.

    `others` maps a kind, such as "caption", to its set and texts: what SFT never sees, or sees in no pair. ImageNet's labels are
    always among them. `writer` as in `reword`; without one, rules rephrase. Raises `PromptlabError` where too few prompts are left, and
    says why: `gone`, what `keep` counted, helps.
    """
    by_split, out, failed = divide(prompts, seed), {}, 0
    extra = {kind: (domain, divide(texts, seed)) for kind, (domain, texts) in others.items()}
    labels = keep(imagenet_labels(), shortest=1)[0]
    extra["label"] = ("out_of_domain", {split: [t for t in labels if label_split(t) == split] for split in SPLITS})
    for split, count in COUNTS.items():
        rng = random.Random(f"{seed} {split}")
        records = in_domain(split, [(text, None, None) for text in by_split[split][:count]], rng)
        if writer:
            records, lost = reword(records, writer)
            failed += lost
        for kind, (domain, texts) in extra.items() if split in OTHERS else ():
            some = texts[split] if len(texts[split]) <= OTHERS[split] else rng.sample(texts[split], OTHERS[split])
            records += [record(f"{split}-{kind}-{i}", split, domain, kind, x, None) for i, x in enumerate(some)]
        out[split] = distinct(records) if split != "sft" else records
    contents = [split_prompt(text)[0] for text in by_split["calibration"]]
    out["calibration"] = distinct([record(f"calibration-{i}", "calibration", "in_domain", "MC", x, None) for i, x in enumerate(contents)])[
        :PLAIN
    ]
    out = separate(out)
    empty = [split for split, records in out.items() if not any(r["set"] == "in_domain" for r in records)]
    if empty:
        raise PromptlabError(
            f"{len(prompts)} prompts passed the filters, and none is left for {', '.join(empty)}. {reasons(prompts, gone or {})}"
        )
    return out, failed


def reasons(prompts, gone) -> str:
    """Why too few prompts are left, as sentences, and what to do: by filter, by content that repeats, by nothing to imitate."""
    parts = [split_prompt(p) for p in prompts]
    said = [f"Filtered out: {', '.join(f'{n} by {why} ({FILTERS[why]})' for why, n in gone.items())}."] if gone else []
    (content, often), *_ = Counter(normalised(c) for c, _ in parts).most_common(1) or [("", 0)]
    if often > PER_CONTENT:
        said.append(
            f"{often} have the content {content[:60]!r}, which counts {PER_CONTENT} times: content comes first, or after praise and style."
        )
    bare = sum(not words for _, words in parts)
    if bare > len(parts) / 2:
        said.append(
            f"{bare} say no more than what is in the picture (no commas), so nothing is there to imitate; as captions (`--captions`) they serve to test on."
        )
    return " ".join([*said, "Give more, or correct those."])


def fetch(
    prompts=PROMPTS, typed=TYPED, captions=CAPTIONS, parti=PARTI, writer=None, limit=50_000, seed=0, column=None
) -> tuple[dict, dict]:
    """Read, filter and divide collections: hub ids, folders or files, or None to leave one out (not `prompts`); `column` as in `read`.

    Returns what `load.write` takes: the splits, and a manifest that names collections, licences, filters and counts.
    """
    texts, manifest = {}, {"command": "python -m promptlab prompts", "collections": {}, "seed": seed}
    for kind, name in {"prompts": prompts, "DiffusionDB": typed, "caption": captions, "parti": parti}.items():
        if name is None:
            continue
        raw = read(name, column=None if name in COLLECTIONS else column, limit=limit, seed=seed)
        texts[kind], gone = keep(raw, shortest=3 if kind == "caption" else 2)
        if kind == "prompts":
            dropped = gone
        manifest["collections"][str(name)] = {
            "kind": kind, "read": len(raw), "kept": len(texts[kind]), "filtered out": dict(gone), **asdict(COLLECTIONS[name] if name in COLLECTIONS else Collection(str(name), "", "", "yours to know", 0)),
        }  # fmt: skip
    sets = {"DiffusionDB": "diffusiondb", "caption": "out_of_domain", "parti": "out_of_domain"}
    splits, failed = build(texts.pop("prompts"), {kind: (sets[kind], some) for kind, some in texts.items()}, writer, seed, dropped)
    return splits, manifest | {"rephrased by": "a language model" if writer else "rules", "targets it could not rephrase": failed}
