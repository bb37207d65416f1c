"""Our drawing loop against the plain Stable Diffusion pipeline, and what people may type."""

import warnings

import numpy as np
import pytest
import torch

from promptlab.models.pocket_generator import Generator
from promptlab.runtime import PromptlabError

PROMPTS = ["a frog", "a castle, oil painting", "a frog", "a blue frog and a dog, at sunset"]
SEEDS = [1, 2, 3, 1]
FAMILY = "👨\u200d👩\u200d👧"


@pytest.fixture(scope="module")
def plain(tiny_world):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_world / "generator", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch.float32)


def by_diffusers(pipe, prompts, seeds, steps, guidance):
    noise = [torch.Generator().manual_seed(s) for s in seeds]
    return pipe(prompts, generator=noise, num_inference_steps=steps, guidance_scale=guidance, output_type="np").images * 255


def apart(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


def alike(a, b):
    """The same picture up to float rounding, which batches of another size may bring."""
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


@pytest.fixture(scope="module")
def drawn(tiny_generator):
    return tiny_generator.generate(PROMPTS, SEEDS)


@pytest.mark.parametrize("steps, guidance", [(2, 3.0), (5, 3.0), (3, 7.5), (3, 1.0)])
def test_our_loop_draws_what_the_plain_pipeline_draws(tiny_generator, plain, steps, guidance):
    ours = tiny_generator.generate(PROMPTS, SEEDS, steps=steps, guidance=guidance)
    theirs = by_diffusers(plain, PROMPTS, SEEDS, steps, guidance)
    assert ours.dtype == np.uint8 and ours.shape == theirs.shape == (4, 128, 128, 3) and theirs.std() > 20
    assert np.abs(ours - theirs).max() <= 0.51  # rounding to 8 bits


def test_the_plain_pipeline_needs_no_arguments(tiny_world):
    """As the model card says: load the folder, draw; fp16 files must not end in a half-precision text encoder on a CPU."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_world / "generator")
    assert {pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype} == {torch.float32}
    assert pipe("a frog", num_inference_steps=1, output_type="np").images.shape == (1, 128, 128, 3)


def test_a_picture_does_not_depend_on_its_neighbours(tiny_generator, drawn):
    alone = np.concatenate([tiny_generator.generate([p], [s]) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    assert alike(alone, drawn)
    other = tiny_generator.generate(["a dog"] * 5 + PROMPTS[::-1], [*range(5), *SEEDS[::-1]])  # batches of 4: others beside them
    assert alike(other[5:][::-1], drawn)
    assert apart(other[5:], drawn) > 10, "a test that could not fail would not notice"


def test_same_seed_same_picture_other_seed_or_words_another(tiny_generator, drawn):
    assert (tiny_generator.generate(PROMPTS, SEEDS) == drawn).all()
    assert apart(drawn[0], drawn[2]) > 10, "same words, other seed"
    assert apart(drawn[0], drawn[3]) > 3, "same seed, other words"
    torch.manual_seed(5), np.random.seed(5)
    assert alike(tiny_generator.generate(PROMPTS[:1], np.array(SEEDS[:1])), drawn[:1]), "no global generator, seeds of any int type"


def test_steps_and_guidance_have_the_presets_defaults_and_change_pictures(tiny_generator, tiny_preset, drawn):
    assert (tiny_generator.steps, tiny_generator.guidance, tiny_generator.batch) == (tiny_preset.steps, tiny_preset.guidance, 4)
    assert (tiny_generator.generate(PROMPTS, SEEDS, steps=2, guidance=tiny_preset.guidance) == drawn).all()
    for change in (dict(steps=4), dict(guidance=3), dict(guidance=9)):
        assert apart(tiny_generator.generate(PROMPTS[:1], SEEDS[:1], **change), drawn[:1]) > 1, change


def test_an_empty_list_draws_nothing(tiny_generator):
    assert tiny_generator.generate([], []).shape == (0, 128, 128, 3)


@pytest.mark.parametrize("prompts, seeds", [(["a frog"], [1, 2]), (["a frog", "a dog"], [1]), ([], [1]), ("frog", [1, 2, 3, 4])])
def test_lists_of_different_length_are_refused(tiny_generator, prompts, seeds):
    with pytest.raises(PromptlabError, match="as many seeds as prompts"):
        tiny_generator.generate(prompts, seeds)


# --- what people type -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", "   ", "\n\t", "\u0000\u0007", "\u200b"])
def test_an_empty_prompt_is_refused_by_its_value(tiny_generator, nothing):
    with pytest.raises(PromptlabError) as error:
        tiny_generator.generate(["a frog", nothing], [1, 2])
    assert repr(nothing) in str(error.value)


STRANGE = ["🐸", FAMILY, "צפרדע כחול", "ضفدع \u202e\u200f", "蛙蛙蛙", "<b>frog</b><script>alert(1)</script>", "a\u0000frog\u001b[31m", "\ud800 frog",
           "frog " * 9, "%s {0} \\n", "<|endoftext|> frog", "a frog\u0301\u0301\u0301"]  # fmt: skip


def test_strange_prompts_draw(tiny_generator):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        images = tiny_generator.generate(STRANGE, [1] * len(STRANGE))
    assert images.shape == (len(STRANGE), 128, 128, 3)
    assert min(apart(images[i], images[j]) for i in range(len(STRANGE)) for j in range(i)) > 0.2, "each prompt counts"


def test_spaces_and_control_characters_are_no_words(tiny_generator, drawn):
    assert alike(tiny_generator.generate(["  a \u0000 frog\n"], [1]), drawn[:1])
    assert tiny_generator.key("  a \u0000 frog\n", 1) == tiny_generator.key("a frog", 1)


@pytest.mark.parametrize("word", ["frog ", "x", "蛙", "🐸 "])
def test_a_prompt_of_10000_characters_warns_once_and_draws(tiny_generator, word):
    long = (word * 10_000)[:10_000]
    with pytest.warns(UserWarning, match="reads 48 tokens") as caught:
        images = tiny_generator.generate([long, "a frog", long], [1, 1, 2])
    assert len([w for w in caught if "48 tokens" in str(w.message)]) == 1 and len(str(caught[0].message)) < 300
    with pytest.warns(UserWarning):
        assert alike(tiny_generator.generate([long[:1000]], [1]), images[:1]), "what lies beyond the limit is ignored"


def test_a_prompt_that_just_fits_does_not_warn(tiny_generator):
    tokenizer = tiny_generator.pipe.tokenizer
    words, fits = "a", "a"
    while len(tokenizer(words).input_ids) <= 48:
        fits, words = words, words + " a"
    assert len(tokenizer(fits).input_ids) == 48
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tiny_generator.generate([fits], [1])
    with pytest.warns(UserWarning, match="48 tokens"):
        tiny_generator.generate([words], [1])


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_holds_everything_that_changes_a_picture(tiny_generator):
    key = tiny_generator.key("a frog", 1)
    assert key == tiny_generator.key("a frog", np.int64(1), steps=2, guidance=1.0)
    others = [tiny_generator.key("a dog", 1), tiny_generator.key("a frog", 2), tiny_generator.key("a frog", 1, steps=3),
              tiny_generator.key("a frog", 1, guidance=3.5), tiny_generator.key("a frog", 1, guidance=0)]  # fmt: skip
    assert len({key, *others}) == 6 and hash(key)


@pytest.mark.parametrize("part", ["unet/*.safetensors", "vae/*.safetensors", "text_encoder/*.safetensors"])
def test_other_weights_have_other_keys(tiny_world, tiny_generator, tmp_path, part):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_world / "generator", tmp_path / "generator")
    assert Generator(folder, 2, tiny_generator.guidance, 4, torch.float32).key("a frog", 1) == tiny_generator.key("a frog", 1), (
        "a copy is the same"
    )
    (file,) = folder.glob(part)
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert Generator(folder, 2, tiny_generator.guidance, 4, torch.float32).key("a frog", 1) != tiny_generator.key("a frog", 1)


@pytest.mark.parametrize("file, field, value", [("vae/config.json", "scaling_factor", 0.5), ("scheduler/scheduler_config.json", "beta_end", 0.02),
                                                ("scheduler/scheduler_config.json", "prediction_type", "epsilon")])  # fmt: skip
def test_other_settings_have_other_keys(tiny_world, tiny_generator, tmp_path, file, field, value):
    """The same weights drawn by other settings give another picture, so a gallery must not take one for the other."""
    import json
    import shutil

    folder = shutil.copytree(tiny_world / "generator", tmp_path / "generator")
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | {field: value}))
    changed = Generator(folder, 2, tiny_generator.guidance, 4, torch.float32)
    assert apart(changed.generate(["a frog"], [1]), tiny_generator.generate(["a frog"], [1])) > 1
    assert changed.key("a frog", 1) != tiny_generator.key("a frog", 1)


def test_drawing_leaves_the_pipelines_scheduler_alone(tiny_generator, plain):
    """It has state; ours is a fresh one per batch, so a plain call in between changes nothing."""
    before = tiny_generator.generate(["a frog"], [1])
    by_diffusers(tiny_generator.pipe, ["a dog"], [3], 7, 2.0)
    assert (tiny_generator.generate(["a frog"], [1]) == before).all()


def test_progress_counts_pictures(tiny_generator, capsys):
    tiny_generator.generate(PROMPTS + PROMPTS[:1], SEEDS + [9], progress=True)
    assert "5/5" in capsys.readouterr().err
    tiny_generator.generate(PROMPTS[:1], SEEDS[:1])
    assert capsys.readouterr().err == ""


def test_weights_replaced_after_loading_do_not_name_what_the_old_ones_draw(tiny_world, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_world / "generator", tmp_path / "generator")
    loaded, known = Generator(folder, 2), Generator(tiny_world / "generator", 2)
    shutil.rmtree(folder)
    assert loaded.key("a frog", 1) == known.key("a frog", 1)


# --- seeds and schedulers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2**64, 2**63, -1, -(2**32), 1.5, 7.0, float("nan"), float("inf"), "7", None, [7], np.float32(3)])
def test_a_seed_that_is_no_whole_number_is_named(tiny_generator, seed):
    for ask in (lambda: tiny_generator.key("a frog", seed), lambda: tiny_generator.generate(["a frog"], [seed])):
        with pytest.raises(PromptlabError, match=r"The seed .* is no whole number from 0 to 2\*\*63 - 1. Give another") as error:
            ask()
        assert repr(seed)[:60] in str(error.value)


def test_each_seed_has_a_picture_of_its_own(tiny_generator):
    """PyTorch's generator on the CPU reads 32 bits of a seed and no more."""
    seeds = [5, 5 + 2**32, 5 + 2**33, 5 + 2**40, 0, 2**32, 2**32 - 1, 2**63 - 1]
    images = tiny_generator.generate(["a frog"] * len(seeds), seeds)
    assert min(apart(images[i], images[j]) for i in range(len(seeds)) for j in range(i)) > 5
    assert len({tiny_generator.key("a frog", s) for s in seeds}) == len(seeds)
    assert alike(tiny_generator.generate(["a frog"], [np.uint64(5 + 2**40)]), images[3:4]), "the same again"


def test_small_seeds_draw_what_diffusers_draws_of_them():
    from promptlab.models.pocket_generator import randomness

    for seed in (0, 7, 500_001, 2**32 - 1):
        assert torch.equal(torch.randn(9, generator=randomness(seed)), torch.randn(9, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("change", [{"use_karras_sigmas": True}, {"solver_order": 1}, {"beta_end": 0.03}, {"timestep_spacing": "trailing"},
                                    {"trained_betas": np.linspace(1e-4, 0.02, 1000)}])  # fmt: skip
def test_a_scheduler_changed_by_hand_has_another_key(tiny_generator, change):
    own = tiny_generator.pipe.scheduler
    before = tiny_generator.key("a frog", 1)
    try:
        tiny_generator.pipe.scheduler = type(own).from_config(own.config)
        assert tiny_generator.key("a frog", 1) == before, "a copy is the same"
        tiny_generator.pipe.scheduler = type(own).from_config(own.config, **change)
        assert tiny_generator.key("a frog", 1) != before
    finally:
        tiny_generator.pipe.scheduler = own
