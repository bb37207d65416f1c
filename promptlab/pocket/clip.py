"""A tokenizer and a small CLIP of open_clip's own classes, trained on renders at 64 x 64."""

import copy
import json
import random

import numpy as np
import torch
import torch.nn.functional as F

from promptlab.pocket.captions import caption, claim_as_people, claim_independently
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, EFFECTS, MEDIA
from promptlab.pocket.subjects import SUBJECTS
from promptlab.pocket.training import on_device, train
from promptlab.runtime import bar, device

FIRST, SECOND, BATCH, SMALL, CONTEXT = 0.03, 0.06, 256, 64, 48  # the first two are shares of the build's time
EOS = "<|endoftext|>"


def config(vocab_size):
    """What open_clip needs to build the model and to preprocess a picture."""
    vision = {"image_size": SMALL, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64}
    text = {"context_length": CONTEXT, "vocab_size": vocab_size, "width": 192, "heads": 3, "layers": 3, "hf_tokenizer_name": "."}
    return {
        "model_cfg": {"embed_dim": 256, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "shortest"},
    }


def train_tokenizer(texts):
    """A byte-level BPE, so any text has an encoding; it adds begin and end, and pads with the end token.

    The end token has the highest id, which is how open_clip finds it.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=2048, initial_alphabet=alphabet, show_progress=False))
    bpe.add_special_tokens(["<|startoftext|>", EOS])
    bos, eos = bpe.token_to_id("<|startoftext|>"), bpe.token_to_id(EOS)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"<|startoftext|> $A {EOS}", special_tokens=[("<|startoftext|>", bos), (EOS, eos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|startoftext|>", eos_token=EOS, pad_token=EOS, unk_token=EOS, model_max_length=CONTEXT
    )


def tokenize(tokenizer, texts):
    """Token ids (n, 48), truncated and padded as Stable Diffusion does."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids


def captions_for(pictures, seed, claim_of, noisy=0.0):
    """One claim and one caption per picture, from one seed; `noisy` as in `caption`."""
    rng = random.Random(seed)
    claims = [claim_of(picture, rng) for picture in pictures]
    return claims, [caption(claim, rng, noisy=noisy) for claim in claims]


def caption_corpus(pictures):
    """Captions of both styles, for the tokenizer."""
    return captions_for(pictures, 3, claim_as_people)[1] + captions_for(pictures, 4, claim_independently)[1]


def encode_attributes(pictures):
    """Pictures or claims as int64 (n, 6): two subjects, colour, medium, background (-1: none), effects as bits."""
    index = [{v: i for i, v in enumerate(values)} for values in (SUBJECTS, COLOURS, MEDIA, BACKGROUNDS)]
    rows = [
        (
            index[0][p.subjects[0]],
            index[0][p.subjects[1]] if len(p.subjects) == 2 else -1,
            index[1].get(p.colour, -1),
            index[2].get(p.medium, -1),
            index[3].get(p.background, -1),
            sum(1 << EFFECTS.index(e) for e in p.effects),
        )
        for p in pictures
    ]
    return np.array(rows)


def true_of(claims, pictures):
    """Which claims hold of which pictures: bool (n, m) from two `encode_attributes` arrays or tensors."""
    c, p = claims[:, None], pictures[None]
    has = lambda subject: (subject == p[..., 0]) | (subject == p[..., 1])  # noqa: E731
    right = has(c[..., 0]) & ((c[..., 1] < 0) | has(c[..., 1]))
    for field in (2, 3, 4):
        right &= (c[..., field] < 0) | (c[..., field] == p[..., field])
    return right & (c[..., 5] & ~p[..., 5] == 0)


def shrink(images, batch=2000):
    """uint8 (n, 128, 128, 3) to (n, 64, 64, 3), with the antialiased bilinear filter of open_clip's preprocessing."""
    out = np.empty((len(images), SMALL, SMALL, 3), np.uint8)
    for i in bar(range(0, len(images), batch), desc="shrink"):
        x = torch.from_numpy(np.array(images[i : i + batch])).to(device()).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=SMALL, mode="bilinear", antialias=True)
        out[i : i + batch] = x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return out


def augment(x):
    """Blur and noise of random strength, so that the softer pictures a generator draws look familiar; x in -1..1."""
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(len(x), 1, 1, 1, device=x.device)
    return x.lerp(soft, amount) + 0.1 * torch.rand_like(amount) * torch.randn_like(x)


