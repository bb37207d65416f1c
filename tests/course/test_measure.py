"""`python -m promptlab measure`, with shapes so small that a CPU has them measured in seconds."""

import dataclasses
import json

import pytest
import torch

from promptlab import __main__ as cli
from promptlab import runtime
from promptlab.config import COLAB, PAPER
from promptlab.course import measure
from promptlab.models import shapes

BLOCKS = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
UNET = BLOCKS | {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2}
VAE = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (8, 8), "norm_num_groups": 4}  # fmt: skip
SMALL = {
    "image_size": 16,
    "batch": 2,
    "ppo_prompts": 2,
    "ppo_samples": 2,
    "ppo_new_tokens": 3,
    "ppo_minibatch": 4,
    "clip_architecture": "tiny",
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    import open_clip

    for source in list(shapes.PIPELINES):
        monkeypatch.setitem(shapes.UNETS, source, UNET | {"cross_attention_dim": 16})
    for name in list(shapes.TEXTS):
        monkeypatch.setitem(shapes.TEXTS, name, (16, 32, 1, 2))
    monkeypatch.setattr(shapes, "VAE", VAE)
    monkeypatch.setattr(measure, "GPT2", {"n_embd": 16, "n_layer": 1, "n_head": 2})
    text, vision = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}, {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}  # fmt: skip
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "tiny.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "open_clip")
    monkeypatch.setattr(measure, "COLAB", dataclasses.replace(COLAB, **SMALL))
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)


def test_everything_is_measured_written_and_printed(tmp_path, capsys):
    assert cli.main(["measure"]) == 0
    (path,), out = list((tmp_path / "home").glob("measure-cpu-*.json")), capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["command"] == "PROMPTLAB_PRESET=colab python -m promptlab measure" and found["hardware"] == str(runtime.hardware())
    assert found["device"].startswith("cpu") and path.stem.endswith(found["date"]) and found["versions"]["torch"] == torch.__version__
    rows = found["measured"]
    assert [r["what"].split(",")[0] for r in rows][:3] == ["a picture", "a picture", "an embedding"] and "GPT-2" in rows[3]["what"]
    assert "stable-diffusion-v1-4, 20 steps" in rows[0]["what"] and f"{COLAB.generator}, {COLAB.steps} steps" in rows[1]["what"]
    assert all(r["seconds"] > 0 and r["peak_memory_gb"] > 0.1 and r["repeats"] == 1 for r in rows)
    assert "no GPU here, so this takes long" in out and str(path) in out and out.count("| a picture, ") == 2


def test_seconds_are_for_one_picture_and_those_of_the_preset(monkeypatch):
    drawn, clock = [], iter(range(0, 99, 6))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))  # each drawing takes 6 seconds
    monkeypatch.setattr(
        measure.RandomDiffusion, "generate", lambda self, words, seeds: drawn.append((len(words), self.steps, self.guidance))
    )
    row = measure.picture(dataclasses.replace(PAPER, **SMALL | {"batch": 3}))
    assert drawn == [(3, 20, 7.5)] and row["seconds"] == 2 and row["batch"] == 3


def test_a_gpu_is_warmed_up_and_its_memory_counted(monkeypatch):
    seconds, calls = iter([0, 90, 100, 101, 200, 203, 300, 302]), []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(measure, "device", lambda: torch.device("cuda"))
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3_000_000_000)
    row = measure.timed(lambda: calls.append("act"), "a thing", 1)
    assert (row["seconds"], row["repeats"], row["peak_memory_gb"], row["memory_of"]) == (2, 3, 3.0, "the GPU"), "the 90 s warmed it up"
    assert calls == ["reset_peak_memory_stats"] + ["act", "synchronize"] * 4


def test_what_was_measured_before_a_failure_is_kept(monkeypatch, tmp_path, capsys):
    def full(chosen):
        with runtime.enough_memory("Close something."):
            raise torch.OutOfMemoryError("CUDA out of memory")

    for part in ("picture", "embedding"):
        monkeypatch.setattr(measure, part, lambda chosen: {"what": "a thing", "seconds": 0.5, "peak_memory_gb": 1})
    monkeypatch.setattr(measure, "update", full)
    assert cli.main(["measure"]) == 1 and "Close something." in capsys.readouterr().err
    (path,) = (tmp_path / "home").glob("*.json")
    assert [row["seconds"] for row in json.loads(path.read_text())["measured"]] == [0.5] * 3


@pytest.mark.parametrize("source", shapes.PIPELINES)
def test_weights_are_made_on_the_device_and_the_scheduler_is_not(source):
    with torch.device("meta"):  # a GPU's tensors cannot become NumPy's either
        pipe = shapes.stable_diffusion(source, measure.tokenizer())
    pipe.scheduler.set_timesteps(3)
    assert {part.device.type for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {"meta"} and pipe.scheduler.betas.device.type == "cpu"
