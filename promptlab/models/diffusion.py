"""Any text-to-image pipeline of diffusers that has a UNet, behind the same few methods as the pocket world's generator."""

import difflib
import json

import numpy as np

from promptlab.config import second_choice
from promptlab.models import sources
from promptlab.models.memory import check_fits
from promptlab.models.pocket_generator import HALVED, Generator, randomness
from promptlab.models.sources import repair_for
from promptlab.models.weights import check_weights, file_hash, reading_weights, stored_numbers
from promptlab.runtime import PromptlabError, hardware


class Diffusion(Generator):
    """A pipeline loaded by `AutoPipelineForText2Image` and drawn by its own call: SD v1-4, its v1-5 mirror, SD-Turbo, SDXL and their kin.

    `dtype` is the number format of all parts, by default what `hardware()` found to be fast. Raises `PromptlabError` for a
    hub id that cannot be had, a folder that holds something else, a size that it cannot draw, and a GPU that is too small.
    """

    def __init__(self, preset, dtype=None):
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.set_verbosity_error(), logging.disable_progress_bar(), transformers_logging.disable_progress_bar()
        check_size(preset.image_size), check_fits(preset)
        (preset, self.folder, adapter), where = fetch(preset), hardware()
        self.steps, self.guidance, self._size = preset.steps, preset.guidance, preset.image_size
        self.batch, dtype = HALVED.get(str(self.folder), preset.batch), dtype or where.dtype
        pipe = load_pipeline(self.folder, preset.scheduler, dtype)
        self.files = weight_files(self.folder) + (add_adapter(pipe, adapter) if adapter else [])
        self.pipe = pipe.to(where.device, dtype)
        # A short hash of weights and settings, part of every cache key; some seconds for gigabytes, at once, as files may be replaced.
        settings = [f for f in sorted(self.folder.rglob("*.json")) if "safety_checker" not in f.parts]
        self.fingerprint = file_hash([*self.files, *settings])
        self.checker = Checker(preset.safety, where.device, dtype) if preset.safety else None

    @property
    def size(self):
        """Pixels a side."""
        return self._size

    def key(self, prompt, seed, steps=None, guidance=None):
        """Everything a picture depends on, as a tuple; a blacked-out picture is not the same as one that nobody checked."""
        return (*super().key(prompt, seed, steps, guidance), "checked and marked" if self.checker else "unchecked")

    def blacked_out(self, images):
        """Which pictures, uint8 (n, height, width, 3), the safety checker has blacked out: bool (n,)."""
        black = ~images.reshape(len(images), -1).any(1)
        return black if self.checker else np.zeros_like(black)

    def _draw(self, prompts, seeds, steps, guidance):
        """One batch through the pipeline's own call; each picture has its own generator on the CPU, so neighbours change nothing."""
        import torch

        self.tokens(prompts)  # only for its warning: the pipeline cuts a long prompt and says nothing
        noise = [randomness(s) for s in seeds]
        images = self.pipe(
            prompts, generator=noise, num_inference_steps=steps, guidance_scale=guidance, height=self.size, width=self.size, output_type="pt",
        ).images.float()  # fmt: skip
        if not torch.isfinite(images).all():
            raise PromptlabError(
                f"The picture of {prompts[0]!r} or a neighbour is not finite in {str(self.pipe.unet.dtype)[6:]}. "
                "Load the generator in float32: load_generator(preset, torch.float32)."
            )
        images = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return images if self.checker is None else self.checker(images)


def fetch(preset):
    """The preset to draw with, the folder of its pipeline, and that of the pipeline's adapter or None: the second choice where the first cannot be had.

    Says so in a line. Raises `PromptlabError` where neither is to be had.
    """
    try:
        return preset, *fetch_parts(preset)
    except PromptlabError as error:
        second = second_choice(preset)
        if second is None:
            raise
        try:
            found = fetch_parts(second)
        except PromptlabError:
            raise error from None
        print(f"{error}\nSo {second.generator} with {second.generator_lora} draws in its place, in {second.steps} steps.")
        return second, *found


def fetch_parts(preset):
    """The folder of a preset's pipeline, and of its adapter or None."""
    adapter = preset.generator_lora
    return sources.fetch(preset.generator, sources.pipeline_files), sources.fetch(adapter, sources.lora_files) if adapter else None


