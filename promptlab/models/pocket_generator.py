"""Prompts to pictures: a diffusers Stable Diffusion drawn in batches, with one seed per picture."""

import hashlib
import json
import operator
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np

from promptlab.models.weights import check_match, check_weights, file_hash, reading_weights
from promptlab.prompts import clean_prompt
from promptlab.runtime import PromptlabError, bar, first_line, free_memory, hardware

HALVED = {}  # batch sizes that proved to fit, by generator: the next one loaded in this process starts with them


def check_seed(seed) -> int:
    """A seed as an int. Raises `PromptlabError` unless it is a whole number from 0 to 2**63 - 1."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise PromptlabError(f"The seed {seed!r:.60} is no whole number from 0 to 2**63 - 1. Give another, such as 7.")
    return number


def randomness(seed: int):
    """PyTorch's random numbers on the CPU for a seed, the same on every device and in every batch."""
    import torch

    # The generator reads 32 bits of its seed: without this, a seed above them would draw the picture of a small one.
    if seed >= 2**32:
        seed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
    return torch.Generator().manual_seed(seed)


def named(scheduler) -> str:
    """A scheduler's class and a short hash of its settings, also of those that somebody changed by hand."""
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    words = json.dumps(settings, sort_keys=True, default=lambda value: value.tolist() if hasattr(value, "tolist") else repr(value))
    return f"{type(scheduler).__name__} {hashlib.sha256(words.encode()).hexdigest()[:8]}"


