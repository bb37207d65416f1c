"""What arrives from another machine: the longer or newer stays, nothing is lost, and a bad zip file changes nothing."""

import os
import random
import shutil
import struct
import time
import zipfile

import pytest

from promptlab.course import carrying, colab, keeping
from promptlab.runtime import PromptlabError

NOON = 1_800_000_000


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The run folder of a machine without anything in it."""
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "pocket"


@pytest.fixture
def drive(root, tmp_path, monkeypatch):
    """A Drive that is mounted already; the folder of this preset's run on it."""
    monkeypatch.setattr(colab, "mount_drive", lambda: tmp_path / "drive")
    return tmp_path / "drive" / "pocket"


def put(path, text, at=NOON):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))
    return path


def put_all(root, run, at=NOON):
    for name, text in run.items():
        put(root / name, text, at)


def read_all(root):
    return {f.relative_to(root).as_posix(): f.read_text(errors="replace") for f in sorted(root.rglob("*")) if f.is_file()}


def zipped(path, entries, packed=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as book:
        for name, text in entries.items():
            book.writestr(name, text)
    return path


def policy(text, stage="sft"):
    return {f"{stage}/policy/model.safetensors": text, f"{stage}/policy/config.json": f"of {text}"}


def run(rows, text, stage="ppo"):
    return {f"{stage}/run-7/ppo.ckpt": text, f"{stage}/run-7/metrics.jsonl": "{}\n" * rows}


# --- the longer or newer stays --------------------------------------------------------------------------------------

LOG = {f"choices of {n}": {"evaluation/ranking.jsonl": "".join(f'{{"pick": {i}}}\n' for i in range(n))} for n in (1, 3)}
CASES = {  # what is here, its age; what arrives, its age; whether what arrives wins
    "an older policy": (policy("new"), 0, policy("old"), 60, False),
    "a newer policy": (policy("old"), 60, policy("new"), 0, True),
    "one of the same moment": (policy("here"), 0, policy("there"), 0, False),
    "one of a moment earlier": (policy("here"), 0.25, policy("there"), 0.5, False),
    "one of a moment later": (policy("here"), 0.5, policy("there"), 0.25, True),
    "a shorter log": (LOG["choices of 3"], 0, LOG["choices of 1"], 60, False),
    "a longer log": (LOG["choices of 1"], 60, LOG["choices of 3"], 0, True),
    "a shorter log, saved later": (LOG["choices of 3"], 60, LOG["choices of 1"], 0, False),
    "a longer log of long ago": (LOG["choices of 1"], 0, LOG["choices of 3"], 9999, True),
    "an older answer": ({"ppo/guesses.json": "[2]"}, 0, {"ppo/guesses.json": "[1]"}, 60, False),
    "a newer answer": ({"ppo/guesses.json": "[1]"}, 60, {"ppo/guesses.json": "[2]"}, 0, True),
    "a training that got less far, though later": (run(9, "far"), 60, run(2, "begun"), 0, False),
    "a training that got further": (run(2, "begun"), 0, run(9, "far"), 60, True),
    "a checkpoint, where only metrics are": ({"ppo/run-7/metrics.jsonl": "{}\n" * 9}, 0, run(2, "begun"), 60, True),
}


@pytest.mark.parametrize("way", ["zip", "drive"])
@pytest.mark.parametrize("name", CASES)
def test_the_longer_or_newer_stays_and_nothing_is_lost(root, drive, tmp_path, monkeypatch, capsys, name, way):
    here, age, there, their_age, wins = CASES[name]
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "other"))
    put_all(tmp_path / "other" / "pocket", there, NOON - their_age)
    colab.save_zip(tmp_path / "a.zip") if way == "zip" else colab.save_drive()
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "runs"))
    put_all(root, here, NOON - age)
    capsys.readouterr()
    colab.load_zip(tmp_path / "a.zip") if way == "zip" else colab.load_drive()
    said = capsys.readouterr().out
    assert read_all(root) == (there if wins else here)
    aside = tmp_path / "runs" / "pocket-before-1"
    assert read_all(aside) == (here if wins else {})
    assert (f"What was here lies in {aside}" in said) == wins and ("Kept as it was here" in said) != wins
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"pocket"} | ({"pocket-before-1"} if wins else set())


