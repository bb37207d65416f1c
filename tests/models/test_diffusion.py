"""Pipelines of diffusers in the hub's folder format, against their own plain call: pictures, fp16 files, the checker, memory, and what is no pipeline."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tiny_hub
import torch
from safetensors.torch import load_file, save_file

from promptlab.config import COLAB, PAPER, SAFETY, for_evaluation
from promptlab.models import diffusion, pocket_generator
from promptlab.pictures.load import is_pocket, load_generator
from promptlab.runtime import PromptlabError

PROMPTS, SEEDS = ["a frog", "a dog", "a frog", "a castle, oil painting"], [1, 1, 2, 7]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    tiny_hub.save_sd(folder / "sd"), tiny_hub.save_xl(folder / "xl"), tiny_hub.save_sd(folder / "half", "fp16")
    tiny_hub.save_checker(folder / "content", 2.0), tiny_hub.save_checker(folder / "prudish", -2.0)
    return folder


def preset_for(folder, **more):
    return dataclasses.replace(
        COLAB, **({"generator": str(folder), "image_size": 16, "steps": 3, "guidance": 7.5, "safety": "", "batch": 3} | more)
    )


@pytest.fixture(scope="module")
def drawer(hub):
    return load_generator(preset_for(hub / "sd"), torch.float32)


@pytest.fixture(autouse=True)
def nothing_halved(monkeypatch):
    monkeypatch.setattr(pocket_generator, "HALVED", {}), monkeypatch.setattr(diffusion, "HALVED", pocket_generator.HALVED)


def apart(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


@pytest.mark.parametrize("kind", ["sd", "xl"])
@pytest.mark.parametrize("guidance", [7.5, 0.0])
def test_pictures_are_those_of_the_plain_pipeline(hub, kind, guidance):
    """Alone, with the seed as diffusers' documentation says, through no line of ours."""
    from diffusers import DiffusionPipeline

    ours = load_generator(preset_for(hub / kind, guidance=guidance), torch.float32).generate(PROMPTS, SEEDS)
    pipe = DiffusionPipeline.from_pretrained(hub / kind, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for prompt, seed, picture in zip(PROMPTS, SEEDS, ours, strict=True):
        theirs = pipe(prompt, generator=torch.Generator().manual_seed(seed), num_inference_steps=3, guidance_scale=guidance, height=16, width=16, output_type="np")  # fmt: skip
        assert np.abs(theirs.images[0] * 255 - picture).max() <= 1.01
    assert min(apart(ours[i], ours[j]) for i in range(4) for j in range(i)) > (1 if guidance else 0.1), "every word and seed counts"


def test_the_schedulers_are_the_pipelines_own_or_the_named_one(hub, drawer):
    assert type(drawer.pipe.scheduler).__name__ == "PNDMScheduler"
    named = load_generator(preset_for(hub / "sd", scheduler=PAPER.scheduler), torch.float32)
    assert type(named.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert named.pipe.scheduler.config.beta_schedule == "scaled_linear", "what the model was trained with is carried over"
    assert named.key("a", 1) != drawer.key("a", 1) and apart(named.generate(["a frog"], [1]), drawer.generate(["a frog"], [1])) > 1


def test_fp16_files_load_by_the_same_code(hub, drawer):
    half = load_generator(preset_for(hub / "half"), torch.float32)
    assert {f.name for f in half.files} == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    assert {half.pipe.unet.dtype, half.pipe.text_encoder.dtype, half.pipe.vae.dtype} == {torch.float32}
    assert apart(half.generate(PROMPTS, SEEDS), drawer.generate(PROMPTS, SEEDS)) < 3, "the same weights, rounded"


def test_all_parts_have_the_number_format_asked_for(hub):
    pipe = load_generator(preset_for(hub / "xl"), torch.bfloat16).pipe
    assert {p.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2) for p in part.parameters()} == {
        torch.bfloat16
    }


def test_keys_change_with_weights_settings_and_the_checker(hub, drawer, tmp_path):
    copy = shutil.copytree(hub / "sd", tmp_path / "copy")
    assert load_generator(preset_for(copy), torch.float32).key("a", 1) == drawer.key("a", 1)
    checked = load_generator(preset_for(copy, safety=str(hub / "content")), torch.float32)
    assert checked.key("a", 1) != drawer.key("a", 1)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert load_generator(preset_for(copy), torch.float32).key("a", 1) != drawer.key("a", 1)


def test_a_long_prompt_warns_as_on_pocket(drawer):
    with pytest.warns(UserWarning, match="reads 77 tokens"):
        drawer.generate(["frog " * 100], [1])


def test_pocket_and_others_are_told_apart(hub, tiny_world):
    assert is_pocket(tiny_world / "generator") and not is_pocket(hub / "sd")


# --- the safety checker ---------------------------------------------------------------------------------------------


def test_the_checker_blacks_out_what_it_objects_to_and_says_so(hub, drawer, capsys):
    checked = load_generator(preset_for(hub / "sd", safety=str(hub / "content")), torch.float32)
    assert (checked.generate(PROMPTS, SEEDS) == drawer.generate(PROMPTS, SEEDS)).all() and "safety" not in capsys.readouterr().out
    strict = load_generator(preset_for(hub / "sd", safety=str(hub / "prudish")), torch.float32)
    assert not strict.generate(PROMPTS[:3], SEEDS[:3]).any()
    assert "The safety checker blacked out 3 of 3 pictures" in capsys.readouterr().out


def test_it_is_on_by_default_and_off_by_one_word():
    for chosen in (COLAB, PAPER, for_evaluation(COLAB)):
        assert chosen.safety
    assert "dataclasses.replace(preset(), safety='')" in SAFETY


def test_a_preset_whose_checker_is_missing_does_not_draw_unchecked(hub, tmp_path):
    with pytest.raises(PromptlabError, match="safety_checker is missing.*safety="):
        load_generator(preset_for(hub / "sd", safety=str(tmp_path)), torch.float32)


# --- memory ---------------------------------------------------------------------------------------------------------


def narrow(drawer, monkeypatch, most):
    """A GPU that holds `most` pictures at once."""
    draw, sizes = drawer._draw, []

    def tight(prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines.")
        return draw(prompts, *rest)

    monkeypatch.setattr(drawer, "_draw", tight)
    return sizes


def test_out_of_memory_halves_the_batch_once_says_so_and_remembers(hub, drawer, monkeypatch, capsys):
    expected = drawer.generate(PROMPTS + PROMPTS, SEEDS + SEEDS)
    tight = load_generator(preset_for(hub / "sd", batch=4), torch.float32)
    sizes = narrow(tight, monkeypatch, 2)
    assert np.abs(tight.generate(PROMPTS + PROMPTS, SEEDS + SEEDS).astype(int) - expected).max() <= 1, "no picture lost, none doubled"
    assert sizes == [4, 2, 2, 2, 2] and tight.batch == 2
    assert capsys.readouterr().out.count("from now on 2 pictures are drawn at once") == 1
    tight.generate(PROMPTS, SEEDS)
    assert sizes[5:] == [2, 2], "it remembers"
    assert load_generator(preset_for(hub / "sd", batch=4), torch.float32).batch == 2, "also when it is loaded again"


def test_a_second_time_it_gives_up_with_the_next_step(hub, drawer, monkeypatch):
    tight = load_generator(preset_for(hub / "sd", batch=4), torch.float32)
    narrow(tight, monkeypatch, 1)
    with pytest.raises(PromptlabError, match=r"Drawing 2 pictures at once.*Tried to allocate 2 GiB.*batch=1") as error:
        tight.generate(PROMPTS, SEEDS)
    assert "More lines" not in str(error.value)


def test_a_picture_that_is_no_number_stops(hub):
    broken = load_generator(preset_for(hub / "sd"), torch.float32)
    broken.pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(PromptlabError, match="'a frog' or a neighbour is not finite in float32.*load_generator"):
        broken.generate(["a frog"], [1])


# --- folders that hold something else -------------------------------------------------------------------------------


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(PromptlabError, match=rf"{tmp_path} is no folder of a diffusers pipeline.*generator="):
        load_generator(preset_for(tmp_path))


def test_a_pipeline_that_does_not_read_text_is_refused(hub, tmp_path):
    copy = shutil.copytree(hub / "sd", tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "DDPMPipeline"}))
    with pytest.raises(PromptlabError, match=rf"{copy}.*generator="):
        load_generator(preset_for(copy))


