"""SFT: the pairs TRL trains on, where the loss falls, and that it learns and goes on after a stop."""

import os
import signal

import pytest
import torch
from tiny_policy import tiny_policy

from promptlab.policy import MARK, log_probs
from promptlab.prompts import load_prompts
from promptlab.sft import as_pairs, finetune, format_rate, held_out_loss, losses, own_folder

RECORDS = [{"x": x, "y": f"{x} oil vivid"} for x in ("a frog", "a castle", "red frog", "blue castle")] * 8


def quiet(policy):
    """Dropout off, as in the policies the course ships."""
    for module in policy.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return policy


def test_pairs_have_promptists_format():
    assert as_pairs(RECORDS[:1]) == [{"prompt": "a frog Rephrase:", "completion": " a frog oil vivid"}] and MARK == " Rephrase:"


def test_trl_sees_the_tokens_the_policy_will_and_loses_nothing_on_the_prompt(tmp_path, monkeypatch):
    import trl

    seen, policy = {}, quiet(tiny_policy())
    monkeypatch.setattr(trl.SFTTrainer, "train", lambda self, **kw: seen.update(next(iter(self.get_train_dataloader()))))
    finetune(policy, [{"x": "a red frog", "y": "blue oil"}] * 4, tmp_path, batch=2)
    ours = policy.encode_rewrites(["a red frog"], [" blue oil"])
    width = ours.ids.shape[1]
    assert seen["input_ids"][0, :width].tolist() == ours.ids[0].tolist()
    counted = seen["labels"][0] != -100
    assert counted[:width].tolist() == [False] * ours.start + ours.mask[0].tolist(), "the loss is on the rewrite and its end token alone"


def test_the_held_out_loss_by_hand():
    policy = quiet(tiny_policy())
    got = held_out_loss(policy, RECORDS[:3], batch=2)
    total = count = 0
    for r in RECORDS[:3]:
        rewrites = policy.encode_rewrites([r["x"]], [" " + r["y"]])
        log_p, _ = log_probs(policy.model, rewrites)
        total, count = total - log_p.sum().item(), count + log_p.numel()
    assert got == pytest.approx(total / count, rel=1e-4)


def test_it_learns_goes_on_after_a_stop_and_leaves_its_start_alone(tmp_path):
    policy = quiet(tiny_policy())
    before, start = held_out_loss(policy, RECORDS), {k: v.clone() for k, v in policy.model.state_dict().items()}
    straight = finetune(policy, RECORDS, tmp_path / "a", epochs=4, lr=1e-2, batch=8)
    assert held_out_loss(straight, RECORDS) < before / 2
    assert all(torch.equal(v, start[k]) for k, v in policy.model.state_dict().items())
    assert (tmp_path / "a" / "metrics.jsonl").read_text().count("\n") >= 1

    class Stop(Exception):
        pass

    def stop_at_two(trainer):
        from transformers import TrainerCallback

        class Callback(TrainerCallback):
            def on_epoch_begin(self, args, state, control, **kw):
                if round(state.epoch or 0) == 2:
                    raise Stop

        trainer.add_callback(Callback())
        return trainer

    import trl

    real = trl.SFTTrainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl, "SFTTrainer", lambda **kw: stop_at_two(real(**kw)))
        with pytest.raises(Stop):
            finetune(policy, RECORDS, tmp_path / "b", epochs=4, lr=1e-2, batch=8)
    again = finetune(policy, RECORDS, tmp_path / "b", epochs=4, lr=1e-2, batch=8)
    for a, b in zip(straight.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_interrupt_is_taken_after_the_step_and_the_same_call_goes_on(tmp_path, monkeypatch, capsys):
    policy, before = quiet(tiny_policy()), signal.getsignal(signal.SIGINT)
    straight = finetune(policy, RECORDS, tmp_path / "a", epochs=2, lr=1e-2, batch=8)
    import trl

    def interrupted(**kwargs):
        trainer, plain = trl_trainer(**kwargs), trl_trainer.training_step

        def step(self, *args, **more):
            if self.state.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)  # amid the third step
            return plain(self, *args, **more)

        trainer.training_step = step.__get__(trainer)
        return trainer

    trl_trainer = trl.SFTTrainer
    with monkeypatch.context() as patch:
        patch.setattr(trl, "SFTTrainer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(policy, RECORDS, tmp_path / "b", epochs=2, lr=1e-2, batch=8)
    assert "Stopped after step 3 of 8. Run this again to go on from there." in capsys.readouterr().out
    assert (tmp_path / "b" / "checkpoint-3" / "model.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before, "handed back"
    again = finetune(policy, RECORDS, tmp_path / "b", epochs=2, lr=1e-2, batch=8)
    for a, b in zip(straight.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_curve_shows_both_losses_and_a_finished_training_is_taken_up(tmp_path):
    policy, held = quiet(tiny_policy()), RECORDS[:4]
    trained = finetune(policy, RECORDS, tmp_path, epochs=2, lr=1e-2, batch=8, held_out=held)
    curve = losses(tmp_path)["held out"]
    assert len(curve) == 9 and [step for step, _ in losses(tmp_path)["training"]] == list(range(1, 9)), "each of 8 steps, and the start"
    assert curve[0] == (0, pytest.approx(held_out_loss(policy, held), abs=1e-3))
    assert curve[-1] == (8, pytest.approx(held_out_loss(trained, held), abs=1e-3))
    again = finetune(policy, RECORDS, tmp_path, epochs=2, lr=1e-2, batch=8, held_out=held)
    for a, b in zip(trained.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert losses(tmp_path)["held out"] == curve


def test_a_training_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    calls = [(tiny_policy(), RECORDS, 3), (tiny_policy(), RECORDS, 4), (tiny_policy(), RECORDS[:8], 3), (tiny_policy(seed=1), RECORDS, 3)]
    folders = [own_folder(*call) for call in calls]
    assert len(set(folders)) == 4 and folders[0] == own_folder(tiny_policy(), list(RECORDS), 3) and tmp_path in folders[0].parents


@pytest.mark.parametrize(
    "text, good",
    [
        ("a frog, vivid", True),
        ("a frog", False),
        ("a frog,, vivid", False),
        ("a frog, vivid, vivid", False),
        ("a frog, ", False),
        ("", False),
    ],
)
def test_the_exact_format(text, good):
    assert format_rate([text], [True]) == good
    assert format_rate([text], [False]) == 0, "cut by the length limit"


def test_the_prompts_the_course_ships_fit_the_policy():
    from promptlab.pocket.language import CONTEXT

    longest = max(len(r["x"]) + len(r["y"]) for r in load_prompts("sft"))
    assert longest < 4 * CONTEXT, "about four letters a token"
