"""Embeddings, against plain open_clip."""

import shutil

import numpy as np
import open_clip
import pytest
import tiny_hub
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from promptlab.models.clip import Clip
from promptlab.runtime import PromptlabError


def pictures(size=128, count=6):
    """Smooth blobs with some noise: what an antialiasing filter must treat as PIL does."""
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(c).resize((size, size), Image.BICUBIC)) for c in coarse]).astype(float)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [128, 200, 64])
def test_images_are_embedded_as_plain_open_clip_does(tiny_world, tiny_clip, size):
    """Through PIL and open_clip's own preprocessing; PIL rounds to 8 bits in between, hence the tolerance."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_world / 'clip'}")
    images = pictures(size)
    with torch.no_grad():
        x = torch.stack([preprocess(Image.fromarray(i)) for i in images])
        theirs = torch.nn.functional.normalize(model.eval().encode_image(x), dim=-1).numpy()
    ours = tiny_clip.embed_images(images, batch=4)
    assert ours.dtype == np.float32 and ours.shape == (6, 256)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    spread = np.linalg.norm(theirs - theirs.mean(0), axis=1).mean()
    assert np.linalg.norm(ours - theirs, axis=1).max() < 0.03 * spread, "closer than 3 % of what tells two pictures apart"


def test_texts_are_embedded_as_plain_open_clip_does(tiny_world, tiny_clip):
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tiny_world / 'clip'}")
    texts = ["a frog", "a castle at sunset", "🐸 צפרדע", "word " * 200]
    with torch.no_grad():
        theirs = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{tiny_world / 'clip'}")(texts), normalize=True)
    np.testing.assert_allclose(tiny_clip.embed_texts(texts), theirs.numpy(), atol=1e-5)


def test_no_pictures_have_no_embeddings(tiny_clip):
    assert tiny_clip.embed_images(np.empty((0, 128, 128, 3), np.uint8)).shape == (0, 256)


def test_weights_without_a_configuration_take_the_presets_architecture(tmp_path, monkeypatch):
    """As open_clip_model.safetensors comes from the hub; a small stand-in for ViT-L-14, registered under a name of its own."""
    settings = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}  # fmt: skip
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", settings)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-quickgelu", load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    clip = Clip(tmp_path, "tiny-quickgelu")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    assert clip.embed_images(images).shape == (3, 32) and clip.model.visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    with torch.no_grad():
        theirs = model.encode_text(open_clip.get_tokenizer("ViT-L-14")(["a frog"]), normalize=True).numpy()
    np.testing.assert_allclose(clip.embed_texts(["a frog"]), theirs, atol=1e-5)
    with pytest.raises(PromptlabError, match=r"open_clip_model\.safetensors.*clip="):
        Clip(tmp_path, "ViT-B-32")


def changed(file):
    """Other weights in the same file."""
    tensors = load_file(file)
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})


def test_weights_replaced_after_loading_are_not_taken_for_those_that_look(tiny_world, tiny_clip, tmp_path):
    """A notebook has loaded a CLIP; then somebody restores the file. What the old one saw must not be filed under the new one's name."""
    folder = shutil.copytree(tiny_world / "clip", tmp_path / "clip")
    changed(folder / "open_clip_model.safetensors")
    loaded = Clip(folder)
    shutil.copy(tiny_world / "clip" / "open_clip_model.safetensors", folder)
    assert loaded.fingerprint != tiny_clip.fingerprint == Clip(folder).fingerprint
    shutil.rmtree(folder)
    assert loaded.fingerprint


@pytest.mark.parametrize("kind", ["bin", "training", "transformers", "other name", "a file", "empty"])
def test_a_clip_in_other_files_says_what_it_is_and_how_to_convert(tmp_path, kind):
    """The lines that are given do convert: the folder they make is read."""
    made = tiny_hub.save_clip(tmp_path / "made", 32)
    file, folder = made / "open_clip_model.safetensors", made
    tensors = load_file(file)
    words = {"bin": "as open_clip_pytorch_model.bin, a format.*weights_only=True", "training": "as epoch_3.pt, a format.*weights_only=True",
             "transformers": "format of transformers.*timm/", "other name": "as model.safetensors. If that is open_clip's", "a file": "Convert them once",
             "empty": "open_clip_model.safetensors is missing"}[kind]  # fmt: skip
    if kind in ("bin", "training", "a file"):
        folder = made / {"bin": "open_clip_pytorch_model.bin", "training": "epoch_3.pt", "a file": "ViT.pt"}[kind]
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}} if kind == "training" else tensors, folder)
        folder = folder if kind == "a file" else made
    elif kind == "transformers":
        folder = tiny_hub.save_pickscore(tmp_path / "transformers")
    elif kind == "other name":
        save_file(tensors, made / "model.safetensors")
    file.unlink()
    with pytest.raises(PromptlabError, match=words) as error:
        Clip(folder)
    if "Convert them once" in str(error.value):
        (tmp_path / "my-clip").mkdir()
        lines = str(error.value).split("of their own: ")[1].split("; copy")[0].replace("my-clip", str(tmp_path / "my-clip"))
        exec(lines, {})
        (tmp_path / "my-clip" / "open_clip_config.json").write_text((made / "open_clip_config.json").read_text())
        assert Clip(tmp_path / "my-clip").embed_texts(["a frog"]).shape == (1, 32)
