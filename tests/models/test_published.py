"""Every repository of the table as it is published, from an empty cache: what is fetched is enough to load and to draw."""

import dataclasses
import json
import shutil

import hub
import open_clip
import published
import pytest
import tiny_hub
import torch

from promptlab.config import COLAB, PAPER, SECOND, for_evaluation, second_choice
from promptlab.models import sources
from promptlab.models.diffusion import Diffusion
from promptlab.policy import Promptist, load_policy
from promptlab.runtime import PromptlabError

V1_4, V1_5, TURBO, LORA = "CompVis/stable-diffusion-v1-4", "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-turbo", "latent-consistency/lcm-lora-sdv1-5"  # fmt: skip
SMALL = {"image_size": 16, "steps": 2, "batch": 2}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    found = {source: published.pipeline(folder / str(i), *what) for i, (source, what) in enumerate(published.PIPELINES.items())}
    found[LORA] = dict.fromkeys(published.OTHERS[LORA], b"no") | {"pytorch_lora_weights.safetensors": save_lora(folder)}
    return found


def save_lora(folder):
    """An adapter for the tiny UNet, as diffusers writes them."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(0)
    unet = tiny_hub.unet(cross_attention_dim=16)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "conv1"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """An empty cache, and a hub that calls every commit of the table its only one."""
    monkeypatch.setattr(hub, "COMMIT", "0" * 40)
    for source, model in sources.HUB.items():
        monkeypatch.setitem(sources.HUB, source, dataclasses.replace(model, revision="main"))
    return tmp_path / "cache"


def draw(chosen):
    drawer = Diffusion(dataclasses.replace(chosen, **SMALL), torch.float32)
    return drawer, drawer.generate(["a frog", "a castle"], [1, 2])


@pytest.mark.parametrize("chosen", [PAPER, for_evaluation(COLAB), dataclasses.replace(PAPER, generator=V1_5, safety=V1_5), COLAB,
                                    dataclasses.replace(PAPER, generator="stabilityai/stable-diffusion-xl-base-1.0")],
                         ids=["paper", "evaluation of colab", "v1-5", "colab", "xl"])  # fmt: skip
@pytest.mark.parametrize("safety", [True, False], ids=["checked", "unchecked"])
def test_a_published_pipeline_draws_from_an_empty_cache(repositories, monkeypatch, empty, chosen, safety):
    chosen = chosen if safety else dataclasses.replace(chosen, safety="")
    with hub.hub(monkeypatch, empty, repositories) as asked:
        drawer, pictures = draw(chosen)
        assert pictures.shape == (2, 16, 16, 3) and pictures.std() > 1
        fetched = {path.split("/resolve/")[1].split("/", 1)[1] for method, path in asked if method == "GET" and "/resolve/" in path}
        again = draw(chosen)[1]
    assert (again == pictures).all()
    assert all(".fp16." in name for name in fetched if name.endswith(".safetensors")), "half the download"
    assert not any(name.endswith((".bin", ".onnx", ".yaml")) or "/" not in name and name != "model_index.json" for name in fetched)
    assert any("feature_extractor" in name for name in fetched) == safety and bool(drawer.checker) == safety


def test_an_index_of_the_first_diffusers_names_a_class_that_is_gone(repositories, monkeypatch, empty):
    old = repositories[V1_4] | {"model_index.json": json.dumps(published.OLD_INDEX).encode()}
    with hub.hub(monkeypatch, empty, {V1_4: old}):
        assert draw(PAPER)[1].std() > 1


# --- the second choice ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["RepoNotFound", "GatedRepo", "DisabledRepo"])
def test_where_sd_turbo_cannot_be_had_v1_5_draws_and_a_line_says_so(repositories, monkeypatch, empty, capsys, gone):
    with hub.hub(monkeypatch, empty, repositories | {TURBO: gone}):
        drawer = Diffusion(dataclasses.replace(COLAB, image_size=16, batch=2), torch.float32)
        pictures = drawer.generate(["a frog"], [1])
        plain = Diffusion(dataclasses.replace(second_choice(COLAB), generator_lora="", image_size=16), torch.float32)
    said = capsys.readouterr().out
    assert TURBO in said and f"So {V1_5} with {LORA} draws in its place, in 4 steps" in said
    assert (drawer.steps, drawer.guidance, type(drawer.pipe.scheduler).__name__) == (4, 1.0, "LCMScheduler")
    assert abs(plain.generate(["a frog"], [1]).astype(int) - pictures).mean() > 0.5, "the adapter is in the weights"
    assert plain.key("a frog", 1) != drawer.key("a frog", 1)


def test_where_neither_can_be_had_the_first_one_is_named(monkeypatch, empty):
    with hub.hub(monkeypatch, empty, {}), pytest.raises(PromptlabError, match=f"'{TURBO}' that you may see"):
        Diffusion(COLAB)
    with hub.hub(monkeypatch, empty, {}), pytest.raises(PromptlabError, match=f"'{V1_4}' that you may see"):
        Diffusion(PAPER)


def test_the_second_choice_is_made_of_models_in_the_table():
    for first, second in SECOND.items():
        assert {first, second["generator"], second["generator_lora"]} <= sources.HUB.keys()
    assert second_choice(PAPER) is None and for_evaluation(second_choice(COLAB)).generator_lora == ""


def test_an_adapter_of_another_model_is_named(repositories, monkeypatch, empty, tmp_path):
    with hub.hub(monkeypatch, empty, repositories):
        for name, words in (("missing", "is missing"), ("damaged", "cannot be read")):
            (tmp_path / name).mkdir()
            if name == "damaged":
                (tmp_path / name / "pytorch_lora_weights.safetensors").write_bytes(b"0" * 99)
            with pytest.raises(PromptlabError, match=f"{name}/pytorch_lora_weights.safetensors {words}.*generator_lora="):
                draw(dataclasses.replace(PAPER, generator_lora=str(tmp_path / name)))


# --- all others -----------------------------------------------------------------------------------------------------


def filled(names, folder) -> dict:
    """A repository of these names, with the files of a folder under those it has; settings that the tiny one lacks are left out, all else is "no"."""
    there = {name: folder / name for name in names if (folder / name).is_file() or not name.endswith((".json", ".txt"))}
    return {name: path.read_bytes() if path.is_file() else b"no" for name, path in there.items()}


def promptist(folder):
    """GPT-2 in the old files: weights as .bin, the tokenizer as vocab.json and merges.txt."""
    tiny_hub.save_gpt2(folder, safe=False)
    words = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(words["vocab"])), (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    return folder


@pytest.mark.parametrize("source", ["openai-community/gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct", "microsoft/Promptist"])
def test_a_published_language_model_writes_from_an_empty_cache(monkeypatch, empty, tmp_path, source):
    made = promptist(tmp_path / "p") if source.endswith("Promptist") else tiny_hub.save_gpt2(tmp_path / "p")
    with hub.hub(monkeypatch, empty, {source: filled(published.OTHERS[source], made)}) as asked:
        policy = load_policy(source)
    assert policy.rewrite(["a frog"]) and isinstance(policy, Promptist) == source.endswith("Promptist")
    assert policy.tokenizer.decode(policy.tokenizer.encode("a frog Rephrase:")) == "a frog Rephrase:"
    assert not any(path.endswith((".h5", ".ot", ".msgpack", ".tflite", ".onnx", "training_args.bin")) for m, path in asked if m == "GET")


def test_the_published_judges_and_heads_load_from_an_empty_cache(monkeypatch, empty, tmp_path):
    from promptlab.models.aesthetic import load_aesthetic
    from promptlab.models.clip import Clip
    from promptlab.models.pickscore import PROCESSOR, PickScore

    pick, head, clip = COLAB.judge, COLAB.aesthetic, COLAB.clip
    made = tiny_hub.save_pickscore(tmp_path / "pick")
    whole = filled(published.OTHERS[pick], made)
    bare = {name: whole[name] for name in (".gitattributes", "README.md", "config.json", "model.safetensors", "pytorch_model.bin")}
    eye = tiny_hub.save_clip(tmp_path / "clip")
    found = {PROCESSOR: filled(published.OTHERS[PROCESSOR], made), head: filled(published.OTHERS[head], tiny_hub.save_laion(tmp_path / "head")),
             clip: filled(published.OTHERS[clip], eye)}  # fmt: skip
    for weights in (whole, bare):
        shutil.rmtree(empty, ignore_errors=True)
        with hub.hub(monkeypatch, empty, found | {pick: weights}):
            assert PickScore().embed_texts(["a frog"]).shape == (1, 8)
    tiny = json.loads((eye / "open_clip_config.json").read_text())["model_cfg"]  # under the name of the big one
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, COLAB.clip_architecture, tiny)
    with hub.hub(monkeypatch, empty, found):
        assert load_aesthetic(COLAB)(Clip(clip, COLAB.clip_architecture).embed_texts(["a frog"])).shape == (1,)


def test_every_model_of_the_table_has_its_published_files_here():
    assert published.PIPELINES.keys() | published.OTHERS.keys() == sources.HUB.keys()