def changed(folder, file, **more):
    """Another setting in a file of a pipeline; None takes one out."""
    path = folder / file
    kept = json.loads(path.read_text()) | more
    path.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


@pytest.mark.parametrize("kind, channels, words", [("StableDiffusionInpaintPipeline", 9, "inpainting"), ("StableDiffusionPipeline", 9, "inpainting"),
                                                   ("StableDiffusionInstructPix2PixPipeline", 8, "editing a picture"),
                                                   ("StableDiffusionDepth2ImgPipeline", 5, "a depth map"), ("StableDiffusionUpscalePipeline", 7, "enlarging"),
                                                   ("StableDiffusionPipeline", 12, "something else")])  # fmt: skip
def test_a_unet_that_reads_more_than_noise_is_refused_before_anything_is_loaded(hub, tmp_path, kind, channels, words):
    copy = shutil.copytree(hub / "sd", tmp_path / "copy")
    shutil.rmtree(copy / "unet")
    tiny_hub.unet(cross_attention_dim=16, in_channels=channels).save_pretrained(copy / "unet")
    (copy / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"never read")
    changed(copy, "model_index.json", _class_name=kind)
    with pytest.raises(PromptlabError, match=f"{kind} whose UNet reads {channels} channels, not the 4 .*{words}.*Choose a Stable Diffusion"):
        load_generator(preset_for(copy), torch.float32)


