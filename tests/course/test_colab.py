"""Colab: libraries, the hub token, and a run carried from one machine to the next by Drive or a zip file."""

import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import fake_colab
import pytest

from promptlab import __main__ as cli
from promptlab import runtime
from promptlab.course import colab, keeping
from promptlab.runtime import PromptlabError

SECRET = "hf_thisMustNeverBePrinted"


@pytest.fixture
def on_colab(tmp_path, monkeypatch):
    """A machine of Colab's with an empty run folder; `google.colab` is gone again afterwards."""
    monkeypatch.syspath_prepend(str(fake_colab.install(tmp_path / "fake")))
    monkeypatch.setattr(colab, "MOUNT", tmp_path / "content" / "drive")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "machine1"))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in [n for n in sys.modules if n == "google" or n.startswith("google.colab")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    importlib.import_module("google.colab")
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("google.colab")]:
        del sys.modules[name]
    os.environ.pop("HF_TOKEN", None)


def another_machine(monkeypatch, tmp_path, name="machine2"):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / name))
    return tmp_path / name / "pocket"


def put(path, content=b"x", age=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, (1_800_000_000 - age, 1_800_000_000 - age))
    return path


def make_run(root):
    """What the lessons leave in a run folder."""
    put(root / "sft/run-1/checkpoint-5/model.safetensors", b"old", 900), put(root / "sft/run-1/checkpoint-5/trainer_state.json", b"{}", 900)
    put(root / "sft/run-1/metrics.jsonl", b'{"loss": 1}\n', 800)
    put(root / "sft/policy/model.safetensors", b"sft policy" * 100, 700), put(root / "sft/policy/config.json", b"{}", 700)
    put(root / "ppo/policy/model.safetensors", b"older ppo", 600), put(root / "ppo/policy/config.json", b"{}", 600)
    put(root / "ppo/run-2/ppo.ckpt", b"ppo state" * 100, 500), put(root / "ppo/run-2/metrics.jsonl", b'{"reward": 1}\n', 500)
    put(root / "ppo/guesses.json", b"[1]", 400), put(root / "evaluation/ranking.jsonl", b'{"best": 3}\n', 300)
    put(root / "run/table.json", b"[]"), put(root / "run/pictures/a.png"), put(root / "prompts/sft.jsonl", b'{"x": "a fox"}\n')
    (root / "cache").mkdir()
    with sqlite3.connect(root / "cache/pictures.sqlite") as db:
        db.execute(keeping.TABLE)
        db.executemany("insert into pictures values (?, ?, ?, ?)", [(f"k{i}", bytes(4), "{}", bytes(10_000)) for i in range(50)])
    db.close()
    return root


KEPT = {
    "sft/run-1/metrics.jsonl", "sft/policy/model.safetensors", "sft/policy/config.json", "ppo/run-2/ppo.ckpt", "ppo/run-2/metrics.jsonl",
    "ppo/guesses.json", "evaluation/ranking.jsonl", "prompts/sft.jsonl",
}  # fmt: skip


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(root):
    with sqlite3.connect(root / "cache/pictures.sqlite") as db:
        out = db.execute("select * from pictures order by key").fetchall()
    db.close()
    return out


def test_elsewhere_setup_does_nothing(monkeypatch, capsys):
    monkeypatch.setattr(colab, "install_missing", lambda: pytest.fail("nothing is installed outside Colab"))
    colab.setup()
    assert capsys.readouterr().out == "" and not colab.on_colab()


def test_a_machine_without_a_run_says_where_it_may_be(on_colab, capsys, monkeypatch):
    colab.setup()
    out = capsys.readouterr().out
    assert (
        "your earlier run is on another machine" in out
        and "load_drive()" in out
        and "load_zip()" in out
        and "weights that came along" in out
    )
    make_run(on_colab / "machine1" / "pocket")
    colab.setup()
    assert "another machine" not in capsys.readouterr().out


