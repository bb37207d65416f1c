"""Pictures to 16 x 16 x 16 latents and back, with diffusers' AutoencoderTiny."""

import json

import torch

from promptlab.pocket.training import batch_for, mixed, on_device, train
from promptlab.runtime import bar, device

BOX, POLISH = 0.14, 0.06  # shares of the build's time
BATCH = {"cpu": 24, "cuda": 64}


def new_autoencoder():
    """A fresh f8 autoencoder: (n, 3, 128, 128) in -1..1 to (n, 16, 16, 16) and back."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(48, 48, 48, 48),  # wider than the decoder: drawing never encodes
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 0, 1, 2),
        num_decoder_blocks=(2, 1, 1, 0),
        latent_channels=16,
    )


def to_tensor(images):
    """uint8 (n, h, w, 3), an array or a tensor, to float (n, 3, h, w) in -1..1 on the device."""
    return torch.as_tensor(images).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit(images, folder, steps=None):
    """Train on rendered pictures (n, 128, 128, 3) uint8: L1 + mean squared error, a little latent noise."""
    torch.manual_seed(0)
    vae, images = new_autoencoder(), on_device(images)

    def loss_of(indices):
        x = to_tensor(images[indices])
        z = vae.encoder(x)
        y = vae.decoder(z + 0.05 * z.detach().std() * torch.randn_like(z)).float()
        return (y - x).abs().mean() + 2 * (y - x).pow(2).mean() + 0.001 * z.float().pow(2).mean()

    return train("autoencoder", folder, BOX, {"vae": vae}, loss_of, 2e-3, batch_for(BATCH), len(images), ema=("vae",), steps=steps)["vae"]


def polish(vae, images, folder, steps=None):
    """Train only the decoder longer, for squared error: the latents, and so the denoiser, stay as they are.

    Stable Diffusion's own autoencoder was finished this way (stabilityai/sd-vae-ft-mse). A drawn latent is never exact, so
    noise of 0 to .2 of the latents' standard deviation is what the decoder learns to look through.
    """
    vae.to(device()).requires_grad_(False)
    vae.decoder.requires_grad_(True)
    images = on_device(images)

    def loss_of(indices):
        x = to_tensor(images[indices])
        with torch.no_grad():
            z = vae.encoder(x)
        amount = 0.2 * torch.rand(len(z), 1, 1, 1, device=z.device) ** 2
        y = vae.decoder(z + amount * z.std() * torch.randn_like(z)).float()
        return 4 * (y - x).pow(2).mean() + 0.2 * (y - x).abs().mean()

    vae.decoder = train(
        "decoder", folder, POLISH, {"decoder": vae.decoder}, loss_of, 1e-3, batch_for(BATCH), len(images), ema=("decoder",), steps=steps
    )["decoder"]
    return vae


@torch.no_grad()
def encode_all(vae, images, factor_file, batch=200):
    """Latents of all pictures as float16 (n, 16, 16, 16), scaled to standard deviation 1; the factor goes to `factor_file`."""
    out = torch.empty(len(images), 16, 16, 16, dtype=torch.float16)
    for i in bar(range(0, len(images), batch), desc="latents"):
        with mixed():
            out[i : i + batch] = vae.encoder(to_tensor(images[i : i + batch])).half().cpu()
    factor = 1 / out[:5000].float().std().item()
    factor_file.write_text(json.dumps({"scaling_factor": factor}))
    return out.mul_(factor)


@torch.no_grad()
def psnr(vae, images, batch=50):
    """Peak signal-to-noise ratio in dB of reconstructions, averaged over pictures."""
    values = []
    for i in range(0, len(images), batch):
        x = to_tensor(images[i : i + batch])
        y = vae.decoder(vae.encoder(x)).clamp(-1, 1)
        values.append(10 * torch.log10(4 / (y - x).pow(2).mean((1, 2, 3))))
    return torch.cat(values).mean().item()
