"""Weight files: whole or named with their repair, and never another model's."""

import os

import pytest
import torch
from safetensors.torch import save_file

from promptlab.models.weights import check_weights, file_hash, load_safetensors, load_weights, whole_folder, writing
from promptlab.runtime import PromptlabError


def test_hashes_of_files_are_those_of_their_contents(tmp_path):
    import hashlib

    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(os.urandom(2**24 + 5)), second.write_bytes(b"more")
    assert file_hash([first, second]) == hashlib.sha256(first.read_bytes() + b"more").hexdigest()[:16]


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(torch.nn.Linear(3, 2).state_dict(), path)
    return path


def broken(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif how == "pickle":
        torch.save(torch.nn.Linear(3, 2).state_dict(), path)


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "text", "pickle"])
@pytest.mark.parametrize("read", [check_weights, load_safetensors])
def test_broken_weights_name_file_and_repair(weights, read, how):
    broken(weights, how)
    with pytest.raises(PromptlabError) as error:
        read(weights)
    assert str(weights) in str(error.value)
    assert "git checkout -- data/pocket" in str(error.value) and "python -m promptlab.pocket build" in str(error.value)
    with pytest.raises(PromptlabError, match="repair it: say please"):
        read(weights, repair="say please")


def test_good_weights_load(weights):
    assert check_weights(weights) == check_weights(weights.parent) == [weights]
    assert set(load_safetensors(weights)) == {"weight", "bias"}
    module = load_weights(torch.nn.Linear(3, 2), weights)
    assert torch.equal(module.weight, load_safetensors(weights)["weight"]) and not module.training


def test_a_folder_is_checked_file_by_file(weights):
    (weights.parent / "deep").mkdir()
    second = weights.parent / "deep" / "vae.safetensors"
    second.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(PromptlabError, match="vae.safetensors"):
        check_weights(weights.parent)
    second.unlink(), weights.unlink()
    with pytest.raises(PromptlabError, match="holds no weights"):
        check_weights(weights.parent)


@pytest.mark.parametrize("foreign", [torch.nn.Linear(4, 2), torch.nn.Sequential(torch.nn.Linear(3, 2))])
def test_another_models_weights_are_refused(weights, foreign):
    with pytest.raises(PromptlabError, match="model.safetensors"):
        load_weights(foreign, weights)


def test_a_folder_is_replaced_whole_and_what_else_lies_in_it_stays(tmp_path):
    folder = tmp_path / "policy"
    for text in ("old", "new"):
        with whole_folder(folder) as partial:
            (partial / "config.json").write_text(text), (partial / "model.safetensors").write_text(text)
            (partial / "deep").mkdir(), (partial / "deep" / "more.json").write_text(text)
        (folder / "notes.txt").write_text("mine"), (folder / "model-00001-of-00002.safetensors").write_text("a shard of before")
    with whole_folder(folder) as partial:
        (partial / "model.safetensors").write_text("newest")
    read = {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}
    assert read == {"config.json": "new", "model.safetensors": "newest", "deep/more.json": "new", "notes.txt": "mine"}
    assert os.listdir(tmp_path) == ["policy"], "nothing beside it"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_written_stays_as_it_was(tmp_path, error):
    folder = tmp_path / "policy"
    folder.mkdir(), (folder / "model.safetensors").write_text("old")
    with pytest.raises(PromptlabError if isinstance(error, OSError) else KeyboardInterrupt), whole_folder(folder) as partial:
        (partial / "model.safetensors").write_text("ne")
        raise error
    assert (folder / "model.safetensors").read_text() == "old" and os.listdir(tmp_path) == ["policy"]


def test_writing_names_the_disk_and_nothing_else(tmp_path):
    with pytest.raises(PromptlabError, match=f"Could not write {tmp_path}.*Free some space"), writing(tmp_path):
        torch.save({"a": torch.zeros(10)}, tmp_path)  # a folder in the way
    with pytest.raises(PromptlabError, match="Could not write"), writing(tmp_path):
        save_file({"a": torch.zeros(10)}, tmp_path / "none" / "a.safetensors")
    for other in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")):
        with pytest.raises(type(other)), writing(tmp_path):
            raise other


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_a_full_disk_is_told_from_other_errors_of_torch():
    with pytest.raises(PromptlabError, match="Could not write"), writing("/dev/full"):
        torch.save({"a": torch.zeros(100_000)}, "/dev/full")
