"""A run that arrives from another machine: unpacked beside the run folder first, then moved to its place.

What arrives meets what is here: the longer or newer of the two stays, and nothing is deleted.
"""

import filecmp
import os
import shutil
import struct
import time
import zipfile
from collections import defaultdict
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath

from promptlab.config import preset
from promptlab.course.keeping import ARCHIVE, is_small, restore_embeddings
from promptlab.runtime import PromptlabError, first_line, home

ARCHIVES = (ARCHIVE, "cache/pictures.sqlite")  # the second where somebody packed a whole run folder by hand
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # what macOS, Windows and Drive put beside other people's files
MOST_FILES, MOST_TIMES, SMALL = 10_000, 100, 10e6  # weights are packed as they are and JSON shrinks tenfold: more is no run of ours


def is_litter(name: str) -> bool:
    """Whether an operating system made this file, and no lesson."""
    return any(part in LITTER or part.startswith("._") for part in PurePosixPath(name).parts)


def units(names) -> dict[str, list[str]]:
    """Names by what they belong to: files of one policy or one unfinished training are good together only, all others are alone."""
    found = defaultdict(list)
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        ends = [i for i, folder in enumerate(folders, 1) if folder == "policy" or folder.startswith("run-")]
        found["/".join(folders[: ends[0]]) if ends else name].append(name)
    # A training that is over leaves its metrics only: they are a file like any other, and no reason to move a checkpoint.
    alone = {name: [name] for members in found.values() if all(map(is_small, members)) for name in members}
    return {unit: members for unit, members in found.items() if not all(map(is_small, members))} | alone


def standing(files) -> tuple:
    """How far some files got, to be compared: with weights, rows of JSONL, time of the newest."""
    rows = sum(f.read_bytes().count(b"\n") for f in files if f.suffix == ".jsonl")
    return any(f.suffix in (".safetensors", ".ckpt") for f in files), rows, max(f.stat().st_mtime_ns for f in files)


def files_at(place: Path) -> list[Path]:
    """The file at a place, or all files in the folder there."""
    return [place] if place.is_file() else [f for f in sorted(place.rglob("*")) if f.is_file()]


def is_same(unit: str, files: dict, root: Path) -> bool:
    """Whether all that arrives of a unit is below `root` already, and no other checkpoint is."""
    filecmp.clear_cache()  # it takes files of equal time and size for known ones
    here = {f.relative_to(root).as_posix() for f in files_at(root / unit)}
    return here == files.keys() and all(filecmp.cmp(path, root / name, shallow=False) for name, path in files.items())


def outdone(files: dict, root: Path) -> set[str]:
    """Of some files, by name, those that differ from what lies below `root` and are no longer and no newer than it."""
    out = set()
    for unit, names in units(files).items():
        mine, there = {n: files[n] for n in names}, files_at(root / unit)
        if there and not is_same(unit, mine, root) and standing(there) >= standing(mine.values()):
            out |= set(names)
    return out


def bring(folder: Path, source):
    """Move a run that was unpacked or copied into `folder` to its place, and say what came, what stayed and what was put aside.

    Where both have a file, or a policy, or an unfinished training, the longer stays, then the newer; what was here and gives way is
    moved beside the run folder. Raises `PromptlabError` for a damaged archive of embeddings, before anything is moved.
    """
    root = home() / preset().name
    files = {f.relative_to(folder).as_posix(): f for f in files_at(folder)}
    for name in ARCHIVES:
        if name in files:
            restore_embeddings(files[name], source)
    come = {name: f for name, f in files.items() if name != ARCHIVE and not name.startswith("cache/")}
    old, aside = outdone(come, root), next(p for i in count(1) if not (p := root.with_name(f"{root.name}-before-{i}")).exists())
    kept, gave_way = [], []
    for unit, names in units(come).items():
        place = root / unit
        if old.issuperset(names):
            kept.append(unit)
        elif not is_same(unit, {n: come[n] for n in names}, root):
            try:
                if place.exists():
                    (aside / unit).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(place, aside / unit)
                    gave_way.append(unit)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(folder / unit, place)
            except OSError as error:
                raise PromptlabError(f"{place} cannot be put in place ({error}). Move what is in its way, and load again.") from error
    print(f"Your earlier run is here now: {len(files)} files from {source}.")
    if kept:
        print(
            f"Kept as it was here, being newer or longer: {', '.join(kept)}. To have the older one, move that away from {root} and load again."
        )
    if gave_way:
        print(f"Replaced, as what came is newer or longer: {', '.join(gave_way)}. What was here lies in {aside}.")


