"""The denoiser's training target."""

import torch

from promptlab.pocket.unet import exact_mean, noise_levels


def test_the_exact_mean_is_the_conditional_mean():
    """What is left of the latent has mean zero whatever was seen: uncorrelated with the noisy latent and with the answer."""
    torch.manual_seed(0)
    levels, latents, n = noise_levels(), torch.randn(1, 3, 2, 2, 2), 100_000
    for t in (100, 500, 900):
        signal, sigma = levels[t].sqrt().view(1, 1, 1, 1), (1 - levels[t]).sqrt().view(1, 1, 1, 1)
        which = torch.randint(3, (n,))
        noisy = signal * latents[0, which] + sigma * torch.randn(n, 2, 2, 2)
        mean = exact_mean(noisy, latents.expand(n, -1, -1, -1, -1), signal.expand(n, 1, 1, 1), sigma.expand(n, 1, 1, 1))
        left = latents[0, which] - mean
        for other in (torch.ones_like(mean), mean, noisy):
            assert (left * other).mean().abs() < 0.01, t


def test_with_one_meaning_the_mean_is_it_and_with_little_noise_the_one_drawn():
    latents = torch.randn(4, 3, 2, 2, 2)
    one = torch.ones(4, 1, 1, 1)
    assert torch.equal(exact_mean(torch.randn(4, 2, 2, 2), latents[:, :1], one, one), latents[:, 0])
    close = exact_mean(latents[:, 1] + 0.01, latents, one, 0.01 * one)
    torch.testing.assert_close(close, latents[:, 1])