@pytest.mark.parametrize("where", ["xl", "sd"])
@pytest.mark.parametrize("gone", [[None, None], None], ids=["null", "absent"])
def test_a_refiner_is_refused(hub, tmp_path, where, gone):
    copy = shutil.copytree(hub / where, tmp_path / "copy")
    changed(copy, "model_index.json", text_encoder=gone, tokenizer=gone)
    shutil.rmtree(copy / "text_encoder"), shutil.rmtree(copy / "tokenizer")
    with pytest.raises(PromptlabError, match="without a first text encoder: a refiner.*Choose a Stable Diffusion"):
        load_generator(preset_for(copy), torch.float32)


def test_a_pipeline_without_a_unet_is_told_before_its_gigabytes_are_read(hub, tmp_path):
    copy = shutil.copytree(hub / "sd", tmp_path / "copy")
    changed(copy, "model_index.json", unet=None, transformer=["diffusers", "SD3Transformer2DModel"], _class_name="StableDiffusion3Pipeline")
    with pytest.raises(PromptlabError, match="holds a StableDiffusion3Pipeline, which has no UNet. Choose"):
        load_generator(preset_for(copy), torch.float32)


@pytest.mark.parametrize("name", ["v1-5-pruned.safetensors", "model.ckpt", "anime_v3.pt"])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_single_file_says_how_to_make_a_folder_of_it(tmp_path, name, form):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PromptlabError, match=f"{tmp_path / name} is a single-file checkpoint.*from_single_file.*save_pretrained.*generator='my-model'"):
        load_generator(preset_for(tmp_path / name if form == "file" else tmp_path))


@pytest.mark.parametrize("parts", [["unet"], ["text_encoder"], ["unet", "vae", "text_encoder"]], ids=len)
def test_bin_weights_say_how_to_convert_and_that_works(hub, drawer, tmp_path, parts):
    copy = shutil.copytree(hub / "sd", tmp_path / "copy")
    for part in parts:
        (file,) = (copy / part).glob("*.safetensors")
        name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), copy / part / name), file.unlink()
    with pytest.raises(PromptlabError, match=f"copy/{min(parts)} holds its weights as .bin only.*may carry code. Convert") as error:
        load_generator(preset_for(copy), torch.float32)
    exec(str(error.value).split("once: ")[1].split(", and name")[0].replace("my-model", str(tmp_path / "my-model")), {})
    assert (load_generator(preset_for(tmp_path / "my-model"), torch.float32).generate(["a frog"], [1]) == drawer.generate(["a frog"], [1])).all()