def check_size(size):
    """Raise `PromptlabError` for pictures that no pipeline draws: their side must be a multiple of eight."""
    if not isinstance(size, int) or size < 8 or size % 8:
        near = sorted({max(8, int(size) // 8 * 8), int(size) // 8 * 8 + 8}) if isinstance(size, (int, float)) else [512]
        raise PromptlabError(
            f"Pictures of {size} pixels a side cannot be drawn: it must be a multiple of 8. "
            f"The nearest: {' or '.join(f'dataclasses.replace(preset(), image_size={n})' for n in near)}."
        )


def weight_files(folder) -> list:
    """The safetensors a pipeline is loaded from, by the same choice that picked what to download."""
    names = [f.relative_to(folder).as_posix() for part in sources.PARTS for f in (folder / part).glob("*.safetensors")]
    return [folder / name for name in sources.weight_files(names)]


def load_pipeline(folder, scheduler, dtype):
    """The pipeline in a folder of diffusers' format, with another scheduler where one is named.

    Raises `PromptlabError` for a folder that is no text-to-image pipeline with a UNet, or whose parts are missing or truncated.
    """
    import diffusers
    from diffusers import AutoPipelineForText2Image

    index = check_kind(folder, scheduler)
    files, repair = weight_files(folder), repair_for(folder, "generator")
    for file in files or [folder / "unet" / "diffusion_pytorch_model.safetensors"]:
        check_weights(file, repair)
    variant = "fp16" if any(".fp16" in f.name for f in files) else None
    # The checker and what prepares pictures for it are neither fetched nor needed here, whatever the index lists: `Checker` loads its own.
    unread = dict.fromkeys(("safety_checker", *({"feature_extractor", "image_encoder"} & index.keys())))
    with reading_weights(folder, repair):
        pipe = AutoPipelineForText2Image.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=variant,
            dtype=dtype,
            requires_safety_checker=False,
            **unread,
        )
    for name in {file.parent.name for file in files}:
        check_filled(getattr(pipe, name), [f for f in files if f.parent.name == name], repair)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.enable_slicing()  # one picture at a time through the decoder, whose activations are the largest of all
    return pipe


CHOOSE = "Choose a Stable Diffusion v1, v2, Turbo or XL that draws from words alone."
LONELY = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")  # endings of a whole pipeline in one file


def check_kind(folder, scheduler) -> dict:
    """What `model_index.json` says, once it is a pipeline that draws from words alone and fits the named scheduler; reads settings only.

    Raises `PromptlabError` saying what the folder holds in place of that, and what to do with it.
    """
    repair = repair_for(folder, "generator")
    lonely = [folder] if folder.is_file() else [f for f in sorted(folder.glob("*")) if f.suffix in LONELY]
    if not (folder / "model_index.json").exists() and lonely:
        raise PromptlabError(
            f"{lonely[0]} is a single-file checkpoint, and this course loads folders of diffusers' format. Convert it once, with a network: "
            f"from diffusers import StableDiffusionPipeline; StableDiffusionPipeline.from_single_file({str(lonely[0])!r}).save_pretrained('my-model') "
            "(StableDiffusionXLPipeline for an XL), and name the new folder: dataclasses.replace(preset(), generator='my-model')."
        )
    if not (folder / "model_index.json").exists():
        raise PromptlabError(f"{folder} is no folder of a diffusers pipeline: it has no model_index.json. To repair it: {repair}")
    index = settings(folder / "model_index.json", repair)
    kind = index.get("_class_name", "pipeline")
    has = {part for part, what in index.items() if isinstance(what, list) and what[:1] != [None]}
    if "unet" not in has:
        raise PromptlabError(f"{folder} holds a {kind}, which has no UNet. {CHOOSE}")
    if not {"text_encoder", "tokenizer"} <= has:
        raise PromptlabError(
            f"{folder} holds a {kind} without a first text encoder: a refiner, say, which goes over finished pictures. {CHOOSE}"
        )
    for part in sorted(has & set(sources.PARTS)):
        kinds = {f.suffix for f in (folder / part).glob("*") if not f.name.startswith(".")}
        if ".bin" in kinds and ".safetensors" not in kinds:
            raise PromptlabError(
                f"{folder / part} holds its weights as .bin only, a format that may carry code. Convert them once: from diffusers import DiffusionPipeline; "
                f"DiffusionPipeline.from_pretrained({str(folder)!r}, safety_checker=None).save_pretrained('my-model'), "
                "and name the new folder: dataclasses.replace(preset(), generator='my-model')."
            )
    reads = settings(folder / "unet" / "config.json", repair).get("in_channels", 4)
    makes = settings(folder / "vae" / "config.json", repair).get("latent_channels", 4) if "vae" in has else reads
    if reads != makes:
        use = {9: "inpainting, which needs a picture and a mask", 8: "editing a picture", 5: "drawing from a depth map", 7: "enlarging a picture"}
        raise PromptlabError(
            f"{folder} holds a {kind} whose UNet reads {reads} channels, not the {makes} of text-to-image: it is made for "
            f"{use.get(reads, 'something else')}. {CHOOSE}"
        )
    check_scheduler(scheduler, index.get("scheduler"))
    return index


def settings(file, repair) -> dict:
    """A settings file of a pipeline; raises `PromptlabError` where it is missing or damaged."""
    with reading_weights(file, repair):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no table of settings")
        return found


def check_scheduler(name, own):
    """Raise `PromptlabError` unless diffusers has a scheduler of this name that fits a pipeline whose own is `own`, as the index lists it."""
    import diffusers

    kind = getattr(diffusers, str((own or ["", ""])[1]), None)
    fits = sorted({other.__name__ for other in kind._get_compatibles()} | {kind.__name__, "LCMScheduler"}) if hasattr(kind, "_get_compatibles") else []
    if name and fits and name not in fits:
        close = difflib.get_close_matches(name, fits, 1, 0.4)
        meant = f" Do you mean {close[0]!r}?" if close else ""
        raise PromptlabError(f"{name!r} is no scheduler that fits this pipeline.{meant} These do: {', '.join(fits)}; '' is its own.")


def add_adapter(pipe, found) -> list:
    """Add an adapter (LoRA) into the weights of a pipeline; returns its file.

    Raises `PromptlabError` where it is missing, damaged, or made for another model.
    """
    file, repair = found if found.is_file() else found / "pytorch_lora_weights.safetensors", repair_for(found, "generator_lora")
    check_weights(file, repair)
    with reading_weights(file, repair):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
        if not pipe.get_list_adapters():
            raise PromptlabError(f"{file} changes nothing in this pipeline. Name the adapter that was made for it.")
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return [file]


def check_filled(model, files, repair):
    """Raise `PromptlabError` unless the files hold as many numbers as the model: the libraries leave out or make up what is missing.

    Names are not compared, as diffusers and transformers still read those of older versions; a few numbers more are allowed,
    such as the positions that old text encoders stored.
    """
    stored, needed = sum(map(stored_numbers, files)), sum(p.numel() for p in model.parameters())
    if not needed <= stored < 1.01 * needed + 1000 or any(p.is_meta for p in model.parameters()):
        raise PromptlabError(f"{files[0]} holds {stored:,} numbers, but a {type(model).__name__} needs {needed:,}. To repair it: {repair}")


class Checker:
    """Stable Diffusion's safety checker: pictures in, the same pictures out, black where it objects."""

    def __init__(self, source, device, dtype):
        from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        folder = sources.fetch(source, sources.checker_files)
        repair = repair_for(folder / "safety_checker", "safety")
        names = [f"safety_checker/{f.name}" for f in check_weights(folder / "safety_checker", repair)]
        files = [folder / name for name in sources.weight_files(names)]
        variant = "fp16" if any(".fp16" in f.name for f in files) else None
        with reading_weights(folder / "safety_checker", repair):
            self.model = StableDiffusionSafetyChecker.from_pretrained(
                folder / "safety_checker", local_files_only=True, use_safetensors=True, variant=variant, dtype=dtype
            ).to(device)
            check_filled(self.model, files, repair)
            self.prepare = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)

    def __call__(self, images):
        """Check uint8 (n, height, width, 3); says how many it blacked out."""
        import torch

        seen = self.prepare(list(images), return_tensors="pt").pixel_values.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            images, objected = self.model(images=images.copy(), clip_input=seen)
        if any(objected):
            print(f"The safety checker blacked out {sum(objected)} of {len(images)} pictures: another seed or other words may help.")
        return images