@contextmanager
def staging():
    """A folder on the disk of the run folder, made when first written to, for what is not yet known to be whole; gone afterwards."""
    folder = home() / f".loading-{preset().name}"
    shutil.rmtree(folder, ignore_errors=True)  # of a load that was killed
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_room(source, size: float):
    """Raise `PromptlabError` unless `size` bytes fit on the disk of the run folder."""
    there = next(p for p in (home(), *home().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise PromptlabError(
            f"{source} holds {size / 1e6:,.0f} MB, and {there} has {free / 1e6:,.0f} MB free. Free some space, or let PROMPTLAB_HOME name another folder."
        )


# --- a zip file -----------------------------------------------------------------------------------------------------

# The fields in which zip programs note when a file was written, as a zip's own dates have no time zone: in 100 ns since 1601, in s since 1970.
NTFS, UNIX, YEARS_BETWEEN = 0x000A, 0x5455, 116_444_736_000_000_000


def pack(files: dict, path: Path):
    """Write files, by name, into a zip file that keeps the time each was written."""
    with zipfile.ZipFile(path, "w") as book:
        for name, file in files.items():
            entry = zipfile.ZipInfo.from_file(file, f"{preset().name}/{name}", strict_timestamps=False)
            entry.compress_type = zipfile.ZIP_DEFLATED if is_small(name) else zipfile.ZIP_STORED  # weights do not get smaller
            at = file.stat().st_mtime_ns // 100 + YEARS_BETWEEN
            entry.extra = struct.pack("<HHIHHQQQ", NTFS, 32, 0, 1, 24, at, at, at)
            with open(file, "rb") as read, book.open(entry, "w") as write:
                shutil.copyfileobj(read, write, 2**20)


def written(entry) -> int:
    """When a packed file was written, in nanoseconds since 1970."""
    fields, extra = {}, entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        fields[kind], extra = extra[4 : 4 + size], extra[4 + size :]
    ntfs, unix = fields.get(NTFS, b""), fields.get(UNIX, b"")
    if len(ntfs) >= 16 and ntfs[4:6] == b"\1\0":
        return (struct.unpack("<Q", ntfs[8:16])[0] - YEARS_BETWEEN) * 100
    if len(unix) >= 5 and unix[0] & 1:
        return struct.unpack("<i", unix[1:5])[0] * 10**9
    return int(time.mktime((*entry.date_time, 0, 0, -1))) * 10**9


def unpack(path: Path, folder: Path):
    """Unpack a run's zip file into a folder, its names below the preset's; litter is left out. Raises `PromptlabError` as `colab.load_zip` does."""
    again = "Upload it again (folder icon on the left), pack it again without a password, or name another file."
    name = path.name
    try:
        with zipfile.ZipFile(path) as book:
            entries = {e.filename.replace("\\", "/"): e for e in book.infolist()}
            entries = {name: e for name, e in entries.items() if not is_litter(name)}
            strange = [n for n in entries if not n.startswith(f"{preset().name}/") or ".." in PurePosixPath(n).parts or ":" in n]
            entries = {name: e for name, e in entries.items() if not name.endswith("/")}  # files; folders are made for them
            if strange or not entries:
                raise PromptlabError(
                    f"{path} holds {strange[0] if strange else 'nothing'!r}, so it is no run of the preset {preset().name}. "
                    "PROMPTLAB_PRESET chooses another."
                )
            size, packed = sum(e.file_size for e in entries.values()), path.stat().st_size
            if len(entries) > MOST_FILES or size > SMALL + MOST_TIMES * packed:
                raise PromptlabError(
                    f"{path} of {packed / 1e6:,.1f} MB would unpack to {len(entries):,} files of {size / 1e6:,.0f} MB: no run is packed so tightly, "
                    "and nothing was unpacked. Name a file that colab.save_zip() made."
                )
            check_room(path, size)
            for name, entry in entries.items():
                place = folder.joinpath(*PurePosixPath(name).parts[1:])
                place.parent.mkdir(parents=True, exist_ok=True)
                with book.open(entry) as read, open(place, "xb") as write:
                    shutil.copyfileobj(read, write, 2**20)
                os.utime(place, ns=(written(entry),) * 2)
    except PromptlabError:
        raise
    except OSError as error:  # no such file, or no room after all
        raise PromptlabError(f"{path} cannot be read ({error}). {again}") from error
    except Exception as error:  # a damaged file fails in zlib, struct, lzma, a codec ... each with its own kind
        raise PromptlabError(
            f"{path} cannot be read: {name} is damaged or locked ({type(error).__name__}: {first_line(error)}). {again}"
        ) from error