def test_the_root_of_a_hub_cache_names_the_folder_inside(hub, tmp_path):
    inside = tmp_path / "models--A--B" / "snapshots" / "abc"
    shutil.copytree(hub / "sd", inside)
    with pytest.raises(PromptlabError, match=f"keeps the model below snapshots/. Name this one: {inside}"):
        load_generator(preset_for(tmp_path / "models--A--B"))
    assert load_generator(preset_for(inside), torch.float32)


@pytest.mark.parametrize("name, meant", [("DPMSolver++", "DPMSolver"), ("DPM++ 2M", ""), ("Euler", "Euler"), ("eulerdiscretescheduler", "Euler"),
                                         ("StableDiffusionPipeline", ""), ("UNet2DConditionModel", ""), ("FlowMatchEulerDiscreteScheduler", "Euler")])  # fmt: skip
@pytest.mark.parametrize("where", ["sd", "xl"])
def test_a_misspelt_scheduler_names_those_that_fit(hub, where, name, meant):
    with pytest.raises(PromptlabError, match=f"'{re.escape(name)}' is no scheduler that fits.*{meant}.*EulerDiscreteScheduler.*PNDMScheduler"):
        load_generator(preset_for(hub / where, scheduler=name), torch.float32)


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler", "LCMScheduler", "EulerAncestralDiscreteScheduler"])
def test_schedulers_that_fit_draw(hub, name):
    assert load_generator(preset_for(hub / "sd", scheduler=name), torch.float32).generate(["a frog"], [1]).std() > 1


@pytest.mark.parametrize("size, near", [(500, "496.*504"), (513, "512.*520"), (7, "=8"), (0, "=8"), (-8, "=8"), (512.5, "512.*520"), ("512", "512")])
def test_a_size_that_is_no_multiple_of_eight_names_the_nearest(hub, size, near):
    with pytest.raises(PromptlabError, match=f"Pictures of {size} pixels.*multiple of 8.*{near}"):
        load_generator(preset_for(hub / "sd", image_size=size), torch.float32)


@pytest.mark.parametrize("how", ["missing", "truncated", "foreign", "pickled"])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_damaged_weights_are_named(hub, tmp_path, part, how):
    """Foreign weights too: diffusers would leave the model empty, transformers would fill it with random numbers."""
    copy = shutil.copytree(hub / "sd", tmp_path / "copy")
    (file,) = (copy / part).glob("*.safetensors")
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-50])
    elif how == "foreign":
        save_file({"somebody.elses.weight": torch.zeros(3)}, file, metadata={"format": "pt"})
    else:
        torch.save(load_file(file), file.with_suffix(".bin")), file.unlink()
    with pytest.raises(PromptlabError, match="copy") as error:
        load_generator(preset_for(copy), torch.float32)
    assert "generator=" in str(error.value)


def test_what_the_checker_blacked_out_is_told_from_a_dark_picture(hub, drawer):
    checked = load_generator(preset_for(hub / "sd", safety=str(hub / "content")), torch.float32)
    images = np.zeros((3, 16, 16, 3), np.uint8)
    images[1, 3, 3] = 1
    assert checked.blacked_out(images).tolist() == [True, False, True]
    assert not drawer.blacked_out(images).any(), "nobody checked, so nobody blacked out"


def test_a_gallery_marks_what_the_checker_blacked_out(hub, tiny_clip, tmp_path):
    from promptlab.pictures.gallery import Gallery

    gallery = Gallery(preset_for(hub / "sd", safety=str(hub / "prudish"), judge=""), tiny_clip, tmp_path)
    assert gallery.blacked_out(["a frog"], [1]).tolist() == [True]


def test_a_pipelines_seeds_and_scheduler_count_as_on_pocket(drawer):
    images = drawer.generate(["a frog"] * 3, [5, 5 + 2**32, 5])
    assert apart(images[0], images[1]) > 1 and (images[0] == images[2]).all()
    own, before = drawer.pipe.scheduler, drawer.key("a frog", 1)
    drawer.pipe.scheduler = type(own).from_config(own.config, beta_end=0.02)
    changed, drawer.pipe.scheduler = drawer.key("a frog", 1), own
    assert changed != before
