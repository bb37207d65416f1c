"""What of a run another machine needs: JSON and JSONL files, one archive of embeddings, one checkpoint each of SFT and PPO.

Pictures are not kept: they are drawn again when somebody looks at one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from promptlab.config import preset
from promptlab.pictures.gallery import TABLE
from promptlab.runtime import PromptlabError, home, local_home

ARCHIVE = "embeddings.sqlite"


def checkpoints() -> list[Path]:
    """One file or folder each of SFT and PPO, where there is one: the newer of the finished policy and the state of an unfinished training."""
    out = []
    for stage in ("sft", "ppo"):
        folder = home() / preset().name / stage
        found = [p for pattern in ("policy", "run-*/ppo.ckpt", "run-*/checkpoint-*") for p in folder.glob(pattern)]
        written = {p: [f.stat().st_mtime for f in ([p] if p.is_file() else [*p.glob("*.safetensors")])] for p in found}
        out += sorted((p for p in found if written[p]), key=lambda p: max(written[p]))[-1:]
    return out


def is_small(name: str) -> bool:
    """Whether a file is JSON that a lesson wrote, and no part of a checkpoint."""
    *folders, last = Path(name).parts
    return last.endswith((".json", ".jsonl")) and not any(f in ("policy", "run") or f.startswith("checkpoint-") for f in folders)


def worth_keeping() -> list[Path]:
    """The files another machine needs of this preset's run, relative to its folder; the archive of embeddings comes on top."""
    root = home() / preset().name
    weights = [f for p in checkpoints() for f in ([p] if p.is_file() else sorted(p.rglob("*"))) if f.is_file()]
    small = [f for f in sorted(root.rglob("*.json*")) if is_small(f.relative_to(root).as_posix())]
    return [f.relative_to(root) for f in small + weights]


def cache_file() -> Path:
    """Where this machine keeps what is known of every picture."""
    return local_home() / preset().name / "cache" / "pictures.sqlite"


def archive_embeddings(file: Path) -> bool:
    """Write the embeddings and facts of every known picture into one SQLite file, without the small pictures, nine tenths of the cache.

    Returns False where nothing has been drawn yet.
    """
    cache = cache_file()
    if not cache.exists():
        return False
    with closing(sqlite3.connect(file)) as made:
        made.execute(TABLE)
    with closing(sqlite3.connect(cache, timeout=60)) as db, db:
        db.execute("attach ? as archive", (str(file),))
        db.execute("insert into archive.pictures select key, embedding, facts, null from main.pictures")
    return True


def restore_embeddings(file: Path, source):
    """Add the rows of an archive, brought from `source`, to the cache of this machine; what is known here stays."""
    cache = cache_file()
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(cache, timeout=60)) as db, db:
            db.execute(TABLE)
            db.execute("attach ? as archive", (str(file),))
            db.execute("insert or ignore into main.pictures select key, embedding, facts, thumbnail from archive.pictures")
    except sqlite3.Error as error:
        raise PromptlabError(
            f"{file.name} in {source} cannot be read as an archive of embeddings ({error}), so nothing was brought. "
            "Delete it there and load again: pictures are drawn again when needed."
        ) from error


def gather(folder) -> dict[str, Path]:
    """Everything to save, from its name below the preset to where it is now; the archive is written into `folder`. Prints sizes first.

    Raises `PromptlabError` where there is nothing yet.
    """
    root = home() / preset().name
    files = {path.as_posix(): root / path for path in worth_keeping()}
    if archive_embeddings(Path(folder) / ARCHIVE):
        files[ARCHIVE] = Path(folder) / ARCHIVE
    if not files:
        raise PromptlabError(f"There is nothing to save in {root} yet. Run a training cell first.")
    sizes = {"embeddings": 0, "checkpoints": 0, "JSON": 0}
    for name, path in files.items():
        kind = "embeddings" if name == ARCHIVE else "JSON" if is_small(name) else "checkpoints"
        sizes[kind] += path.stat().st_size
    print(
        f"{sum(sizes.values()) / 1e6:.1f} MB to save: " + ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in sizes.items()),
        flush=True,
    )
    return files
