"""How close drawn pictures come to true ones: a prompt of the pocket world has a handful of true pictures, and all are known."""

import numpy as np

from promptlab.pocket.captions import BACKGROUND_WORDS, MEDIUM_WORDS, content
from promptlab.pocket.pairs import render_all
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, MEDIA, Picture, luminance, variants
from promptlab.pocket.subjects import SUBJECTS, with_article
from promptlab.runtime import device

SEEDS = 600_000  # where the seeds of these pictures begin; nothing else uses them


def ssim(a, b):
    """Structural similarity of pictures, 1 where they are equal.

    Args: `a`, `b` uint8 (n, h, w, 3). Returns (n,), the mean over pixels of the grey pictures, windows a Gaussian of standard
    deviation 1.5 on 11 x 11 pixels, borders left out. Source: Wang, Bovik, Sheikh and Simoncelli 2004.
    """
    import torch
    import torch.nn.functional as F

    window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    window = (window / window.sum()).to(device())
    smooth = lambda z: F.conv2d(F.conv2d(z, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))  # noqa: E731
    x, y = (torch.from_numpy(luminance(p.astype(np.float32))).to(device()).double()[:, None] for p in (a, b))
    mx, my = smooth(x), smooth(y)
    vx, vy, both = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return value.mean((1, 2, 3)).cpu().numpy()


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures `a` against `b`, both uint8 (n, h, w, 3); (n,)."""
    error = ((a.astype(np.float32) - b) ** 2).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-3))


def prompts_of(group, count=None, seed=7):
    """Prompts of one group and what they mean: lists of texts and of `Picture`.

    `plain` asks for every noun twice, the others for `count` contents by chance: `styled` a medium and a background, `coloured`, `pairs`.
    """
    rng = np.random.default_rng(seed)
    pick = lambda values: str(rng.choice(list(values)))  # noqa: E731
    if group == "plain":
        meant = [Picture((s,)) for s in SUBJECTS for _ in range(2)]
        return [content(p) for p in meant], meant
    if group == "styled":
        meant = [Picture((pick(SUBJECTS),), None, pick(MEDIA), pick(BACKGROUNDS)) for _ in range(count or 300)]
        words = [f"{MEDIUM_WORDS[p.medium][0]}, {BACKGROUND_WORDS[p.background][0]}" for p in meant]
        return [f"{content(p)}, {w}" for p, w in zip(meant, words, strict=True)], meant
    if group == "coloured":
        meant = [Picture((pick(SUBJECTS),), pick(COLOURS)) for _ in range(count or 100)]
        return [content(p) for p in meant], meant
    meant = [Picture(tuple(map(str, rng.choice(SUBJECTS, 2, replace=False)))) for _ in range(count or 100)]
    return [content(p) for p in meant], meant


GROUPS = ("plain", "styled", "coloured", "pairs")


def nearest(images, meant):
    """Of each drawn picture the similarity to its nearest true one, the ratio in dB likewise, and that true picture: (n,), (n,), (n, h, w, 3)."""
    truth = render_all([v for p in meant for v in variants(p)]).reshape(len(meant), -1, *images.shape[1:])
    alike = np.stack([ssim(images, truth[:, i]) for i in range(truth.shape[1])], 1)
    ratio = np.stack([psnr(images, truth[:, i]) for i in range(truth.shape[1])], 1)
    return alike.max(1), ratio.max(1), truth[np.arange(len(meant)), alike.argmax(1)]


def worst_tenth(values, meant):
    """The mean over the worst tenth of nouns, each the mean of its pictures."""
    by_noun = {}
    for value, p in zip(values, meant, strict=True):
        by_noun.setdefault(p.subjects[0], []).append(value)
    means = np.sort([np.mean(v) for v in by_noun.values()])
    return means[: max(1, len(means) // 10)].mean()


def measure(generator, vae=None, groups=GROUPS, count=None, **settings):
    """Fidelity by group: a dict of dicts with `ssim`, `psnr`, `worst` (tenth of nouns), and the autoencoder's own on the same pictures.

    `settings` go to `generator.generate` (steps, guidance). Without `vae` the autoencoder is not asked.
    """
    out = {}
    for group in groups:
        prompts, meant = prompts_of(group, count)
        images = generator.generate(prompts, range(SEEDS, SEEDS + len(prompts)), progress=True, **settings)
        alike, ratio, truth = nearest(images, meant)
        out[group] = {"ssim": alike.mean(), "psnr": ratio.mean(), "worst": worst_tenth(alike, meant), "n": len(meant)}
        if vae is not None:
            again = reconstruct(vae, truth)
            out[group] |= {"autoencoder": ssim(again, truth).mean(), "autoencoder psnr": psnr(again, truth).mean()}
    return out


def nameless(generator, count=100, seed=8):
    """Pictures in which a person finds nothing to name, `count` each: a dict of uint8 (count, 128, 128, 3) arrays.

    The mean of two drawn nouns; patches of 16 pixels shuffled; a blur of 8 pixels; what the denoiser answers in one step from noise
    to the empty prompt. (With a prompt that one step already shows the thing: there is no mystery left but mirroring.)
    """
    import torch
    from scipy import ndimage as nd

    rng, first = np.random.default_rng(seed), SEEDS + 10_000
    nouns = [str(n) for n in rng.choice(SUBJECTS, 2 * count)]
    drawn = generator.generate([with_article(n) for n in nouns], range(first, first + 2 * count), progress=True)
    a, b = drawn[:count], drawn[count:]
    patches = a.reshape(count, 8, 16, 8, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(count, 64, 16, 16, 3)
    mixed = np.stack([p[rng.permutation(64)] for p in patches]).reshape(count, 8, 8, 16, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(a.shape)
    unet, scheduler, vae = generator.pipe.unet, generator.pipe.scheduler, generator.pipe.vae
    signal, sigma = scheduler.alphas_cumprod[900].sqrt(), (1 - scheduler.alphas_cumprod[900]).sqrt()
    guesses = []
    with torch.inference_mode():
        for i in range(0, count, generator.batch):
            some = nouns[i : min(count, i + generator.batch)]
            x = torch.randn(len(some), 16, 16, 16, generator=torch.Generator().manual_seed(first + i)).to(unet.device)
            states = generator.encode([""] * len(some))
            v = unet(x.to(unet.dtype), 900, encoder_hidden_states=states).sample.float()
            y = vae.decode((signal * x - sigma * v) / vae.config.scaling_factor).sample.clamp(-1, 1)
            guesses.append(((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return {
        "the mean of two": ((a.astype(np.uint16) + b) // 2).astype(np.uint8), "patches shuffled": mixed,
        "a blur of 8 pixels": np.stack([nd.gaussian_filter(x, (8, 8, 0)) for x in a]), "one step from noise": np.concatenate(guesses),
    }  # fmt: skip


def reconstruct(vae, images, batch=50):
    """What the autoencoder makes of pictures, uint8 (n, h, w, 3)."""
    import torch

    from promptlab.pocket.autoencoder import to_tensor

    parts = []
    with torch.inference_mode():
        for i in range(0, len(images), batch):
            y = vae.decoder(vae.encoder(to_tensor(images[i : i + batch]).to(vae.device))).clamp(-1, 1)
            parts.append(((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)
