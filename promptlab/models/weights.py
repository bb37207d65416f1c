"""Weights and checkpoints: read only as plain tensors, checked before they are used, written so that a kill loses nothing."""

import hashlib
import io
import math
import os
import pickle
from contextlib import contextmanager
from pathlib import Path

from promptlab.runtime import REPAIR, PromptlabError, first_line, partial_of, remove, write_atomically


@contextmanager
def reading_weights(path, repair: str = REPAIR):
    """Turn whatever goes wrong while weights are read inside the block into a `PromptlabError` that names file and repair."""
    try:
        yield
    except PromptlabError:
        raise
    except Exception as error:  # torch, safetensors, open_clip and diffusers each raise their own kinds
        missing = not Path(path).exists()
        what = "is missing" if missing else f"cannot be read as the weights expected here ({type(error).__name__}: {first_line(error)})"
        raise PromptlabError(f"{path} {what}. To repair it: {repair}") from error


def check_weights(path, repair: str = REPAIR) -> list[Path]:
    """The safetensors files at `path`, a file or a folder, once each has proved complete; reads headers only.

    Raises `PromptlabError` naming the first file that is missing, truncated or no safetensors file.
    """
    from safetensors import safe_open

    path = Path(path)
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise PromptlabError(f"{path} holds no weights (*.safetensors). To repair it: {repair}")
    for file in files:
        with reading_weights(file, repair), safe_open(file, framework="numpy") as weights:
            if not weights.keys():
                raise PromptlabError(f"{file} holds no tensors. To repair it: {repair}")
    return files


def file_hash(files) -> str:
    """A short hash of some files' contents; part of every cache key, so that new weights never meet old pictures."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            while part := stream.read(2**24):  # gigabytes would not fit into memory beside the model
                digest.update(part)
    return digest.hexdigest()[:16]


def check_match(module, file, repair: str = REPAIR):
    """Raise `PromptlabError` unless a file holds exactly a module's tensors: libraries only warn, and go on with random weights."""
    from safetensors import safe_open

    with reading_weights(file, repair), safe_open(file, framework="numpy") as weights:
        stored = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wrong = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
    if wrong:
        raise PromptlabError(f"{file} holds another model's weights (first at {wrong[0]!r}). To repair it: {repair}")


def stored_numbers(file) -> int:
    """How many numbers a weight file holds, from the header of a safetensors file, else from its size as float32."""
    from safetensors import safe_open

    file = Path(file)
    if file.suffix != ".safetensors":
        return file.stat().st_size // 4
    with safe_open(file, framework="numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def load_safetensors(path, repair: str = REPAIR) -> dict:
    """All tensors of a safetensors file, by name, on the CPU; raises as `check_weights` does."""
    from safetensors.torch import load_file

    with reading_weights(path, repair):
        return load_file(path)


def load_weights(module, path, repair: str = REPAIR):
    """Fill a torch module from a safetensors file and return it in evaluation mode.

    Raises `PromptlabError` where the file is missing, truncated, or holds another model's weights.
    """
    tensors = load_safetensors(path, repair)
    with reading_weights(path, repair):
        module.load_state_dict(tensors)
    return module.eval()


def load_tensors(path, repair: str) -> dict:
    """All tensors of a .safetensors, .pth or .bin file, by name, on the CPU; a file that holds anything but tensors is refused.

    Raises `PromptlabError` naming file and repair. Formats other than safetensors may carry code, which `weights_only` never runs.
    """
    import torch

    if Path(path).suffix == ".safetensors":
        return load_safetensors(path, repair)
    with reading_weights(path, repair):
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise PromptlabError(
                f"{path} holds more than plain tensors, such as code that would run when it is read, so it is refused. To repair it: {repair}"
            ) from error
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise PromptlabError(f"{path} is not a table of named tensors. To repair it: {repair}")
    return tensors


def save_checkpoint(state: dict, path: Path):
    """Write a checkpoint so that a kill or a full disk leaves the previous one intact."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict | None:
    """Read a checkpoint as plain tensors, or None where there is none; a broken file is named, not skipped."""
    import torch

    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PromptlabError(
            f"{path} is not a checkpoint of ours ({type(error).__name__}). Delete it to start this stage again."
        ) from error


@contextmanager
def writing(path):
    """Turn a full or read-only disk inside the block into a `PromptlabError` that names what was being written."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its own writer; every other one is none of ours.
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in ("PytorchStreamWriter", "inline_container")):
            raise
        raise PromptlabError(
            f"Could not write {path} ({type(error).__name__}: {first_line(error)}). Free some space, or choose another folder."
        ) from error


@contextmanager
def whole_folder(folder):
    """A new folder to write a model into; at the end of the block its files replace those of `folder`, weights last.

    So a kill or a full disk leaves the previous model intact, and what else lies in `folder` stays. Raises as `writing` does.
    """
    folder = Path(folder)
    with writing(folder):
        partial = partial_of(folder)
        remove(partial)
        try:
            partial.mkdir(parents=True)
            yield partial
            files = sorted((f for f in partial.rglob("*") if f.is_file()), key=lambda f: (f.suffix == ".safetensors", f))
            for file in files:
                target = folder / file.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            for old in folder.glob("model*.safetensors*"):  # shards of a larger model would be read instead
                if old.name not in {f.name for f in files}:
                    old.unlink()
        finally:
            remove(partial)
