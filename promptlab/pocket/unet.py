"""Stage (c): the denoiser, diffusers' UNet2DConditionModel over latents, with the CLIP's text tower as text encoder."""

import json

import numpy as np
import torch
import torch.nn.functional as F

from promptlab.pocket.clip import CONTEXT, captions_for, claim_as_people, text_encoder_from, tokenize
from promptlab.pocket.pairs import pairs_twice
from promptlab.pocket.training import train
from promptlab.runtime import device, hardware

STEPS, BATCH, ROUNDS = 21_500, 32, 2
# Two pictures of three get a time U ** CROWDING: what a word looks like is learned where the picture is nearly gone and only
# the text can tell (a wrong subject costs 0.23 in the loss at .85 of the time, 0.01 at .3, measured). The third is uniform:
# with next to nothing at low noise an oil painting had no brush strokes.
CROWDING, UNIFORM = 1 / 3, 1 / 3
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def new_unet(width):
    """A fresh denoiser for (n, 16, 16, 16) latents; `width` is that of the text states. Attention only where it is cheap: at 4 x 4, and at 8 x 8 on the way up."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=16, out_channels=16, block_out_channels=(48, 128, 192), layers_per_block=1,
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


def fit(pictures, latents, clip, tokenizer, folder, steps=STEPS):
    """Train on latents (n, 16, 16, 16) float16 with standard deviation 1; returns the averaged UNet and text encoder.

    The target is v-prediction (Salimans and Ho 2022): signal * noise - sigma * latent. One caption in ten is empty,
    which classifier-free guidance (Ho and Salimans 2021) needs.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(0)
    encoder = text_encoder_from(clip)
    unet, levels = new_unet(encoder.config.hidden_size), noise_levels().to(device())
    # On a CPU the fused attention kernel's backward pass is slow at these sizes: written out, a step takes a sixth less.
    unet.set_attn_processor(AttnProcessor())
    encoder.set_attn_implementation("eager")
    tokens = torch.cat([tokenize(tokenizer, captions_for(pictures, 60 + r, claim_as_people)[1]) for r in range(ROUNDS)]).short()
    empty, order = tokenize(tokenizer, [""])[0].short(), pairs_twice(pictures)

    def loss_of(indices):
        round_, which = indices // len(order), order[indices % len(order)]
        ids = tokens[round_ * len(pictures) + which]
        ids[np.random.default_rng(indices).random(len(ids)) < 0.1] = empty
        z = latents[which].to(device()).float()
        noise = torch.randn_like(z)
        power = torch.where(torch.rand(len(z), device=z.device) < UNIFORM, 1.0, CROWDING)
        t = (len(levels) * torch.rand(len(z), device=z.device) ** power).long()
        signal, sigma = levels[t].sqrt().view(-1, 1, 1, 1), (1 - levels[t]).sqrt().view(-1, 1, 1, 1)
        states = encoder(ids.long().to(device())).last_hidden_state
        predicted = unet(signal * z + sigma * noise, t, encoder_hidden_states=states).sample
        return F.mse_loss(predicted.float(), signal * noise - sigma * z)

    modules = {"unet": unet, "text_encoder": encoder}
    done = train(
        "unet",
        folder,
        steps,
        modules,
        loss_of,
        2e-3,
        BATCH,
        ROUNDS * len(order),
        ema=tuple(modules),
        lr_scale={"text_encoder": 0.2},
        log=folder / "log.txt",
        muon=("unet",) if hardware().dtype == torch.bfloat16 else (),  # it multiplies in bfloat16: elsewhere AdamW is far faster
    )
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
