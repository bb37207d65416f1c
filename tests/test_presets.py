"""What a preset reaches: the knobs of PPO and SFT, the doctor, an evaluation without a judge; and what stops a training that goes wrong."""

import pytest
import torch
from tiny_policy import tiny_policy

from promptlab import __main__ as cli
from promptlab import evaluation, ppo, sft
from promptlab.config import COLAB, LAPTOP, PAPER, POCKET, PRESETS, for_evaluation
from promptlab.runtime import PromptlabError

FAST = ppo.Settings(prompts=2, samples=2, new_tokens=4, minibatch=4, lr=1e-3)
POOL = ["a frog", "a castle"]


def rising(plain, texts, seeds):
    return torch.arange(float(len(plain)))


def test_pockets_knobs_are_what_they_were(monkeypatch):
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    s = ppo.Settings()
    assert (s.prompts, s.samples, s.images, s.new_tokens, s.epochs, s.minibatch, s.decay) == (8, 12, 1, 40, 4, 96, 100)
    assert (s.lr, s.value_clip, s.kl, s.kl_target) == (2.5e-4, 1.0, 0.1, None) and POCKET.ppo_updates == 100
    assert (POCKET.sft_epochs, POCKET.sft_lr, POCKET.sft_batch) == (2, 3e-4, 32)
    assert (POCKET.steps, POCKET.guidance, POCKET.batch, POCKET.safety, POCKET.clip_architecture) == (2, 1.0, 32, "", "")


@pytest.mark.parametrize("chosen", PRESETS.values(), ids=list(PRESETS))
def test_the_same_line_of_a_lesson_suits_every_preset(monkeypatch, chosen):
    monkeypatch.setenv("PROMPTLAB_PRESET", chosen.name)
    s = ppo.Settings()
    knobs = ("prompts", "samples", "images", "new_tokens", "epochs", "minibatch", "lr", "value_clip", "kl")
    assert all(getattr(s, k) == getattr(chosen, f"ppo_{k}") for k in knobs)
    assert ppo.Settings(lr=1.0).lr == 1.0, "what is written out counts"


def test_the_papers_numbers():
    """promptist-facts: 256 a batch, 12,000 episodes, 4 epochs, lr 5e-5, value clip .2, beta .2, 2 images, 20 steps, guidance 7.5."""
    p = PAPER
    assert p.ppo_prompts * p.ppo_samples == 256 == p.ppo_minibatch and 12_000 <= 256 * p.ppo_updates < 12_256
    assert (p.ppo_epochs, p.ppo_lr, p.ppo_value_clip, p.ppo_kl, p.ppo_images, p.images_per_prompt) == (4, 5e-5, 0.2, 0.2, 2, 2)
    assert (p.generator, p.steps, p.guidance, p.scheduler) == ("CompVis/stable-diffusion-v1-4", 20, 7.5, "DPMSolverMultistepScheduler")
    assert p.sft_lr == 5e-5 and p.sft_batch * 15_000 == pytest.approx(p.sft_epochs * 360_000, rel=0.05)


def test_finetuning_takes_the_presets_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_PRESET", "laptop")
    import trl

    seen = {}

    class Enough(Exception):
        pass

    def stop(**config):
        seen.update(config)
        raise Enough

    monkeypatch.setattr(trl, "SFTConfig", stop)
    for given, expected in ({}, (LAPTOP.sft_epochs, LAPTOP.sft_lr, LAPTOP.sft_batch)), ({"epochs": 7, "lr": 0.5, "batch": 3}, (7, 0.5, 3)):
        with pytest.raises(Enough):
            sft.finetune(tiny_policy(), [{"x": "a frog", "y": "a frog, oil"}], tmp_path, **given)
        assert (seen["num_train_epochs"], seen["learning_rate"], seen["per_device_train_batch_size"]) == expected


# --- what stops a training ------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_before_the_step():
    run = ppo.PPO(tiny_policy(), FAST)
    r = run.rollout(POOL, rising)
    r["advantages"][0, 0] = float("nan")
    before = [p.clone() for p in run.policy.model.parameters()]
    with pytest.raises(PromptlabError, match=r"loss of update 0 is nan; this step was not taken. Lower Settings.lr"):
        run.learn(r, torch.arange(len(r["rewrites"])))
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.model.parameters(), strict=True))


def test_too_little_memory_for_learning_names_the_knob(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ppo.PPO, "learn", full)
    with pytest.raises(PromptlabError, match=r"too little memory.*microbatch=2"):
        ppo.train(tiny_policy(), POOL, rising, tmp_path, 1, FAST, quiet=True)


# --- the doctor, and evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part, words", [("generator", "stabilityai/sd-turbo on the hub (2,580 MB, Stability AI Community)"),
                                         ("judge", "3,944 MB, MIT"), ("clip", "1,710 MB, MIT")])  # fmt: skip
def test_the_doctor_names_what_would_be_downloaded(monkeypatch, part, words):
    monkeypatch.setenv("PROMPTLAB_PRESET", "colab")
    assert words in cli.weights(part)


def test_without_a_judge_an_evaluation_has_no_gold(tiny_scorer):
    """Stable Diffusion's pictures have no gold rating: the rest is measured all the same."""
    records = [{"x": x, "set": "in_domain", "kind": "MC"} for x in ("a frog", "a castle")]
    texts = ["a frog, oil painting", "a castle"]
    judged = evaluation.measure(tiny_scorer, records, texts, seeds=(1, 2))
    tiny_scorer.gallery.judge = None  # as for a preset without one
    plain = evaluation.measure(tiny_scorer, records, [r["x"] for r in records], seeds=(1, 2))
    alone = evaluation.measure(tiny_scorer, records, texts, seeds=(1, 2))
    assert judged.keys() - alone.keys() == {"gold", "intent"} and (alone["reward"] == judged["reward"]).all()
    found = evaluation.results({"plain": [plain], "ppo": [alone]}, records)
    assert {r["metric"] for r in found} == {"reward", "aesthetic", "relevance", "length"}
    assert evaluation.find(found, set="in_domain", method="ppo", versus="plain", metric="reward")["n"] == 2


def test_colab_trains_on_one_generator_and_nothing_is_switched_off():
    assert COLAB.steps <= 4 and COLAB.test_generator != COLAB.generator and COLAB.safety and PAPER.safety


def test_evaluation_may_draw_with_another_generator():
    last = for_evaluation(COLAB)
    assert (last.generator, last.steps, last.guidance, last.scheduler) == (
        "CompVis/stable-diffusion-v1-4",
        20,
        7.5,
        "DPMSolverMultistepScheduler",
    )
    assert (last.clip, last.safety, last.name) == (COLAB.clip, COLAB.safety, "colab") and for_evaluation(POCKET) is POCKET
