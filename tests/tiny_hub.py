"""Tiny random models in the folder formats of the hub: Stable Diffusion v1 and XL, the safety checker, GPT-2."""

import json
import random


def save_tokenizer(folder, length=77):
    """CLIP's tokenizer with an alphabet and no merges, in its published files."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,.'-"]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": length} | special))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return len(words)


def text_config(vocabulary, width=16, **more):
    from transformers import CLIPTextConfig

    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    return CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **ends, **more
    )  # fmt: skip


def unet(**more):
    from diffusers import UNet2DConditionModel

    sizes = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    model = UNet2DConditionModel(**sizes, **blocks, **more)
    for module in model.modules():  # so that words change pictures although nothing is trained
        if type(module).__name__ == "Attention":
            module.to_out[0].weight.data.mul_(8)
    model.conv_out.weight.data.mul_(3)
    return model


def vae():
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16)


def save_sd(folder, variant=None, seed=0):
    """A Stable Diffusion v1 of a few thousand weights, 16 x 16 pixels, with PNDM as v1-4 comes."""
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    words = save_tokenizer(folder / "tokenizer")
    encoder = CLIPTextModel(text_config(words))
    encoder.get_input_embeddings().weight.data.mul_(50)
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=encoder, tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), unet=unet(cross_attention_dim=16),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    if variant:
        pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True, variant=variant)
    return folder


def save_xl(folder):
    """A Stable Diffusion XL of a few thousand weights: two text encoders, sizes as conditions, an Euler scheduler."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    words = save_tokenizer(folder / "tokenizer")
    save_tokenizer(folder / "tokenizer_2")
    size = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 16}
    pipe = StableDiffusionXLPipeline(
        vae=vae(), text_encoder=CLIPTextModel(text_config(words)), tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=CLIPTextModelWithProjection(text_config(words, projection_dim=16)),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        unet=unet(cross_attention_dim=32, transformer_layers_per_block=1, **size), scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
    )  # fmt: skip
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def vision_config(side):
    """The picture side of a tiny CLIP that looks at `side` x `side` pixels."""
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": side,
    }


def save_checker(folder, threshold):
    """A safety checker that objects to everything whose likeness to a concept, from -1 to 1, exceeds the threshold."""
    import torch
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision_config(16), projection_dim=8))
    checker.concept_embeds_weights.data.fill_(threshold), checker.special_care_embeds_weights.data.fill_(2)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder / "feature_extractor")
    return folder


def save_pickscore(folder):
    """A CLIP of a few thousand weights in transformers' format, with its tokenizer and picture processor, as PickScore comes."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    words = save_tokenizer(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text_config(words).to_dict(), vision_config=vision_config(32), projection_dim=8)).save_pretrained(
        folder
    )
    return folder


def save_clip(folder, width=768):
    """An open_clip model of few weights whose embeddings are as wide as ViT-L/14's, so that LAION's head can read them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    mean_std = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    model = open_clip.CLIP(width, dict(vision), dict(text))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": mean_std}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def save_laion(folder):
    """LAION's head with random weights, as a .pth file."""
    import torch

    from promptlab.models.aesthetic import laion_head

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    torch.save(laion_head().state_dict(), folder / "aesthetic-model.pth")
    return folder


def save_colab(folder):
    """Tiny models for everything that the preset colab names: the fields to replace in it."""
    from promptlab.policy import MARK
    from promptlab.prompts import keywords

    # Letter by letter a prompt would be 180 tokens long, and training on prompts would take minutes.
    texts = [f"{noun}{MARK} {text}" for text, noun, _ in keywords.targets("sft", 1000, random.Random(0))]
    places = {
        "generator": save_sd(folder / "turbo"), "test_generator": save_sd(folder / "v1-4", seed=1), "safety": save_checker(folder / "checker", 2.0),
        "clip": save_clip(folder / "clip"), "aesthetic": save_laion(folder / "head"), "judge": save_pickscore(folder / "pick"),
        "language": save_gpt2(folder / "gpt2", texts=texts), "sft": save_gpt2(folder / "promptist", texts=texts, seed=1),
    }  # fmt: skip
    return {k: str(v) for k, v in places.items()} | {
        "ppo": str(places["sft"]),
        "clip_architecture": "",
        "image_size": 16,
        "batch": 32,  # tiny pictures
        "ppo_new_tokens": 20,
    }


def save_gpt2(folder, vocabulary=None, tokenizer=True, safe=True, seed=0, texts=()):
    """A GPT-2 of a few thousand weights with GPT-2's kind of tokenizer; `vocabulary` smaller than the tokenizer's is a mismatch.

    A token is a letter, or a part of a word as GPT-2 has them where there are `texts` to learn those from.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({w: i for i, w in enumerate([*letters, "<|endoftext|>"])}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if texts:
        words.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1000, initial_alphabet=letters, show_progress=False))
    end = "<|endoftext|>"
    tokens = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, bos_token=end, unk_token=end)
    torch.manual_seed(seed)
    size = vocabulary or len(tokens)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=256, n_embd=16, n_layer=2, n_head=2, bos_token_id=size - 1, eos_token_id=size - 1, initializer_range=0.3))  # fmt: skip
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if tokenizer:
        tokens.save_pretrained(folder)
    return folder