def test_kept_are_json_files_and_one_checkpoint_of_each_stage(on_colab):
    root = make_run(on_colab / "machine1" / "pocket")
    assert {p.as_posix() for p in keeping.worth_keeping()} == KEPT, "SFT is finished; PPO has gone on after its policy was saved"
    put(root / "ppo/policy/model.safetensors", b"newer ppo", 100)
    assert keeping.checkpoints() == [root / "sft/policy", root / "ppo/policy"]
    shutil.rmtree(root / "sft/policy")
    assert {p.as_posix() for p in keeping.worth_keeping()} >= {
        f"sft/run-1/checkpoint-5/{n}" for n in ("model.safetensors", "trainer_state.json")
    }


def test_a_run_goes_to_drive_and_comes_back_on_another_machine(on_colab, monkeypatch, capsys):
    first = make_run(on_colab / "machine1" / "pocket")
    place = colab.save_drive()
    out = capsys.readouterr().out
    assert out.index("MB to save: embeddings 0.0 MB, checkpoints 0.0 MB, JSON 0.0 MB") < out.index(f"Saved to {place}.")
    assert place == on_colab / "content/drive/MyDrive/promptlab/pocket"
    assert set(files(place)) == KEPT | {keeping.ARCHIVE}
    assert (place / keeping.ARCHIVE).stat().st_size < (first / "cache/pictures.sqlite").stat().st_size / 10, "no small pictures"
    second = another_machine(monkeypatch, on_colab)
    colab.load_drive()
    got = files(second)
    assert {n: got[n] for n in KEPT} == {n: files(first)[n] for n in KEPT} and set(got) == KEPT | {"cache/pictures.sqlite"}
    assert rows(second) == [(k, e, f, None) for k, e, f, _ in rows(first)]
    assert keeping.checkpoints() == [second / "sft/policy", second / "ppo/run-2/ppo.ckpt"], "the later of each stage, as before"


def test_what_is_known_here_stays_when_an_archive_arrives(on_colab, monkeypatch):
    first = make_run(on_colab / "machine1" / "pocket")
    colab.save_drive()
    colab.load_drive()
    assert all(picture for *_, picture in rows(first))


def test_an_old_checkpoint_leaves_drive_emptied_and_after_the_new_one_came(on_colab, monkeypatch):
    root = make_run(on_colab / "machine1" / "pocket")
    place = colab.save_drive()
    events = []
    plain_copy, plain_truncate, plain_unlink = shutil.copy2, os.truncate, Path.unlink
    monkeypatch.setattr(shutil, "copy2", lambda a, b: (events.append(("written", Path(b).name)), plain_copy(a, b))[1])
    monkeypatch.setattr(os, "truncate", lambda p, n: (events.append(("emptied", Path(p).name, n)), plain_truncate(p, n))[1])
    monkeypatch.setattr(Path, "unlink", lambda p, **k: (events.append(("deleted", p.name, p.stat().st_size)), plain_unlink(p, **k))[1])
    put(root / "ppo/policy/model.safetensors", b"newer ppo", 100)
    colab.save_drive()
    mine = [e for e in events if e[1].startswith(("ppo.ckpt", "model"))]
    assert mine == [("written", "model.safetensors.partial"), ("emptied", "ppo.ckpt", 0), ("deleted", "ppo.ckpt", 0)], (
        "SFT's is there already"
    )
    assert set(files(place)) == KEPT - {"ppo/run-2/ppo.ckpt"} | {"ppo/policy/model.safetensors", "ppo/policy/config.json", keeping.ARCHIVE}
    put(root / "ppo/policy/model.safetensors", b"newest ppo", 50)
    events.clear()
    colab.save_drive()
    mine = [e for e in events if e[1].startswith("model")]
    assert mine == [("written", "model.safetensors.partial"), ("emptied", "model.safetensors", 0), ("deleted", "model.safetensors", 0)]
    assert files(place)["ppo/policy/model.safetensors"] == b"newest ppo"


def test_a_save_that_was_killed_between_old_and_new_is_read(on_colab, monkeypatch):
    make_run(on_colab / "machine1" / "pocket")
    place = colab.save_drive()
    (place / "ppo/run-2/ppo.ckpt").rename(place / "ppo/run-2/ppo.ckpt.partial")
    put(place / "sft/policy/model.safetensors.partial", b"half of one")
    second = another_machine(monkeypatch, on_colab)
    colab.load_drive()
    assert (
        files(second)["ppo/run-2/ppo.ckpt"] == b"ppo state" * 100 and files(second)["sft/policy/model.safetensors"] == b"sft policy" * 100
    )


