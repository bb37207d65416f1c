"""CLIP: pictures and texts as embeddings that can be compared."""

import numpy as np

from promptlab.models.sources import clip_files, fetch, repair_for
from promptlab.models.weights import check_weights, file_hash, reading_weights
from promptlab.runtime import PromptlabError, hardware


def weights_in(folder, repair):
    """The weights of an open_clip model in a folder; raises `PromptlabError` saying what lies there in their place, and how to convert it."""
    file = folder / "open_clip_model.safetensors"
    if file.exists() or not folder.exists():
        return file
    here = [folder] if folder.is_file() else sorted(f for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".safetensors"))
    if folder.is_dir() and (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        raise PromptlabError(
            f"{folder} holds a CLIP in the format of transformers (model.safetensors), and this course reads open_clip's. Name its twin for "
            "open_clip: 'timm/vit_large_patch14_clip_224.openai' is openai/clip-vit-large-patch14."
        )
    if here and here[0].suffix == ".safetensors":
        raise PromptlabError(
            f"{folder} keeps its weights as {here[0].name}. If that is open_clip's, call it open_clip_model.safetensors, in a folder of its own; else {repair}"
        )
    if here:
        raise PromptlabError(
            f"{folder} keeps its weights as {here[0].name}, a format that may carry code. Convert them once, into a folder of their own: "
            f"import torch, safetensors.torch; w = torch.load({str(here[0])!r}, weights_only=True, map_location='cpu'); w = w.get('state_dict', w); "
            "safetensors.torch.save_file({k.removeprefix('module.'): t.clone() for k, t in w.items()}, 'my-clip/open_clip_model.safetensors'); copy "
            "open_clip_config.json beside it, or name the architecture, and choose it: dataclasses.replace(preset(), clip='my-clip')."
        )
    return file


class Clip:
    """An open_clip model that embeds pictures and texts; all embeddings have length 1.

    Args: `source` a folder with `open_clip_model.safetensors`, or a hub id; `architecture` open_clip's name of the model, for
    weights that come without `open_clip_config.json`. Raises `PromptlabError` for weights that are missing or of another model.
    """

    def __init__(self, source, architecture=""):
        import open_clip

        self.folder, where = fetch(source, clip_files), hardware()
        repair = repair_for(self.folder, "clip")
        self.files = check_weights(weights_in(self.folder, repair), repair)
        own = not architecture or (self.folder / "open_clip_config.json").exists()
        name, weights = (f"local-dir:{self.folder}", None) if own else (architecture, str(self.files[0]))
        # A short hash of weights and settings, part of every cache key: of what is loaded here, not of what lies there later.
        self.fingerprint = file_hash([*self.files, *sorted(self.folder.rglob("*.json"))])
        with reading_weights(self.files[0], repair):
            self.model, _, _ = open_clip.create_model_and_transforms(name, weights, device=where.device, precision="fp32")
            self.tokenizer = open_clip.get_tokenizer(name)
        self.model.eval()

    def embed_images(self, images, batch=256):
        """Pictures uint8 (n, height, width, 3) to float32 (n, width of the embedding)."""
        import torch
        import torch.nn.functional as F

        cfg, device, out = self.model.visual.preprocess_cfg, next(self.model.parameters()).device, []
        size = cfg["size"][0] if isinstance(cfg["size"], (tuple, list)) else cfg["size"]
        mean, std = (torch.tensor(cfg[k], device=device).view(1, 3, 1, 1) for k in ("mean", "std"))
        for i in range(0, len(images), batch):
            x = torch.from_numpy(np.array(images[i : i + batch])).to(device).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, size=size, mode=cfg["interpolation"], antialias=True).clamp(0, 255) / 255
            with torch.inference_mode():
                out.append(self.model.encode_image((x - mean) / std, normalize=True).float().cpu())
        return torch.cat(out).numpy() if out else np.empty((0, self.model.visual.output_dim), np.float32)

    def embed_texts(self, texts):
        """Texts to float32 (n, width of the embedding); what exceeds the model's context is ignored."""
        import torch

        with torch.inference_mode():
            tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
            return self.model.encode_text(tokens, normalize=True).float().cpu().numpy()