def test_the_time_a_file_was_written_travels_whatever_the_time_zone(root, tmp_path, monkeypatch):
    put_all(root, policy("mine"), NOON - 3600)
    path = colab.save_zip()
    shutil.rmtree(root)
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = "America/Los_Angeles"
        time.tzset()
        colab.load_zip(path)
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()
    assert (root / "sft/policy/model.safetensors").stat().st_mtime == NOON - 3600


@pytest.mark.parametrize("field, at", [
    (b"", 2_000_000_000), (struct.pack("<HHBi", 0x5455, 5, 1, NOON - 60), NOON - 60), (struct.pack("<HHBi", 0x5455, 5, 2, 7), 2_000_000_000),
    (struct.pack("<HHH", 0x7855, 2, 0) + struct.pack("<HHBii", 0x5455, 9, 3, NOON, NOON), NOON), (b"\x55\x54\x01", 2_000_000_000),
], ids=["none", "Info-ZIP", "only the time of reading", "behind another", "cut"])  # fmt: skip
def test_times_of_other_zip_programs_are_read(field, at):
    entry = zipfile.ZipInfo("a", time.localtime(2_000_000_000)[:6])
    entry.extra = field
    assert carrying.written(entry) == at * 10**9


def test_loading_twice_moves_nothing(root, capsys):
    put_all(root, policy("mine") | run(3, "state") | LOG["choices of 3"])
    path = colab.save_zip()
    before = read_all(root)
    colab.load_zip(path)
    said = capsys.readouterr().out
    assert read_all(root) == before and "Kept" not in said and "Replaced" not in said


def test_each_load_puts_aside_in_a_folder_of_its_own(root, tmp_path):
    for i in range(3):
        put_all(root, {"ppo/guesses.json": f"[{i}]"}, NOON - 60)
        entry = zipfile.ZipInfo("pocket/ppo/guesses.json", (2030, 1, 1, 0, 0, 0))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as book:
            book.writestr(entry, "[9]")
        colab.load_zip(tmp_path / "a.zip")
    assert [(tmp_path / f"runs/pocket-before-{i}/ppo/guesses.json").read_text() for i in (1, 2, 3)] == ["[0]", "[1]", "[2]"]


def test_finished_metrics_do_not_move_an_unfinished_checkpoint(root, tmp_path):
    put_all(root, {"sft/run-1/checkpoint-5/model.safetensors": "half way", "sft/run-1/metrics.jsonl": "{}\n"}, NOON - 60)
    colab.load_zip(zipped(tmp_path / "a.zip", {"pocket/sft/run-1/metrics.jsonl": "{}\n" * 5, "pocket/sft/policy/model.safetensors": "end"}))
    assert read_all(root) == {
        "sft/run-1/checkpoint-5/model.safetensors": "half way",
        "sft/run-1/metrics.jsonl": "{}\n" * 5,
        "sft/policy/model.safetensors": "end",
    }


def test_saving_to_drive_leaves_there_what_is_longer_newer_or_of_another_stage(root, drive, capsys):
    there = LOG["choices of 3"] | policy("ppo of last week", "ppo") | policy("newer sft")
    put_all(drive, there, NOON - 60)
    put_all(root, LOG["choices of 1"] | policy("older sft"), NOON - 600)
    colab.save_drive()
    assert read_all(drive) == there
    assert "Left as it was there, being newer or longer: evaluation/ranking.jsonl, sft/policy/config.json" in capsys.readouterr().out
    put_all(root, run(1, "an older training of ppo"), NOON - 600)
    colab.save_drive()
    assert read_all(drive) == there | run(1, "an older training of ppo")


