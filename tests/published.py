"""File lists and settings of the repositories in `sources.HUB`, as published, with where each was read; fixtures are filled from these with tiny weights.

None of the hub was at hand: what is said here was read on 2026-11-27 in mirrors on GitHub and in stored copies of the hub's own pages.
"""

import json

import tiny_hub

PARTS = {"safety_checker": "model", "text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
TOKENIZER = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]


def kinds(part, *endings):
    return [f"{part}/config.json", *(f"{part}/{name}" for name in endings)]


# github.com/HDRJ-One/runwayml-stable-diffusion-v1-5, a mirror of v1-5 with its history; v1-4 has the same layout (github.com/wswplay/stable-diffusion-v1-4).
V1_FILES = [
    ".gitattributes", "README.md", "model_index.json", "v1-5-pruned-emaonly.safetensors", "v1-5-pruned.safetensors", "v1-inference.yaml",
    "feature_extractor/preprocessor_config.json", "scheduler/scheduler_config.json", *(f"tokenizer/{name}" for name in TOKENIZER),
    *kinds("safety_checker", "model.fp16.safetensors", "model.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin"),
    *kinds("text_encoder", "model.fp16.safetensors", "model.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin"),
    *kinds("unet", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.fp16.safetensors",
           "diffusion_pytorch_model.non_ema.bin", "diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"),
    *kinds("vae", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"),
]  # fmt: skip
# huggingface.co/pcuenq/stable-diffusion-v1-5/blob/main/model_index.json (a duplicate of v1-5) and keogh/stable-diffusion-compvis-v1-4 (version "0.2.2").
V1_INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0", "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
OLD_INDEX = V1_INDEX | {"_diffusers_version": "0.2.2", "feature_extractor": ["transformers", "CLIPFeatureExtractor"]}  # and before it was renamed
# feature_extractor/preprocessor_config.json of the same mirror; its sizes are 224 there, 16 here as the tiny checker's.
PREPROCESSOR = {
    "crop_size": 16, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 16,
}  # fmt: skip
# huggingface.co/stabilityai/sd-turbo/tree/b261bac6.../vae and /unet; the index from huggingface.co/Aryanne/testOrt, which was saved from it.
TURBO_FILES = [
    ".gitattributes", "LICENSE", "README.md", "model_index.json", "sd_turbo.safetensors", "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER), *kinds("text_encoder", "model.fp16.safetensors", "model.safetensors"),
    *(name for part in ("unet", "vae") for name in kinds(part, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors")),
]  # fmt: skip
TURBO_INDEX = V1_INDEX | {
    "_diffusers_version": "0.24.0.dev0", "feature_extractor": [None, None], "image_encoder": [None, None], "requires_safety_checker": True,
    "safety_checker": [None, None], "scheduler": ["diffusers", "EulerDiscreteScheduler"],
}  # fmt: skip
# huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/tree/refs%2Fpr%2F78/unet, /vae_encoder and /vae_decoder; ONNX and OpenVINO lie beside.
XL_FILES = [
    ".gitattributes", "README.md", "model_index.json", "sd_xl_base_1.0.safetensors", "scheduler/scheduler_config.json",
    *(f"{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in TOKENIZER),
    *kinds("text_encoder", "model.fp16.safetensors", "model.safetensors", "model.onnx", "openvino_model.bin"),
    *kinds("text_encoder_2", "model.fp16.safetensors", "model.safetensors", "model.onnx_data", "openvino_model.bin"),
    *kinds("unet", "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors", "model.onnx", "model.onnx_data", "openvino_model.bin"),
    *kinds("vae", "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"),
    *kinds("vae_decoder", "model.onnx", "openvino_model.bin"), *kinds("vae_encoder", "model.onnx", "openvino_model.bin"),
    "vae_1_0/config.json", "vae_1_0/diffusion_pytorch_model.fp16.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors",
]  # fmt: skip
OTHERS = {
    # huggingface.co/latent-consistency/lcm-lora-sdv1-5/tree/cf2fced5...
    "latent-consistency/lcm-lora-sdv1-5": [".gitattributes", "README.md", "image.png", "pytorch_lora_weights.safetensors"],
    # huggingface.co/trl-lib/ddpo-aesthetic-predictor/tree/main, at cf4bd10
    "trl-lib/ddpo-aesthetic-predictor": [".gitattributes", "README.md", "aesthetic-model.pth"],
    # huggingface.co/openai-community/gpt2/tree/refs%2Fpr%2F122, at 607a30d
    "openai-community/gpt2": [".gitattributes", "64-8bits.tflite", "64-fp16.tflite", "64.tflite", "README.md", "config.json", "flax_model.msgpack",
                              "generation_config.json", "merges.txt", "model.safetensors", "onnx/config.json", "onnx/decoder_model.onnx", "pytorch_model.bin",
                              "rust_model.ot", "tf_model.h5", "tokenizer.json", "tokenizer_config.json", "vocab.json"],
    # huggingface.co/microsoft/Promptist/blob/5d2bf5f4.../vocab.json: "Upload 3 files" brought it a tokenizer; PyTorch weights only
    "microsoft/Promptist": [".gitattributes", "README.md", "config.json", "merges.txt", "pytorch_model.bin", "tokenizer_config.json", "vocab.json"],
    # huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/tree/e682e54c...
    "HuggingFaceTB/SmolLM2-135M-Instruct": [".gitattributes", "README.md", "all_results.json", "config.json", "eval_results.json", "generation_config.json",
                                            "merges.txt", "model.safetensors", "runs/events.out.tfevents", "special_tokens_map.json", "tokenizer.json",
                                            "tokenizer_config.json", "train_results.json", "training_args.bin", "vocab.json"],
    # huggingface.co/krnl/PickScore_v1/commit/97f916c5..., a copy; the original may lack what prepares pictures and words
    "yuvalkirstain/PickScore_v1": [".gitattributes", "README.md", "config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "pytorch_model.bin",
                                   "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"],
    # huggingface.co/hoaiht/CLIP-ViT-H-14-laion2B-s32B-b79K/tree/main, a copy
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": [".gitattributes", "README.md", "config.json", "merges.txt", "open_clip_pytorch_model.bin", "preprocessor_config.json",
                                              "pytorch_model.bin", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"],
    # huggingface.co/timm/vit_large_patch14_clip_224.openai/tree/main, and what its sister vit_base_patch32_clip_224.openai got with "Add model" (ab5b8ef)
    "timm/vit_large_patch14_clip_224.openai": [".gitattributes", "README.md", "config.json", "model.safetensors", "open_clip_config.json",
                                               "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin"],
}  # fmt: skip
PIPELINES = {
    "CompVis/stable-diffusion-v1-4": (V1_FILES, V1_INDEX),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (V1_FILES, V1_INDEX),
    "stabilityai/sd-turbo": (TURBO_FILES, TURBO_INDEX),
    "stabilityai/stable-diffusion-xl-base-1.0": (XL_FILES, None),
}


def pipeline(folder, names, index) -> dict:
    """A repository of a pipeline as published: {name: bytes}, tiny weights under every name that is read, "no" under all others."""
    made = tiny_hub.save_xl(folder / "full") if index is None else tiny_hub.save_sd(folder / "full")
    half = None if index is None else tiny_hub.save_sd(folder / "half", "fp16")
    tiny_hub.save_checker(folder / "full", 2.0)
    files = {}
    for name in names:
        part, _, file = name.rpartition("/")
        stem = PARTS.get(part.removesuffix("_2"), "")
        plain, short = made / part / f"{stem}.safetensors", name.endswith(".fp16.safetensors")
        if (made / name).is_file():
            files[name] = (made / name).read_bytes()
        elif short and half and (half / name).is_file():
            files[name] = (half / name).read_bytes()
        elif short and plain.is_file():  # full precision under the name of half: the numbers are the same
            files[name] = plain.read_bytes()
        else:
            files[name] = b"no"
    if index is not None:
        files["model_index.json"] = json.dumps(index).encode()
    if "feature_extractor/preprocessor_config.json" in files:
        files["feature_extractor/preprocessor_config.json"] = json.dumps(PREPROCESSOR).encode()
    return files
