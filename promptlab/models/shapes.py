"""The big models' published configurations, and models built from them: as large as told, with random weights or none."""

import json

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


# The text encoder and the scheduler that a pipeline comes with.
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
PIPELINES = {
    "CompVis/stable-diffusion-v1-4": ("text_encoder", "PNDMScheduler", {"skip_prk_steps": True}),
    "stabilityai/sd-turbo": ("text_encoder of sd-turbo", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}


def stable_diffusion(source, tokenizer):
    """The pipeline of `source`, one of PIPELINES, in full size with random weights in float32, on the device of the context."""
    import diffusers
    import torch

    text, scheduler, settings = PIPELINES[source]
    with torch.device("cpu"):  # a scheduler hands its tensors to NumPy
        steps = getattr(diffusers, scheduler)(**NOISE, **settings)
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE), text_encoder=text_encoder(*TEXTS[text]), tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**({"sample_size": 64} | UNETS[source])), scheduler=steps,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def clip_tokenizer(folder):
    """CLIP's own vocabulary, which open_clip carries, written to a folder in the files the hub has, and loaded."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    words = SimpleTokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({names.get(w, w): i for w, i in words.encoder.items()}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in words.bpe_ranks))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    return CLIPTokenizer.from_pretrained(folder)


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