def new_clip(vocab_size):
    """A fresh model of open_clip's own class."""
    from open_clip import CLIP

    cfg = config(vocab_size)["model_cfg"]
    return CLIP(cfg["embed_dim"], cfg["vision_cfg"], {k: v for k, v in cfg["text_cfg"].items() if k != "hf_tokenizer_name"})


def contrastive_loss(image, text, scale, also_true):
    """Symmetric cross-entropy over a batch; captions that also hold of another picture are no negatives."""
    logits = scale * image.float() @ text.float().T  # (picture, caption)
    mask = also_true.T & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(mask, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def encode_short(model, tokens, longest):
    """`model.encode_text(tokens, normalize=True)` of texts of up to `longest` tokens: a causal tower never looks at the padding behind."""
    end = tokens.argmax(1)  # the end token has the highest id
    x = model.token_embedding(tokens[:, :longest]) + model.positional_embedding[:longest]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:longest, :longest]))
    return F.normalize(x[torch.arange(len(x), device=x.device), end] @ model.text_projection, dim=-1)


def fit(pictures, small, tokenizer, folder, start=None, steps=None):
    """Train CLIP on renders (n, 64, 64, 3) uint8 and a caption of each, attributes dropped independently.

    Without `start`, a short first course: enough for a text tower that tells subjects apart, which is what the denoiser
    starts from. With `start`, the long second course that makes that model a good measure of relevance and beauty.
    """
    torch.manual_seed(0)
    seed = 1 if start else 0  # the second course sees other batches
    model = copy.deepcopy(start).requires_grad_(True) if start else new_clip(len(tokenizer))
    name, box = ("clip-second", SECOND) if start else ("clip", FIRST)
    claims, texts = captions_for(pictures, 40 + seed, claim_independently, noisy=0.15)
    tokens = tokenize(tokenizer, texts).to(device())
    longest, small = int(tokens.argmax(1).max()) + 1, on_device(small)
    claims, facts = on_device(encode_attributes(claims)), on_device(encode_attributes(pictures))

    def loss_of(which):
        x = small[which].permute(0, 3, 1, 2).float() / 127.5 - 1
        image, text = model.encode_image(augment(x), normalize=True), encode_short(model, tokens[which], longest)
        return contrastive_loss(image, text, model.logit_scale.exp().clamp(max=100), true_of(claims[which], facts[which]))

    return train(
        name, folder, box, {"clip": model}, loss_of, 1e-3, BATCH, len(tokens), ema=("clip",), weight_decay=0.05, seed=seed, steps=steps
    )["clip"]


def save(model, tokenizer, folder):
    """Write a folder that plain `open_clip.create_model_and_transforms("local-dir:...")` loads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config(len(tokenizer)), indent=2))
    weights = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


def text_encoder_from(clip):
    """The CLIP's text tower as a transformers CLIPTextModel, whose per-token states feed the UNet as in Stable Diffusion."""
    from transformers import CLIPTextConfig, CLIPTextModel

    old = clip.state_dict()
    vocab_size = len(old["token_embedding.weight"])
    cfg = config(vocab_size)["model_cfg"]["text_cfg"]
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=vocab_size, hidden_size=cfg["width"], intermediate_size=4 * cfg["width"], num_hidden_layers=cfg["layers"],
        num_attention_heads=cfg["heads"], max_position_embeddings=CONTEXT, hidden_act="gelu",
        bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1, pad_token_id=vocab_size - 1,
    ))  # fmt: skip
    new = {
        "embeddings.token_embedding.weight": old["token_embedding.weight"],
        "embeddings.position_embedding.weight": old["positional_embedding"],
    }
    for i in range(cfg["layers"]):
        a, b = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
        for part in ("weight", "bias"):
            q, k, v = old[f"{a}attn.in_proj_{part}"].chunk(3)
            new |= {f"{b}self_attn.q_proj.{part}": q, f"{b}self_attn.k_proj.{part}": k, f"{b}self_attn.v_proj.{part}": v}
            for there, here in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                new[f"{b}{here}.{part}"] = old[f"{a}{there}.{part}"]
    new |= {f"final_layer_norm.{part}": old[f"ln_final.{part}"] for part in ("weight", "bias")}
    prefix = "text_model." if any(k.startswith("text_model.") for k in encoder.state_dict()) else ""
    encoder.load_state_dict({prefix + k: v for k, v in new.items()}, strict=False)
    return encoder
