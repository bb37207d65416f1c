"""Folders, presets, hardware, and files that are written and read safely."""

import dataclasses
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from promptlab import config, runtime
from promptlab.runtime import PromptlabError

ROOT = Path(__file__).resolve().parents[1]


def test_home_is_the_checkouts_even_from_a_notebooks_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("PROMPTLAB_HOME", raising=False)
    monkeypatch.chdir(ROOT)
    assert runtime.home() == ROOT / "runs"
    monkeypatch.chdir(ROOT / "notebooks")
    assert runtime.home() == ROOT / "runs"
    monkeypatch.chdir(tmp_path)
    assert runtime.home() == tmp_path.resolve() / "runs"
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "drive"))
    assert runtime.home() == tmp_path.resolve() / "drive"


@pytest.mark.parametrize("typed", ["~/my runs", "$HOME/my runs", "${HOME}/my runs", '"~/my runs"', "'~/my runs'", " ~/my runs\r"])
def test_home_is_what_was_meant_where_no_shell_read_it(monkeypatch, tmp_path, typed):
    """Jupyter's %env hands a value over as typed; a folder called `~` invites `rm -r ~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PROMPTLAB_HOME", typed)
    assert runtime.home() == tmp_path.resolve() / "my runs"


@pytest.mark.parametrize("place", ["file", "file/runs", "file/runs/deep"])
def test_a_file_in_the_way_of_the_run_folder_is_named(monkeypatch, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / place))
    with pytest.raises(PromptlabError, match=r"file is a file. Let PROMPTLAB_HOME name another folder"):
        runtime.home()


def test_somebody_unknown_has_no_home(monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HOME", "~nobody-of-that-name/runs")
    with pytest.raises(PromptlabError, match="'~nobody-of-that-name/runs', which names no folder"):
        runtime.home()


def test_data_is_the_checkouts_else_the_packages(monkeypatch, tmp_path):
    assert runtime.data_dir() == ROOT / "data"
    monkeypatch.setattr(runtime, "PACKAGE", tmp_path / "promptlab")
    assert runtime.data_dir() == tmp_path / "promptlab" / "_data"


def test_preset_by_name_by_environment_and_by_default(monkeypatch):
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    assert config.preset() is config.preset("pocket") is config.POCKET
    monkeypatch.setenv("PROMPTLAB_PRESET", "")
    assert config.preset() is config.POCKET
    monkeypatch.setenv("PROMPTLAB_PRESET", "pokcet")
    with pytest.raises(PromptlabError, match="'pokcet'.*pocket"):
        config.preset()
    assert config.preset("pocket") is config.POCKET, "an argument wins over the environment"


def test_presets_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.POCKET.steps = 1
    assert dataclasses.replace(config.POCKET, steps=1).steps == 1


@pytest.mark.parametrize("native, dtype", [(False, torch.float16), (True, torch.bfloat16)])
def test_gpu_number_format_goes_by_capability(monkeypatch, native, dtype):
    """A T4 emulates bfloat16, and says that it supports it unless asked without emulation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: type("P", (), {"total_memory": 16 * 2**30}))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    found = runtime.hardware()
    assert (found.device.type, found.dtype) == ("cuda", dtype)
    assert "a GPU (16 GB)" in str(found) and "\n" not in str(found)


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_gpus_of_other_makers_draw_in_float32(monkeypatch, kind):
    """By a device that only says it is there; missing operations run on the CPU, which PyTorch must be told before it is imported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: kind == "xpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    found = runtime.hardware()
    assert (found.device.type, found.dtype) == (kind, torch.float32) and f"({kind}) in float32" in str(found)
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
    emptied = []
    monkeypatch.setattr(getattr(torch, kind), "empty_cache", lambda: emptied.append(kind))
    runtime.free_memory()
    assert emptied == [kind]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.device().type == "cuda", "first where there are two"


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_without_a_gpu_the_cpu_says_which_numbers_it_likes(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    found = runtime.hardware()
    assert (found.device.type, found.dtype) == ("cpu", dtype) and str(found).startswith("CPU with ")


def test_free_memory_drops_models_that_refer_to_themselves():
    gc.disable()
    try:
        model = torch.nn.Linear(2, 2)
        model.myself = [model]
        alive = weakref.ref(model)
        del model
        assert alive() is not None
        runtime.free_memory()
        assert alive() is None
    finally:
        gc.enable()


def test_free_memory_drops_what_a_failed_cell_left_in_its_traceback():
    def cell():
        model = torch.nn.Linear(2, 2)
        seen.append(weakref.ref(model))
        raise ValueError("as when memory runs out")

    seen = []
    try:
        cell()
    except ValueError as error:  # what the interpreter keeps of an error that nobody caught
        for name, value in (("last_exc", error), ("last_value", error), ("last_type", ValueError), ("last_traceback", error.__traceback__)):
            setattr(runtime.sys, name, value)
    assert seen[0]() is not None
    runtime.free_memory()
    assert seen[0]() is None


def test_free_memory_drops_what_ipython_keeps():
    """A cell's output in Out, and a failed cell's variables in the formatter of tracebacks."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.user_ns["refs"] = refs = []
        shell.run_cell("import torch, weakref\nmodel = torch.nn.Linear(2, 2); refs.append(weakref.ref(model)); model", store_history=True)
        shell.run_cell("def f():\n    big = torch.nn.Linear(2, 2); refs.append(weakref.ref(big)); 1 / 0\nf()", store_history=True)
        shell.run_cell("del model")
        assert [r() is not None for r in refs] == [True, True]
        runtime.free_memory()
        assert [r() is not None for r in refs] == [False, False]
    finally:
        InteractiveShell.clear_instance()