class Generator:
    """A Stable Diffusion pipeline held in memory, with the preset's number of steps and guidance scale as defaults.

    `dtype` is the number format of text encoder and UNet, by default what `hardware()` found to be fast.
    """

    def __init__(self, folder, steps=2, guidance=1.0, batch=32, dtype=None):
        import torch
        from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
        from diffusers.utils import logging
        from transformers import CLIPTextModel
        from transformers.utils import logging as transformers_logging

        logging.set_verbosity_error()  # the pipeline warns about AutoencoderTiny, which it draws with all the same
        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        self.folder, self.steps, self.guidance = Path(folder), steps, guidance
        self.batch = HALVED.get(str(self.folder), batch)
        kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderTiny, "text_encoder": CLIPTextModel}
        files = {part: self.folder / part / ("model" if part == "text_encoder" else "diffusion_pytorch_model") for part in kinds}
        files = {part: path.with_suffix(".safetensors") for part, path in files.items()}
        parts, where = {}, hardware()
        for file in files.values():
            check_weights(file)
        # A short hash of weights and settings, part of every cache key: of what is loaded here, not of what lies there later.
        self.fingerprint = file_hash([*files.values(), *sorted(self.folder.rglob("*.json"))])
        for part, kind in kinds.items():  # one by one, so that an error can name the file
            with reading_weights(files[part]):
                parts[part] = kind.from_pretrained(self.folder / part, local_files_only=True)
            check_match(parts[part], files[part])
        with reading_weights(self.folder):
            self.pipe = StableDiffusionPipeline.from_pretrained(self.folder, local_files_only=True, safety_checker=None, **parts)
        self.pipe.to(where.device, dtype or where.dtype)
        # Half precision shows as bands in smooth skies; with the channels last, float32 decodes in two thirds of the time.
        self.pipe.vae.to(dtype=torch.float32, memory_format=torch.channels_last)
        self.pipe.set_progress_bar_config(disable=True)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    def key(self, prompt, seed, steps=None, guidance=None):
        """Everything a picture depends on, as a tuple."""
        p, weights = self.pipe, next(self.pipe.unet.parameters())  # p.unet.dtype looks at all of them: a millisecond for each picture
        return (self.fingerprint, clean_prompt(prompt), check_seed(seed), steps or self.steps, self.guidance if guidance is None else guidance,
                named(p.scheduler), self.size, str(weights.dtype))  # fmt: skip

    def encode(self, prompts):
        """Text states (n, tokens, width) of cleaned prompts; warns once where a prompt is longer than the encoder reads."""
        import torch

        tokens = self.tokens(prompts)
        with torch.no_grad():
            return self.pipe.text_encoder(tokens.to(self.pipe.device)).last_hidden_state

    def tokens(self, prompts):
        """Token ids (n, as many as the text encoder reads); warns once where that cuts a prompt."""
        tokenizer = self.pipe.tokenizer
        longest = tokenizer.model_max_length
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt").input_ids
        # A full row that lost its text is only seen by asking for the untruncated length; those rows are few.
        full = [p for p, row in zip(prompts, tokens, strict=True) if row[-2] != tokenizer.pad_token_id]
        cut = [p for p in full if len(tokenizer(p[: 40 * longest]).input_ids) > longest]
        if cut:
            warnings.warn(
                f"The text encoder reads {longest} tokens; the end of {len(cut)} longer prompt(s) is ignored, such as {cut[0][:60]!r}...",
                stacklevel=4,
            )
        return tokens

    def generate(self, prompts, seeds, steps=None, guidance=None, progress=False):
        """Draw one picture per (prompt, seed).

        Args: `prompts` and `seeds` of equal length; `steps` denoising steps; `guidance` the classifier-free guidance
        scale; `progress` shows a bar. Returns uint8 (n, height, width, 3). A picture depends on its own prompt and seed
        and not on its neighbours in the batch, beyond float rounding. Raises `PromptlabError` for an empty prompt, a seed
        that is no whole number from 0 to 2**63 - 1, or lists of different length. Source: Ho and Salimans 2021 (guidance), Lu et al. 2022 (DPM-Solver++).
        """
        import torch

        if isinstance(prompts, str) or len(prompts) != len(seeds):
            raise PromptlabError(f"generate() takes as many seeds as prompts, in two lists: got {prompts!r:.60} and {seeds!r:.60}.")
        prompts, seeds, steps = [clean_prompt(p) for p in prompts], [check_seed(s) for s in seeds], steps or self.steps
        guidance = self.guidance if guidance is None else guidance
        out, done = (
            np.empty((len(prompts), self.size, self.size, 3), np.uint8),
            bar(total=len(prompts), desc="drawing", disable=not progress),
        )
        i = 0
        while i < len(prompts):
            now, trouble = slice(i, i + self.batch), None
            try:
                with torch.inference_mode():
                    out[now] = self._draw(prompts[now], seeds[now], steps, guidance)
            except torch.OutOfMemoryError as error:
                trouble = first_line(error)
            if trouble:  # out of the except clause, as the error keeps what filled the memory
                self._halve(trouble)
                continue
            done.update(len(prompts[now]))
            i = now.stop
        done.close()
        return out

    def _halve(self, trouble):
        """Draw half as many pictures at once from now on, and say so; once, as a second time hardly helps."""
        free_memory()
        if str(self.folder) in HALVED or self.batch == 1:
            raise PromptlabError(
                f"Drawing {self.batch} pictures at once needs more GPU memory than is free ({trouble}). "
                f"Shut down other notebooks' kernels, or set a smaller batch: dataclasses.replace(preset(), batch={max(1, self.batch // 2)})."
            )
        self.batch = HALVED[str(self.folder)] = self.batch // 2
        print(f"Out of GPU memory: from now on {self.batch} pictures are drawn at once, half as many as before.")

    def _draw(self, prompts, seeds, steps, guidance):
        """One batch: noise, `steps` guided denoising steps, decoder."""
        import torch

        unet, vae = self.pipe.unet, self.pipe.vae
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)  # it has state: a fresh one per batch
        scheduler.set_timesteps(steps, device=unet.device)
        shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        # The noise of a seed is drawn on the CPU, so that it is the same on every device and in every batch.
        noise = [torch.randn(shape, generator=randomness(s)) for s in seeds]
        x = torch.stack(noise).to(unet.device) * scheduler.init_noise_sigma  # float32: rounding must not add up over steps
        words, unique = list(dict.fromkeys(prompts)), self.encode(list(dict.fromkeys(prompts)))
        states = unique[[words.index(p) for p in prompts]]
        if guidance > 1:
            states = torch.cat([self._empty.expand(len(x), -1, -1), states])
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x, x]) if guidance > 1 else x, t)
            predicted = unet(both.to(unet.dtype), t, encoder_hidden_states=states).sample.float()
            if guidance > 1:
                without, given = predicted.chunk(2)
                predicted = without + guidance * (given - without)
            x = scheduler.step(predicted, t, x).prev_sample
        images = vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1)
        return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    @cached_property
    def _empty(self):
        return self.encode([""])
