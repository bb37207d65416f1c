"""Folders, presets, hardware, and files that are written and read safely."""

import dataclasses
import gc
import os
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