# --- zip files as people have them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("litter", [
    "__MACOSX/._pocket", "__MACOSX/pocket/ppo/._guesses.json", ".DS_Store", "pocket/.DS_Store", "pocket/ppo/.DS_Store", "pocket/ppo/._guesses.json",
    "._pocket", "pocket/Thumbs.db", "pocket/ppo/desktop.ini",
])  # fmt: skip
def test_what_an_operating_system_puts_into_a_zip_is_passed_over(root, tmp_path, litter):
    colab.load_zip(zipped(tmp_path / "a.zip", {litter: b"\0\5\x16\7", "pocket/": "", "pocket/ppo/guesses.json": "[1]"}))
    assert read_all(root) == {"ppo/guesses.json": "[1]"}


def test_backslashes_of_old_windows_programs_part_folders(root, tmp_path):
    colab.load_zip(zipped(tmp_path / "a.zip", {"pocket\\ppo\\guesses.json": "[1]"}))
    assert read_all(root) == {"ppo/guesses.json": "[1]"}


def test_a_run_folder_packed_by_hand_brings_its_pictures_and_leaves_the_open_cache_alone(root, tmp_path):
    import sqlite3

    def cache(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as db:
            db.execute(keeping.TABLE)
            db.executemany("insert into pictures values (?, 'x', '{}', ?)", rows)
        db.close()
        return path

    theirs, mine = cache(tmp_path / "theirs", [("a", "theirs"), ("b", "theirs")]), cache(root / "cache/pictures.sqlite", [("a", "mine")])
    reader = sqlite3.connect(mine)  # as a Gallery in this kernel
    colab.load_zip(zipped(tmp_path / "a.zip", {"pocket/cache/pictures.sqlite": theirs.read_bytes(), "pocket/cache/pictures.sqlite-wal": "x"}))
    assert reader.execute("select key, thumbnail from pictures order by key").fetchall() == [("a", "mine"), ("b", "theirs")]
    assert [f.name for f in (root / "cache").iterdir()] == ["pictures.sqlite"]


# --- zip files that must change nothing -----------------------------------------------------------------------------


def refused(path, root):
    """The sentence with which a zip file is refused, once it is sure that nothing was changed or left."""
    def known():
        return {name: text for name, text in read_all(root.parent).items() if "/cache/" not in name}  # an empty cache may be made

    before = known()
    with pytest.raises(PromptlabError) as error:
        colab.load_zip(path)
    assert str(path) in str(error.value) and known() == before
    assert not [p for p in root.parent.glob(".*")]
    return str(error.value)


def test_a_damaged_zip_file_is_a_sentence_however_it_is_damaged(root, tmp_path):
    """Cut anywhere, bytes changed anywhere, each way of packing: a sentence, or what was packed, and never half of it."""
    rng = random.Random(5)
    put(root / "ppo/guesses.json", "[0]")
    entries = {"pocket/a.jsonl": "".join(rng.choice("ab {}\n") for _ in range(4000)), "pocket/b.json": "[1]" * 500}
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    whole = [zipped(tmp_path / "good.zip", entries, method).read_bytes() for method in methods]
    sentences = 0
    for i in range(160):
        data = bytearray(whole[i % 4])
        if i % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif i % 3 == 1:
            for _ in range(3):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            at = rng.randrange(len(data) - 100)
            data[at : at + 100] = bytes(100)
        (tmp_path / "x.zip").write_bytes(data)
        try:
            colab.load_zip(tmp_path / "x.zip")
        except PromptlabError as error:
            sentences += "x.zip" in str(error)
            assert {"ppo/guesses.json"} == read_all(root).keys(), error
        else:
            shutil.rmtree(root), put(root / "ppo/guesses.json", "[0]")
    assert sentences > 120


def flagged(path, flag=0, method=None):
    """Set a flag, or name another method of packing, in both headers of the first entry."""
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.index(signature) + at
        data[start] |= flag
        if method is not None:
            data[start + 2 : start + 4] = struct.pack("<H", method)
    path.write_bytes(data)
    return path


def test_locked_and_strangely_packed_zip_files_are_sentences(root, tmp_path):
    path = zipped(tmp_path / "a.zip", {"pocket/a.json": "[1]"})
    assert "without a password" in refused(flagged(path, flag=1), root)
    zipped(path, {"pocket/a.json": "[1]"})
    assert "compression method is not supported" in refused(flagged(path, method=9), root)
    (tmp_path / "folder.zip").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.zip", root)


@pytest.mark.parametrize("entries", [
    {"pocket/a.json": b"0" * 80_000_000}, {f"pocket/{i}.json": b" " * 2_000_000 for i in range(40)},
], ids=["one file", "many files"])  # fmt: skip
def test_a_zip_file_that_would_swell_is_refused_before_it_is_unpacked(root, tmp_path, monkeypatch, entries):
    path = zipped(tmp_path / "a.zip", entries)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was unpacked"))
    assert "80 MB: no run is packed so tightly" in refused(path, root)


def test_a_zip_file_of_countless_files_is_refused(root, tmp_path):
    assert "10,001 files" in refused(zipped(tmp_path / "a.zip", {f"pocket/{i}": "" for i in range(10_001)}), root)


def test_what_does_not_fit_on_the_disk_is_refused_first(root, drive, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 2_000_000))
    path = zipped(tmp_path / "a.zip", {"pocket/a.json": os.urandom(3_000_000)})
    assert "holds 3 MB, and" in (said := refused(path, root)) and "2 MB free" in said and "PROMPTLAB_HOME" in said
    put(drive / "a.json", "x" * 3_000_000)
    with pytest.raises(PromptlabError, match="has 2 MB free"):
        colab.load_drive()
    assert not root.exists()