def test_a_run_travels_as_a_zip_file(on_colab, monkeypatch, capsys):
    first = make_run(on_colab / "machine1" / "pocket")
    path = colab.save_zip()
    assert path == on_colab / "promptlab-pocket.zip" and "MB to save" in capsys.readouterr().out
    assert sys.modules["google.colab.files"].downloaded == [str(path)]
    second = another_machine(monkeypatch, on_colab)
    colab.load_zip()
    got = files(second)
    assert {n: got[n] for n in KEPT} == {n: files(first)[n] for n in KEPT} and len(rows(second)) == 50
    assert not list(on_colab.glob("*.partial")) and not (second / keeping.ARCHIVE).exists()


def test_nothing_to_save_and_nothing_to_load_are_said(on_colab):
    for save in (colab.save_drive, colab.save_zip):
        with pytest.raises(PromptlabError, match="nothing to save in .*machine1/pocket yet"):
            save()
    put(on_colab / "content/drive/MyDrive/promptlab/colab/a.jsonl")
    with pytest.raises(PromptlabError, match="holds no run. Saved on this Drive: colab"):
        colab.load_drive()
    with pytest.raises(PromptlabError, match="promptlab-pocket.zip cannot be read .*Upload it again"):
        colab.load_zip()


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as book:
        for name, text in entries.items():
            book.writestr(name, text)
    return path


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"pocket/../../evil.json": "x"}, "holds 'pocket/../../evil.json', so it is no run"), ({"/etc/evil": "x"}, "holds '/etc/evil'"),
        ({"colab/a.jsonl": "x"}, "no run of the preset pocket. PROMPTLAB_PRESET chooses another"), ({}, "holds 'nothing'"),
    ],
)  # fmt: skip
def test_a_zip_file_of_something_else_is_refused(tmp_path, monkeypatch, entries, message):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "runs"))
    with pytest.raises(PromptlabError) as error:
        colab.load_zip(zipped(tmp_path / "a.zip", entries))
    assert message in str(error.value) and not (tmp_path / "runs").exists() and not (tmp_path / "evil.json").exists()


def test_a_damaged_zip_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "runs"))
    path = zipped(tmp_path / "a.zip", {"pocket/a.jsonl": "x" * 1000})
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(PromptlabError, match="a.jsonl is damaged"):
        colab.load_zip(path)
    zipped(path, {f"pocket/{keeping.ARCHIVE}": "no database"})
    with pytest.raises(PromptlabError, match="cannot be read as an archive of embeddings"):
        colab.load_zip(path)


def test_drive_is_colabs(tmp_path, monkeypatch, on_colab):
    monkeypatch.setattr(colab, "MOUNT", tmp_path / "declined")
    with pytest.raises(PromptlabError, match="was not mounted .*save_zip"):
        colab.mount_drive()
    monkeypatch.setattr(colab, "on_colab", lambda: False)
    with pytest.raises(PromptlabError, match="only be mounted in a Colab notebook"):
        colab.mount_drive()


def test_caches_stay_on_local_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", "/content/drive/MyDrive/course")
    assert runtime.local_home() == Path("/content/runs")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    assert runtime.local_home() == runtime.home()


# --- the token ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["environment", "secret", "file", "nowhere"])
def test_the_token_is_found_and_never_printed(on_colab, monkeypatch, capsys, where):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(on_colab / "token"))
    if where == "environment":
        monkeypatch.setenv("HF_TOKEN", SECRET)
    elif where == "secret":
        importlib.import_module("google.colab.userdata").SECRETS["HF_TOKEN"] = SECRET
    elif where == "file":
        (on_colab / "token").write_text(SECRET)
    colab.setup()
    cli.check("hub token", colab.find_token)
    printed = "".join(capsys.readouterr())
    expected = {
        "environment": "found in HF_TOKEN",
        "secret": "found in Colab's secrets",
        "file": f"found in {on_colab / 'token'}",
        "nowhere": "Hub token: none",
    }
    assert expected[where] in printed and SECRET not in printed
    assert os.environ.get("HF_TOKEN") == (SECRET if where in ("environment", "secret") else None), "libraries look there"


