"""The two aesthetic heads against numpy: ours, and LAION's by its published names and shapes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import erf

from promptlab.config import COLAB
from promptlab.models.aesthetic import aesthetic_head, laion_head, load_aesthetic
from promptlab.runtime import PromptlabError


def test_the_head_has_a_shape_like_laions():
    shapes = [tuple(m.weight.shape) for m in aesthetic_head() if isinstance(m, torch.nn.Linear)]
    assert shapes == [(1024, 256), (256, 1024), (1, 256)]
    assert aesthetic_head(512, 32)(torch.zeros(5, 512)).shape == (5, 1)


def test_the_head_rates_as_numpy_does(tiny_preset, tiny_world):
    from safetensors.numpy import load_file

    w = {k: v.astype(np.float64) for k, v in load_file(tiny_world / "aesthetic" / "model.safetensors").items()}
    gelu = lambda x: x * (1 + erf(x / math.sqrt(2))) / 2  # noqa: E731
    x = np.random.default_rng(0).standard_normal((9, 256))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    layer = lambda v, i: v @ w[f"{i}.weight"].T + w[f"{i}.bias"]  # noqa: E731
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    expected = layer(gelu(layer(gelu(layer(normed, 1)), 4)), 6)[:, 0]
    rate = load_aesthetic(tiny_preset)
    np.testing.assert_allclose(rate(x).numpy(), expected, atol=1e-4)
    assert torch.equal(rate(x), rate(x)), "no dropout when rating"


# --- the head: published names, against numpy ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """A head with LAION's key names and shapes, random weights of a size that makes ratings of about 5."""
    shapes = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    rng, tensors = np.random.default_rng(0), {}
    for i, (out, into) in shapes.items():
        tensors[f"layers.{i}.weight"] = torch.tensor(rng.normal(0, into**-0.5, (out, into)), dtype=torch.float32)
        tensors[f"layers.{i}.bias"] = torch.tensor(rng.normal(0, 0.3, out), dtype=torch.float32)
    return tensors


def by_numpy(tensors, embeddings):
    x = np.asarray(embeddings, float)
    for i in (0, 2, 4, 6, 7):
        x = x @ tensors[f"layers.{i}.weight"].double().numpy().T + tensors[f"layers.{i}.bias"].double().numpy()
    return x[:, 0]


def unit(count=50, width=768, seed=1):
    x = np.random.default_rng(seed).normal(size=(count, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_our_head_has_laions_names_and_shapes(published):
    assert {k: v.shape for k, v in laion_head().state_dict().items()} == {k: v.shape for k, v in published.items()}


@pytest.mark.parametrize("form", ["folder", "safetensors", "pth", "folder with pth"])
def test_the_laion_head_rates_as_numpy_does(published, tmp_path, form):
    name = "sac+logos+ava1-l14-linearMSE"
    if "pth" in form:
        source = tmp_path / f"{name}.pth"
        torch.save(published, source)
    else:
        source = tmp_path / f"{name}.safetensors"
        save_file(published, source)
    rate = load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(source.parent if "folder" in form else source)))
    x = unit()
    assert np.abs(rate(x).numpy() - by_numpy(published, x)).max() < 1e-5
    assert torch.equal(rate(x), rate(x)), "no dropout when rating"


@pytest.mark.parametrize("width", [512, 768, 1024])
def test_laions_other_heads_rate_as_numpy_does(tmp_path, width):
    """Its first, one layer (sa_0_4_vit_l_14_linear.pth), and the one with ReLU (ava+logos-l14-reluMSE.pth), by their published names."""
    rng, sizes = np.random.default_rng(width), [width, 1024, 128, 64, 16, 1]
    names = [f"layers.{i}" for i in (0, 3, 6, 9, 11)]
    relu = {f"{n}.weight": rng.normal(0, (2 / a) ** 0.5, (b, a)) for n, a, b in zip(names, sizes, sizes[1:], strict=False)}
    relu |= {f"{n}.bias": rng.normal(0, 0.1, b) for n, b in zip(names, sizes[1:], strict=True)}
    first = {"weight": rng.normal(size=(1, width)), "bias": rng.normal(size=1)}
    x = unit(width=width)
    expected = x
    for n in names:
        expected = expected @ relu[f"{n}.weight"].T + relu[f"{n}.bias"]
        expected = np.maximum(expected, 0) if n != names[-1] else expected
    for tensors, values in ((relu, expected[:, 0]), (first, x @ first["weight"][0] + first["bias"])):
        torch.save({k: torch.tensor(v, dtype=torch.float32) for k, v in tensors.items()}, tmp_path / "head.pth")
        np.testing.assert_allclose(load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.pth")))(x).numpy(), values, atol=1e-4)


def test_a_head_of_another_kind_is_named(tmp_path):
    torch.save({"mlp.scale": torch.zeros(3)}, tmp_path / "head.pth")
    with pytest.raises(PromptlabError, match="holds another kind of head .*'mlp.scale'.*linearMSE and reluMSE.*aesthetic="):
        load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.pth")))


def test_a_pth_with_code_in_it_is_refused_and_not_run(tmp_path):
    path = tmp_path / "head.pth"

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"layers.0.weight": Trap()}, path)
    with pytest.raises(PromptlabError, match=r"head\.pth holds more than plain tensors.*refused.*aesthetic="):
        load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(path)))
    assert not (tmp_path / "ran").exists()


def test_other_files_are_no_head(published, tmp_path):
    wrong = {"a list": [1, 2], "nothing": {}, "another model": {"weight": torch.zeros(3)}, "half of it": dict(list(published.items())[:4])}
    for what, content in wrong.items():
        torch.save(content, tmp_path / "head.pth")
        with pytest.raises(PromptlabError, match=r"head\.pth.*aesthetic="):
            load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.pth"))), what
    (tmp_path / "head.pth").write_text("<html>not found</html>")
    with pytest.raises(PromptlabError, match=r"head\.pth"):
        load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.pth")))


def test_embeddings_of_another_clip_are_refused(published, tmp_path):
    save_file(published, tmp_path / "head.safetensors")
    rate = load_aesthetic(dataclasses.replace(COLAB, aesthetic=str(tmp_path / "head.safetensors")))
    with pytest.raises(PromptlabError, match="rates embeddings of 768 numbers, and this CLIP gives 256.*belong together"):
        rate(unit(width=256))
