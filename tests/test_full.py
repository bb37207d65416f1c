"""`make test-full`: the paper's models in full size with random weights, written in the hub's folder format and loaded by the course's own code.

Not part of `make test`: 73 s on 2 CPU cores and 8.2 GB of memory (measured 2026-11-26, bfloat16), 7 GB of disk. Each test prints its time and memory.
"""

import dataclasses
import resource
import time

import numpy as np
import pytest
import tiny_hub
import torch
from safetensors.torch import save_file

from promptlab.config import COLAB, for_evaluation
from promptlab.models.memory import estimate_memory
from promptlab.models.shapes import clip_tokenizer, pickscore_config, safety_checker, stable_diffusion
from promptlab.runtime import free_memory, hardware

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]
V1_4 = for_evaluation(COLAB)


@pytest.fixture(autouse=True)
def report(request, capsys):
    """Says what the test took; the memory is the most this process has ever held."""
    free_memory()
    began = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(f"\n{request.node.name}: {time.perf_counter() - began:.0f} s, at most {peak:.1f} GB so far ({hardware()})")


@pytest.fixture(scope="module")
def v1_4(tmp_path_factory):
    """A folder as CompVis/stable-diffusion-v1-4, its fp16 files alone; PNDM as published, the safety checker included."""
    from transformers import CLIPImageProcessor

    folder = tmp_path_factory.mktemp("hub") / "v1-4"
    torch.manual_seed(0)
    pipe = stable_diffusion(V1_4.generator, clip_tokenizer(folder / "tokenizer"))
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16")
    checker = safety_checker().half()
    checker.concept_embeds_weights.data.fill_(2), checker.special_care_embeds_weights.data.fill_(2)  # random eyes must not object
    checker.save_pretrained(folder / "safety_checker", variant="fp16")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """ViT-L/14 as the hub has it, weights alone, and a head as LAION published it."""
    import open_clip

    folder, rng = tmp_path_factory.mktemp("eyes"), np.random.default_rng(0)
    torch.manual_seed(0)
    model = open_clip.create_model(COLAB.clip_architecture, load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    shapes = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    head = {f"layers.{i}.weight": torch.tensor(rng.normal(0, into**-0.5, (out, into))).float() for i, (out, into) in shapes.items()}
    torch.save(head | {f"layers.{i}.bias": torch.zeros(out) for i, (out, _) in shapes.items()}, folder / "head.pth")
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder as PickScore: 986 million random weights, with CLIP's tokenizer and picture processor."""
    from transformers import CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("people") / "pickscore"
    clip_tokenizer(folder)
    CLIPImageProcessor().save_pretrained(folder)
    torch.manual_seed(0)
    CLIPModel(pickscore_config()).half().save_pretrained(folder)
    return folder


def test_stable_diffusion_clip_and_head_score_a_picture(v1_4, eyes, people, tmp_path):
    """The whole path of a reward, two steps, by the code every lesson uses."""
    from promptlab.models.sources import HUB
    from promptlab.pictures.sheets import ContactSheet
    from promptlab.rewards import Scorer

    chosen = dataclasses.replace(
        V1_4, generator=str(v1_4), safety=str(v1_4), clip=str(eyes), aesthetic=str(eyes / "head.pth"), judge=str(people), steps=2, batch=1
    )
    scorer = Scorer(chosen, tmp_path)
    sheet = ContactSheet(scorer, ["a frog"], ["a frog"], [1])
    scores, eye = sheet.scores, scorer.gallery.judge.eye.model
    assert sum(p.numel() for p in eye.parameters()) == HUB["yuvalkirstain/PickScore_v1"].parts["clip"] and sheet.gold.isfinite().all()
    assert scores.aesthetic.isfinite().all() and -1 < scores.relevance.item() < 1
    drawer = scorer.gallery.generator
    assert type(drawer.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler" and drawer.size == 512
    parts = (drawer.pipe.unet, drawer.pipe.vae, drawer.pipe.text_encoder)
    size = torch.tensor([], dtype=drawer.pipe.unet.dtype).element_size()
    assert sum(p.nbytes for part in parts for p in part.parameters()) == estimate_memory(V1_4, size).weights["generator"]
    assert len(scorer.gallery.thumbnails(["a frog"], [1])[0]) > 1000


def test_gpt2_small_takes_a_ppo_step(tmp_path):
    """124 million weights, the vocabulary of GPT-2, a loss that is finite; the tokenizer is a small one, as GPT-2's is on the hub only."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from promptlab import ppo
    from promptlab.policy import load_policy

    folder = tiny_hub.save_gpt2(tmp_path / "gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=256, eos_token_id=256)).save_pretrained(folder)
    policy = load_policy(folder)
    assert sum(p.numel() for p in policy.model.parameters()) == 124_439_808
    before = policy.model.transformer.wte.weight[:300].clone()
    run = ppo.PPO(policy, ppo.Settings(prompts=2, samples=2, new_tokens=12, epochs=1, minibatch=4, lr=5e-5))
    metrics = run.update(["a frog", "a castle"], lambda plain, texts, seeds: torch.arange(4.0))
    assert np.isfinite([metrics[k] for k in ("policy_loss", "value_loss", "kl", "entropy")]).all() and metrics[
        "first_ratio"
    ] == pytest.approx(1, abs=1e-3)
    assert not torch.equal(before, policy.model.transformer.wte.weight[:300])
