"""How the pocket world looks: a subject, a medium, a background and some light, painted with numpy at 128 x 128.

Every texture is drawn once from a fixed seed: noise that changes from picture to picture would cost the autoencoder
its whole budget. What does vary without being named in a prompt is small and countable (mirrored or not, three variants
of each background), so that a prompt still has several pictures, as in Stable Diffusion, and all of them are known.
"""

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from scipy import ndimage as nd

from promptlab.pocket.subjects import glyph

SIZE = 128
MEDIA = ("photo", "3d render", "pixel art", "pencil sketch", "watercolor", "oil painting", "neon", "stained glass", "silhouette")
BACKGROUNDS = ("plain", "studio", "sunset", "night", "forest", "ocean", "snow")
EFFECTS = ("vivid", "detailed", "dramatic", "soft", "warm", "muted", "blurry", "overexposed", "black and white")
HARMFUL = frozenset(EFFECTS[5:])
COLOURS = {"red": (.86, .10, .10), "yellow": (.96, .80, .08), "green": (.12, .66, .20), "blue": (.12, .36, .92),
           "purple": (.50, .16, .78), "pink": (1.0, .48, .74)}  # fmt: skip
VARIANTS = 3


@dataclass(frozen=True)
class Picture:
    """What is in one picture. `subjects` holds one noun or two, left to right; the last two fields no prompt names."""

    subjects: tuple[str, ...]
    colour: str | None = None
    medium: str = "photo"
    background: str = "plain"
    effects: tuple[str, ...] = ()
    mirrored: bool = False
    variant: int = 0


def variants(picture: Picture) -> list[Picture]:
    """All pictures that one wording may mean: mirrored or not, in each variant of the background, always in this order."""
    return [replace(picture, mirrored=m, variant=v) for m in (False, True) for v in range(VARIANTS)]


def blur(x, sigma):
    """Gaussian blur over height and width, never over channels."""
    return nd.gaussian_filter(x, (sigma, sigma, 0) if x.ndim == 3 else sigma, mode="nearest")


def luminance(x):
    """Rec. 601 luma of an (..., 3) array in 0-1."""
    return x @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def saturate(x, amount):
    """Move colours away from (amount > 1) or towards (amount < 1) their grey."""
    grey = luminance(x)[..., None]
    return grey + amount * (x - grey)


def noise(seed, sigma):
    """One fixed smooth texture with mean 0 and standard deviation 1."""
    x = nd.gaussian_filter(np.random.default_rng(seed).standard_normal((SIZE, SIZE)), sigma, mode="wrap")
    return ((x - x.mean()) / x.std()).astype(np.float32)


@cache
def textures():
    """Everything that is the same in every picture: paper, brush strokes, glass cells and a grid."""
    rng = np.random.default_rng(5)
    stroke = nd.gaussian_filter(rng.standard_normal((SIZE, SIZE)), (0.6, 4), mode="wrap")
    stroke = nd.rotate(np.tile(stroke, (2, 2)), 25, reshape=False)[64:192, 64:192]
    grid = np.stack(np.meshgrid(np.arange(17), np.arange(17), indexing="ij"), -1).reshape(-1, 2)
    points = grid * 7.6 + 3 + rng.uniform(-2.4, 2.4, grid.shape)
    yx = np.stack(np.mgrid[0:SIZE, 0:SIZE], -1).reshape(-1, 1, 2)
    near = np.sort(((yx - points) ** 2).sum(-1) ** 0.5, 1)[:, :2]
    cells = ((yx - points) ** 2).sum(-1).argmin(1).reshape(SIZE, SIZE)
    return {
        "paper": noise(1, 1.2),
        "wash": noise(2, 9),
        "stroke": (stroke / stroke.std()).astype(np.float32),
        "cells": cells,
        "lead": np.clip((near[:, 1] - near[:, 0]).reshape(SIZE, SIZE) / 1.6, 0, 1).astype(np.float32)[..., None],
        "y": np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None],
        "r": np.hypot(*np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]).astype(np.float32)[..., None],
    }