def test_too_little_gpu_memory_ends_in_one_sentence_with_advice():
    with (
        pytest.raises(PromptlabError, match=r"too little memory \(CUDA out of memory\)\. Take less\.$") as error,
        runtime.enough_memory("Take less."),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate 20 GiB")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError), runtime.enough_memory("Take less."):
        raise ValueError("another error stays what it is")


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    runtime.write_atomically(path, "grün")
    assert path.read_text(encoding="utf-8") == "grün"
    runtime.write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00" and os.listdir(path.parent) == ["b.txt"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PromptlabError, match=r"a\.txt.*No space left"):
        runtime.write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_write_where_no_folder_can_be_says_so(tmp_path):
    (tmp_path / "file").write_text("mine"), (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "file" / "deep" / "a.txt", tmp_path / "folder"):
        with pytest.raises(PromptlabError, match=f"Could not write {path}"):
            runtime.write_atomically(path, "new")
    assert (tmp_path / "file").read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_disk_that_can_neither_be_written_nor_cleaned_says_the_first(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only), monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(PromptlabError, match="Read-only file system"):
        runtime.write_atomically(tmp_path / "a.txt", "new")


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_killed_processes_left_half_written_goes_with_the_next_write(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True).stdout.strip()
    kept = ["a.txt", f"a.txt.{os.getppid()}.partial", f"b.txt.{gone}.partial", "a.txt.mine.partial", "a.txt.partial"]
    for name in [*kept, f"a.txt.{gone}.partial"]:
        (tmp_path / name).write_text("half")
    (tmp_path / f"a.txt.{gone}9999999.partial").mkdir()
    runtime.write_atomically(tmp_path / "a.txt", "new")
    assert sorted(os.listdir(tmp_path)) == sorted(kept), "neither what a living process writes, nor files of others"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_of_a_damaged_log_the_whole_rows_are_read_and_the_others_counted(tmp_path):
    log = tmp_path / "log.jsonl"
    assert runtime.whole_rows(log) == ([], 0) == runtime.whole_rows(tmp_path)
    log.write_bytes(b'{"a": "gr\xc3\xbcn"}\n\n{"a": \xff}\n[1]\n"x"\n\0\0\n' + b"[" * 100_000 + b'\n{"a": NaN}\n{"a": "\xe2\x80\xa8"}\n{"a": 1')
    rows, broken = runtime.whole_rows(log)
    assert rows[0] == {"a": "grün"} and rows[2] == {"a": "\u2028"} and (len(rows), broken) == (3, 6)