# --- libraries ------------------------------------------------------------------------------------------------------


class Pip:
    """Stands where a process would be started: keeps the command and the constraints, and installs nothing."""

    def __init__(self, code=0):
        self.code, self.commands = code, []

    def __call__(self, command, **_):
        self.commands.append(command)
        self.constraints = Path(command[command.index("-c") + 1]).read_text()
        return subprocess.CompletedProcess(command, self.code, "", "many lines\nERROR: no matching distribution")


class Package:
    def __init__(self, name, version):
        self.metadata, self.version = {"Name": name}, version


@pytest.fixture
def pip(monkeypatch):
    """`pip(wanted, before, after)`: what our package asks for, what is installed, and what is once pip ran."""

    def set_up(wanted, before, after=None, code=0):
        process, installed = Pip(code), iter([before, after or before])
        monkeypatch.setattr(colab.subprocess, "run", process)
        monkeypatch.setattr(colab.metadata, "requires", lambda _: wanted)
        monkeypatch.setattr(colab.metadata, "distributions", lambda: [Package(*p) for p in next(installed).items()])
        monkeypatch.setattr(colab.metadata, "packages_distributions", dict)
        monkeypatch.setattr(colab, "restart", lambda: process.commands.append("restart"))
        return process

    return set_up


WANTED = [
    "torch<3,>=2.9",
    "numpy<3,>=1.26",
    "jupyterlab<5,>=4",
    "trl<2,>=1",
    "open_clip_torch<4,>=3",
    'pytest>=8; extra == "dev"',
    "tqdm<5,>=4",
]


def test_what_is_missing_is_installed_and_pytorch_stays(pip, capsys):
    process = pip(WANTED, {"torch": "2.9.0+cu126", "numpy": "2.0.2", "trl": "0.9", "tqdm": "4.67"})
    colab.install_missing()
    ((*command, one, two),) = process.commands
    assert command[:5] == [sys.executable, "-m", "pip", "install", "-q"] and (one, two) == ("trl<2,>=1", "open_clip_torch<4,>=3")
    assert process.constraints == "torch==2.9.0+cu126\nnumpy==2.0.2\n", "no jupyterlab, as Colab has none"
    assert "Installing trl" in capsys.readouterr().out


def test_an_old_pytorch_stays_too_and_is_mentioned(pip, capsys):
    process = pip(WANTED[:2], {"torch": "2.8.0", "numpy": "2.0.2"})
    colab.install_missing()
    assert process.commands == [] and "Colab has torch 2.8.0; promptlab was tested with" in capsys.readouterr().out


@pytest.mark.parametrize("name, loaded", [("pytest", True), ("a-package-nobody-loaded", False)])
def test_it_restarts_only_where_a_loaded_library_was_replaced_and_says_so(pip, capsys, name, loaded, monkeypatch):
    process = pip([f"{name}>=99"], {name: "8"}, {name: "99"})
    monkeypatch.setattr(
        colab.metadata, "packages_distributions", lambda: {"pytest": ["pytest"], "never_imported": ["a-package-nobody-loaded"]}
    )
    colab.install_missing()
    assert ("restart" in process.commands) == loaded
    assert (
        "The session restarts now, as pytest was loaded in another version. Then run this cell again." in capsys.readouterr().out
    ) == loaded


def test_a_pip_that_fails_is_named(pip):
    pip(["trl>=99"], {"trl": "1"}, code=1)
    with pytest.raises(PromptlabError, match=r"could not install trl>=99 \(ERROR: no matching distribution\). Choose Runtime"):
        colab.install_missing()


def test_restarting_kills_this_process_after_its_words(tmp_path):
    code = "from promptlab.course import colab; colab.restart_if_replaced({'packaging'}); print('still here')"
    done = subprocess.run([sys.executable, "-c", "import packaging\n" + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -9 and "session restarts now, as packaging" in done.stdout and "still here" not in done.stdout