@pytest.mark.parametrize("entries", [
    {"pocket/b.json": "[2]", "pocket/a": "x", "pocket/a/b": "y"}, {"pocket/b.json": "[2]", "pocket/a/b": "y", "pocket/a": "x"},
    {"pocket/b.json": "[2]", f"pocket/{keeping.ARCHIVE}": "no database"}, {"pocket/b.json": "[2]", "pocket/cache/pictures.sqlite": "SQLite format 3\0"},
    {"pocket/b.json": "[2]", "pocket/C:/x": "y"}, {"pocket/b.json": "[2]", "pocket/" + "n" * 300: "y"},
], ids=["file, then folder", "folder, then file", "archive", "cache", "drive letter", "long name"])  # fmt: skip
def test_a_zip_file_that_breaks_off_half_way_leaves_nothing(root, tmp_path, entries):
    put(root / "b.json", "[1]", NOON - 10**9)
    said = refused(zipped(tmp_path / "a.zip", entries), root)
    assert ("cannot be read as an archive of embeddings" in said) == any(n in str(entries) for n in ("no database", "SQLite"))


@pytest.mark.parametrize("entries", [{"pocket/": ""}, {"pocket/": "", "__MACOSX/._pocket": "x", "pocket/.DS_Store": "x"}, {".DS_Store": "x"}])
def test_a_zip_file_without_a_file_of_a_run_is_refused(root, tmp_path, entries):
    assert "holds 'nothing', so it is no run" in refused(zipped(tmp_path / "a.zip", entries), root)


def test_doubled_slashes_stay_in_the_run_folder(root, tmp_path):
    colab.load_zip(zipped(tmp_path / "a.zip", {"pocket//tmp-a.json": "[1]", "pocket/./b.json": "[2]"}))
    assert read_all(root) == {"tmp-a.json": "[1]", "b.json": "[2]"}


def test_what_stands_in_the_way_is_named(root, tmp_path):
    put(root / "ppo", "a file where a folder should be")
    with pytest.raises(PromptlabError, match="ppo/guesses.json cannot be put in place .*Move what is in its way"):
        colab.load_zip(zipped(tmp_path / "a.zip", {"pocket/ppo/guesses.json": "[1]"}))
    assert read_all(root) == {"ppo": "a file where a folder should be"}


def test_a_zip_that_cannot_be_written_leaves_the_earlier_one_and_no_half(root, tmp_path, monkeypatch):
    put_all(root, LOG["choices of 3"])
    path = colab.save_zip()
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(carrying.shutil, "copyfileobj", full)
    with pytest.raises(PromptlabError, match="Could not write .*No space left.* Free some space"):
        colab.save_zip()
    assert path.read_bytes() == before and not list(tmp_path.glob("*.partial"))
