"""The denoiser, diffusers' UNet2DConditionModel over latents, with the CLIP's text tower as text encoder."""

import json

import torch
import torch.nn.functional as F

from promptlab.pocket.captions import claim_as_people
from promptlab.pocket.clip import CONTEXT, captions_for, text_encoder_from, tokenize
from promptlab.pocket.pairs import often
from promptlab.pocket.training import batch_for, on_device, train
from promptlab.runtime import device, hardware

BOX, ROUNDS, RATE = 0.48, 6, 2e-3  # share of the build's time, captions of each specification, step size
BATCH = {"cpu": 96, "cuda": 512}  # Muon costs the same for any batch: half of a step at 32, a tenth at 96
# Half of the pictures get a time U ** CROWDING, crowded to high noise, where only the words can tell what it will be; the
# others a uniform one: with next to nothing at low noise an oil painting had no brush strokes.
CROWDING, UNIFORM = 1 / 2, 1 / 2
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def new_unet(width):
    """A fresh denoiser for (n, 16, 16, 16) latents; `width` is that of the text states. Attention only where it is cheap: at 4 x 4 and 8 x 8."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=16, out_channels=16, block_out_channels=(96, 160, 224), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, norm_num_groups=16,
        attention_head_dim=2,  # diffusers reads this as the number of heads
        addition_embed_type="text", addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


def noise_levels():
    """The cumulative signal levels (1000,) of the training schedule."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**SCHEDULE).alphas_cumprod


def exact_mean(noisy, latents, signal, sigma):
    """The mean of the clean latents given noisy ones: what a perfect denoiser answers.

    Args: `noisy` (n, c, h, w) = signal * one of the `latents` + sigma * noise; `latents` (n, v, c, h, w), all that the prompt may
    mean, each as likely; `signal` and `sigma` (n, 1, 1, 1). Returns (n, c, h, w). By Bayes' rule a softmax over the v
    distances; regressing on it instead of on the one latent that was drawn is unbiased, and less noisy (Xu et al. 2023).
    """
    far = (noisy[:, None] - signal[:, None] * latents).pow(2).flatten(2).sum(2)
    weights = (-far / (2 * sigma.view(-1, 1) ** 2)).softmax(1)
    return (weights[:, :, None, None, None] * latents).sum(1)


def fit(specs, latents, clip, tokenizer, folder, steps=None):
    """Train on the latents (specifications, variants, 16, 16, 16) float16, standard deviation 1; the averaged UNet and text encoder.

    The target is v-prediction (Salimans and Ho 2022) of the exact mean. One caption in ten is empty, which classifier-free
    guidance (Ho and Salimans 2021) needs; there, anything may be meant, so the one latent that was drawn is the target.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(0)
    where, encoder = device(), text_encoder_from(clip)
    unet, levels = new_unet(encoder.config.hidden_size), noise_levels().to(where)
    if where.type == "cpu":  # the fused attention kernel's backward pass is slow at these sizes: written out, a step takes a sixth less
        unet.set_attn_processor(AttnProcessor())
        encoder.set_attn_implementation("eager")
    rounds = [captions_for(specs, 60 + r, claim_as_people, noisy=0.15)[1] for r in range(ROUNDS)]
    tokens = torch.cat([tokenize(tokenizer, texts) for texts in rounds]).short().to(where)
    empty, order = tokenize(tokenizer, [""])[0].to(where), on_device(often(specs))
    latents, variants = latents.to(where), latents.shape[1]

    def loss_of(indices):
        n = len(indices)
        spec = order[indices % len(order)]
        ids = tokens[torch.randint(ROUNDS, (n,), device=where) * len(specs) + spec].long()
        nothing = torch.rand(n, device=where) < 0.1
        ids = torch.where(nothing[:, None], empty, ids)
        meant = latents[spec].float()
        z = meant[torch.arange(n, device=where), torch.randint(variants, (n,), device=where)]
        noise = torch.randn_like(z)
        power = 1 - (1 - CROWDING) * (torch.rand(n, device=where) >= UNIFORM).float()
        t = (len(levels) * torch.rand(n, device=where) ** power).long().clamp(max=len(levels) - 1)
        signal, sigma = levels[t].sqrt().view(-1, 1, 1, 1), (1 - levels[t]).sqrt().view(-1, 1, 1, 1)
        noisy = signal * z + sigma * noise
        mean = torch.where(nothing.view(-1, 1, 1, 1), z, exact_mean(noisy, meant, signal, sigma))
        states = encoder(ids).last_hidden_state
        predicted = unet(noisy, t, encoder_hidden_states=states).sample
        return F.mse_loss(predicted.float(), signal * (noisy - signal * mean) / sigma - sigma * mean)

    modules = {"unet": unet, "text_encoder": encoder}
    done = train(
        "unet", folder, BOX, modules, loss_of, RATE, batch_for(BATCH), len(order), ema=tuple(modules), lr_scale={"text_encoder": 0.2},
        muon=("unet",) if hardware().dtype == torch.bfloat16 else (),  # it multiplies in bfloat16: elsewhere AdamW is far faster
        steps=steps,
    )  # fmt: skip
    if where.type == "cpu":
        done["unet"].set_default_attn_processor()
        done["text_encoder"].set_attn_implementation("sdpa")
    return done["unet"], done["text_encoder"]


def save(unet, text_encoder, vae, scaling_factor, tokenizer, folder):
    """Write a folder that plain `StableDiffusionPipeline.from_pretrained` loads, weights as fp16 safetensors."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, algorithm_type="dpmsolver++", solver_order=2, steps_offset=1)
    vae.register_to_config(scaling_factor=scaling_factor)
    tokenizer.model_max_length = CONTEXT
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )  # fmt: skip
    parts = (unet, text_encoder, vae)  # each by itself: a whole pipeline warns that a CPU cannot draw in half precision
    for part in parts:
        part.half()
    pipe.save_pretrained(folder)
    for part in parts:
        part.float()
    # transformers would read the half precision of the file back, diffusers would not, and the two would not fit together.
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2))
