"""Any text-to-image pipeline of diffusers that has a UNet, behind the same few methods as the pocket world's generator."""

import numpy as np

from promptlab.models import sources
from promptlab.models.memory import check_fits
from promptlab.models.pocket_generator import HALVED, Generator, randomness
from promptlab.models.sources import repair_for
from promptlab.models.weights import check_weights, file_hash, reading_weights, stored_numbers
from promptlab.runtime import PromptlabError, hardware


class Diffusion(Generator):
    """A pipeline loaded by `AutoPipelineForText2Image` and drawn by its own call: SD v1-4, its v1-5 mirror, SD-Turbo, SDXL and their kin.

    `dtype` is the number format of all parts, by default what `hardware()` found to be fast. Raises `PromptlabError` for a
    hub id that cannot be had, a folder that holds something else, and a GPU that is too small.
    """

    def __init__(self, preset, dtype=None):
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.set_verbosity_error(), logging.disable_progress_bar(), transformers_logging.disable_progress_bar()
        check_fits(preset)
        self.folder, where = sources.fetch(preset.generator, sources.pipeline_files), hardware()
        self.steps, self.guidance, self._size = preset.steps, preset.guidance, preset.image_size
        self.batch, dtype = HALVED.get(str(self.folder), preset.batch), dtype or where.dtype
        self.files = weight_files(self.folder)
        self.pipe = load_pipeline(self.folder, preset.scheduler, dtype).to(where.device, dtype)
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

    if not (folder / "model_index.json").exists():
        raise PromptlabError(
            f"{folder} is no folder of a diffusers pipeline: it has no model_index.json. To repair it: {repair_for(folder, 'generator')}"
        )
    files, repair = weight_files(folder), repair_for(folder, "generator")
    for file in files or [folder / "unet" / "diffusion_pytorch_model.safetensors"]:
        check_weights(file, repair)
    variant = "fp16" if any(".fp16" in f.name for f in files) else None
    with reading_weights(folder, repair):
        pipe = AutoPipelineForText2Image.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant=variant,
            dtype=dtype,
            safety_checker=None,
            requires_safety_checker=False,
        )
    for name in {file.parent.name for file in files}:
        check_filled(getattr(pipe, name), [f for f in files if f.parent.name == name], repair)
    if getattr(pipe, "unet", None) is None:
        raise PromptlabError(f"{folder} holds a {type(pipe).__name__}, which has no UNet. Choose a Stable Diffusion v1, v2, Turbo or XL.")
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.enable_slicing()  # one picture at a time through the decoder, whose activations are the largest of all
    return pipe


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