def ramp(stops, at):
    """Blend a list of RGB stops along `at` in 0-1, of shape (..., 1)."""
    stops, x = np.array(stops, dtype=np.float32), at[..., 0]
    return np.stack([np.interp(x, np.linspace(0, 1, len(stops)), stops[:, c]) for c in range(3)], -1).astype(np.float32)


def spots(seed, count, low, high, radius, soft):
    """A fixed scatter of soft discs, as one alpha layer (128, 128, 1)."""
    rng, layer = np.random.default_rng(seed), np.zeros((SIZE, SIZE), np.float32)
    yy, xx = np.mgrid[0:SIZE, 0:SIZE]
    for _ in range(count):
        y, x, r, a = rng.uniform(low, high), rng.uniform(0, SIZE), rng.uniform(*radius), rng.uniform(0.4, 1)
        layer = np.maximum(layer, a * np.clip((r - np.hypot(yy - y, xx - x)) / soft, 0, 1))
    return layer[..., None]


@cache
def background(name, variant):
    """One of the seven backgrounds in one of its three variants, as (128, 128, 3) in 0-1."""
    t, v = textures(), variant
    y, r, full = t["y"], t["r"], np.ones((SIZE, SIZE, 1), np.float32)
    if name == "plain":
        return ramp([(0.74, 0.74, 0.72), (0.70, 0.69, 0.68), (0.66, 0.67, 0.69)], full * v / 2)
    if name == "studio":
        tint = [(0.98, 0.96, 0.92), (0.92, 0.96, 1.0), (0.97, 0.93, 0.97)][v]
        light = np.clip(1.02 - 0.62 * np.hypot(r, 0.25 * (y - 0.3)) ** 1.6, 0.22, 1)
        return (light * tint).astype(np.float32)
    if name == "sunset":
        horizon = [0.80, 0.74, 0.86][v]
        sky = ramp([(0.30, 0.16, 0.45), (0.72, 0.28, 0.46), (0.98, 0.56, 0.30), (1.0, 0.84, 0.50)], np.clip(y / horizon, 0, 1) * full)
        yy, xx = np.mgrid[0:SIZE, 0:SIZE] / SIZE
        sun = np.exp(-(((yy - horizon + 0.08) ** 2 + (xx - [0.2, 0.8, 0.5][v]) ** 2) / 0.02))[..., None]
        sky = sky + sun * np.array([0.3, 0.3, 0.2])
        return np.where(
            y * full > horizon, ramp([(0.52, 0.22, 0.22), (0.26, 0.10, 0.18)], (y * full - horizon) / (1 - horizon)), sky
        ).astype(np.float32)
    if name == "night":
        sky = ramp([(0.02, 0.03, 0.14), (0.05, 0.08, 0.28), (0.14, 0.16, 0.42)], y * full)
        return np.clip(sky + spots(11 + v, 46, 0, SIZE, (0.9, 2.0), 0.9) * np.array([1, 0.98, 0.85]), 0, 1).astype(np.float32)
    if name == "forest":
        base = ramp([(0.24, 0.46, 0.20), (0.16, 0.36, 0.16), (0.07, 0.20, 0.09)], y * full)
        glow = spots(21 + v, 16, 0, 110, (6, 13), 3) * 0.38
        return (base + glow * (np.array([0.80, 0.95, 0.45]) - base)).astype(np.float32)
    if name == "ocean":
        base = ramp([(0.40, 0.80, 0.94), (0.14, 0.52, 0.80), (0.03, 0.22, 0.50)], y * full)
        yy, xx = np.mgrid[0:SIZE, 0:SIZE] / SIZE
        waves = np.sin(2 * np.pi * (yy * 9 + 0.35 * np.sin(2 * np.pi * (xx * 2 + v / 3))))[..., None]
        return np.clip(base + 0.045 * waves * (1.2 - y), 0, 1).astype(np.float32)
    # snow: a pale sky, white ground, a few large flakes
    ground = [0.70, 0.76, 0.64][v]
    sky = ramp([(0.58, 0.70, 0.86), (0.82, 0.89, 0.96)], y * full)
    base = np.where(y * full > ground, np.array([0.95, 0.97, 1.0]), sky)
    return np.clip(base + spots(31 + v, 34, 0, SIZE, (1.4, 3.2), 1.5) * 0.6, 0, 1).astype(np.float32)


def recolour(rgb, name):
    """Paint a glyph in one hue, keeping its light and dark and a little of its own colour (black eyes stay black)."""
    light = luminance(rgb)
    light = np.clip(0.5 + 0.9 * (light - np.median(light)), 0.06, 0.94)[..., None]
    hue = np.array(COLOURS[name], dtype=np.float32)
    painted = np.where(light < 0.5, hue * (0.35 + 1.3 * light), hue + (1 - hue) * (light - 0.5) * 1.3)
    return 0.9 * painted + 0.1 * rgb


@lru_cache(maxsize=4096)
def layer(noun, colour, mirrored, pixels):
    """A subject as colour and alpha, `pixels` along its longer side."""
    image = glyph(noun)
    scale = pixels / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    x = np.asarray(image, dtype=np.float32) / 255
    x = x[:, ::-1] if mirrored else x
    rgb, alpha = x[..., :3], x[..., 3:]
    if colour:
        inside = alpha[..., 0] > 0.5
        rgb = rgb.copy()
        rgb[inside] = recolour(rgb[inside], colour)
    return rgb, alpha


def compose(picture: Picture):
    """Place the subjects on an empty canvas: colour (128, 128, 3) and alpha (128, 128, 1)."""
    rgb, alpha = np.full((SIZE, SIZE, 3), 0.5, np.float32), np.zeros((SIZE, SIZE, 1), np.float32)
    pair = len(picture.subjects) == 2
    pixels = 60 if pair else 106
    for i, noun in enumerate(picture.subjects):
        c, a = layer(noun, picture.colour, picture.mirrored, pixels)
        cx, cy = (33 + 62 * i, 70) if pair else (64, 64)
        top, left = max(0, cy - a.shape[0] // 2), max(0, cx - a.shape[1] // 2)
        rgb[top : top + a.shape[0], left : left + a.shape[1]] = c
        alpha[top : top + a.shape[0], left : left + a.shape[1]] = a
    return rgb, alpha


def cast_shadow(back, alpha, dy, dx, sigma, strength):
    shadow = blur(np.roll(alpha, (dy, dx), (0, 1)), sigma)
    return back * (1 - strength * shadow)


def paint(medium, rgb, alpha, back):
    """Draw subject colour and alpha over a background in one of the nine media; all arrays in 0-1."""
    t = textures()
    flat = rgb * alpha + back * (1 - alpha)
    if medium == "photo":
        return rgb * alpha + cast_shadow(back, alpha, 3, 2, 4, 0.35) * (1 - alpha)
    if medium == "3d render":
        height = np.sqrt(np.clip(blur(alpha, 7) - 0.35, 0, 1))[..., 0] * 15 + blur(luminance(rgb) * alpha[..., 0], 1.5) * 5
        gy, gx = np.gradient(height)
        normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        lit = normal @ np.array([-0.45, -0.62, 0.64], dtype=np.float32)
        shaded = rgb * (0.42 + 0.78 * np.clip(lit, 0, 1)[..., None]) + 0.75 * (np.clip(lit, 0, 1) ** 26)[..., None]
        return shaded * alpha + cast_shadow(back, alpha, 9, 8, 5, 0.6) * (1 - alpha)
    if medium == "pixel art":
        small = flat.reshape(16, 8, 16, 8, 3).mean((1, 3))
        return (np.round(small * 5) / 5).repeat(8, 0).repeat(8, 1)
    if medium == "pencil sketch":
        grey = luminance(rgb * alpha + 0.97 * (1 - alpha))
        dodge = np.clip(grey / (blur(grey, 3.5) + 0.02), 0, 1.05)
        edge = nd.gaussian_gradient_magnitude(grey, 0.8) + nd.gaussian_gradient_magnitude(alpha[..., 0], 0.8)
        tone = np.clip(dodge - 1.7 * edge, 0.12, 1) - 0.18 * (1 - grey) * alpha[..., 0]
        paper = 0.72 * np.array([0.97, 0.95, 0.90]) + 0.28 * back
        return paper * tone[..., None] * (1 + 0.02 * t["paper"][..., None])
    if medium == "watercolor":
        soft = blur(rgb * alpha, 1.6) / (blur(alpha, 1.6) + 0.02)
        edge = nd.gaussian_gradient_magnitude(blur(alpha[..., 0], 1), 1.5)[..., None]
        a = np.clip(blur(alpha, 1.2) * (0.92 + 0.10 * t["wash"][..., None]), 0, 1)
        paper = np.array([0.98, 0.97, 0.94])
        wash = paper + (blur(back, 4) - paper) * np.clip(0.60 + 0.16 * t["wash"][..., None], 0.2, 0.95)
        ink = soft + 0.12 - 0.8 * edge
        return (ink * a + wash * (1 - a)) * (1 + 0.015 * t["paper"][..., None])
    if medium == "oil painting":
        smooth = nd.median_filter(flat, size=(5, 5, 1))
        return saturate(smooth, 1.35) * (1 + 0.055 * t["stroke"][..., None]) + 0.008 * t["stroke"][..., None]
    if medium == "neon":
        edge = nd.gaussian_gradient_magnitude(alpha[..., 0], 1.2) * 2.2
        edge = edge + nd.gaussian_gradient_magnitude(luminance(rgb) * alpha[..., 0], 1.1) * 1.6
        edge = np.clip(edge * 2.1, 0, 1)[..., None]
        tube = ramp([(1.0, 0.25, 0.75), (0.75, 0.35, 1.0), (0.15, 0.85, 1.0)], t["y"] * np.ones((SIZE, SIZE, 1), np.float32))
        glow = blur(edge, 5) * 1.1 + blur(edge, 1.5) * 0.5
        return back * (1 - 0.9 * alpha) * 0.34 + tube * glow + edge * (0.45 * tube + 0.5)
    if medium == "stained glass":
        flat = saturate(flat, 1.5)
        count = np.bincount(t["cells"].ravel(), minlength=289)
        mean = np.stack([np.bincount(t["cells"].ravel(), flat[..., c].ravel(), 289) for c in range(3)], -1) / np.maximum(count, 1)[:, None]
        return (mean[t["cells"]] * 1.12 + 0.03) * (0.12 + 0.88 * t["lead"])
    # silhouette: a dark shape against the light, its edge a little softened
    return np.array([0.05, 0.04, 0.07]) * alpha + np.clip(back * 1.08, 0, 1) * (1 - alpha)


def light(effect, x):
    """Apply one effect (light, quality or damage) to a finished picture in 0-1."""
    t = textures()
    if effect == "vivid":
        return saturate(x, 1.55)
    if effect == "detailed":
        return x + 0.9 * (x - blur(x, 1.3))
    if effect == "dramatic":
        x = np.clip(x, 0, 1)
        return (0.35 * x + 0.65 * (3 * x**2 - 2 * x**3)) * np.clip(1.25 - 0.62 * t["r"] ** 2, 0.25, 1.15)
    if effect == "soft":
        x = np.clip(x, 0, 1)
        return 0.62 * x + 0.28 * blur(x, 4) + 0.13 * np.array([1.0, 0.97, 0.95])
    if effect == "warm":
        return x * np.array([1.10, 1.0, 0.80]) + np.array([0.05, 0.02, 0.0])
    if effect == "muted":
        return 0.62 * saturate(x, 0.35) + 0.19
    if effect == "blurry":
        return blur(x, 3.2)
    if effect == "overexposed":
        return 1.25 * x + 0.30
    return luminance(x)[..., None].repeat(3, -1)  # black and white


def render(picture: Picture):
    """Paint one picture of the pocket world.

    Returns uint8 (128, 128, 3). Raises `PromptlabError` for an unknown subject or a missing emoji font.
    """
    rgb, alpha = compose(picture)
    x = paint(picture.medium, rgb, alpha, background(picture.background, picture.variant))
    for effect in EFFECTS:  # a fixed order: "vivid, blurry" and "blurry, vivid" are the same picture
        if effect in picture.effects:
            x = light(effect, x)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
