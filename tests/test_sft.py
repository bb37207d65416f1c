"""SFT: the pairs TRL trains on, where the loss falls, and that it learns and goes on after a stop."""

import json
import os
import shutil
import signal

import pytest
import torch
from tiny_policy import tiny_policy

from promptlab import sft
from promptlab.policy import MARK, log_probs
from promptlab.prompts import load_prompts
from promptlab.runtime import PromptlabError
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


# --- checkpoints that a kill, a full disk or a hand broke -----------------------------------------------------------


def train(folder, **more):
    return finetune(quiet(tiny_policy()), RECORDS, folder, **{"epochs": 3, "lr": 1e-2, "batch": 16} | more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training of six steps, its policy, and its folder as it was after four, with both checkpoints."""
    folder, before = tmp_path_factory.mktemp("sft"), tmp_path_factory.mktemp("before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "remove", lambda path: path.name == "checkpoint-4" or shutil.rmtree(path))
        policy = train(folder)
    shutil.copytree(folder, before, dirs_exist_ok=True)
    return policy, before


@pytest.fixture
def broken_off(finished, tmp_path):
    """A fresh copy: `checkpoint-4` is the one before, `checkpoint-6` the last."""
    shutil.copytree(finished[1], tmp_path / "run")
    return tmp_path / "run"


def alike(one, two):
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


DAMAGES = {
    "cut": lambda f: f.write_bytes(f.read_bytes()[:-7]),
    "empty": lambda f: f.write_bytes(b""),
    "zeros": lambda f: f.write_bytes(bytes(f.stat().st_size)),
    "one byte": flip,
    "gone": lambda f: f.unlink(),
    "a folder": lambda f: (f.unlink(), f.mkdir()),
}
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(broken_off, capsys, file, damage):
    DAMAGES[damage](broken_off / "checkpoint-6" / file)
    model = quiet(tiny_policy()).model
    assert sft.last_whole(broken_off, model) == broken_off / "checkpoint-4"
    said = capsys.readouterr().out
    assert f"{broken_off / 'checkpoint-6'} is passed over" in said and "goes on from checkpoint-4" in said
    shutil.rmtree(broken_off / "checkpoint-4")
    assert sft.last_whole(broken_off, model) is None and "begins anew" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["training_args.bin", "tokenizer.json", "README.md"])
def test_what_no_training_reads_may_be_damaged(broken_off, capsys, file):
    (broken_off / "checkpoint-6" / file).write_bytes(b"x")
    assert sft.last_whole(broken_off, quiet(tiny_policy()).model) == broken_off / "checkpoint-6" and not capsys.readouterr().out


@pytest.mark.parametrize("written", range(len(FILES)))
def test_a_kill_at_any_moment_of_a_write_leaves_the_one_before(broken_off, written):
    """The files as transformers writes them, one after the other; the seal last."""
    last = broken_off / "checkpoint-6"
    (last / sft.SEAL).unlink()
    for file in FILES[written:]:
        (last / file).unlink()
    (last / FILES[written]).write_bytes(b"{half")
    assert sft.last_whole(broken_off, quiet(tiny_policy()).model) == broken_off / "checkpoint-4"


def test_a_training_with_a_half_written_checkpoint_goes_on_to_the_same_end(finished, broken_off, capsys):
    for name in (sft.SEAL, "trainer_state.json", "rng_state.pth"):
        (broken_off / "checkpoint-6" / name).unlink()
    alike(train(broken_off), finished[0])
    assert [p.name for p in sft.checkpoints(broken_off)] == ["checkpoint-6"] and not sft.fault(broken_off / "checkpoint-6")
    said = capsys.readouterr()
    assert "passed over: it was never finished. The training goes on from checkpoint-4." in said.out
    assert "missing keys" not in said.out + said.err, "of weights that are stored once and used twice"


def test_checkpoints_of_earlier_versions_had_no_seal(broken_off):
    model = quiet(tiny_policy()).model
    for checkpoint in sft.checkpoints(broken_off):
        (checkpoint / sft.SEAL).unlink()
    assert sft.last_whole(broken_off, model) == broken_off / "checkpoint-6"
    (broken_off / "checkpoint-6" / "trainer_state.json").unlink()
    assert sft.last_whole(broken_off, model) == broken_off / "checkpoint-4"
    (broken_off / "checkpoint-4" / sft.SEAL).write_text("half")  # of a seal is none
    assert sft.last_whole(broken_off, model) == broken_off / "checkpoint-4"


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "checkpoint-9").write_text("a file"), (tmp_path / "checkpoint-best").mkdir(), (tmp_path / "checkpoint-").mkdir()
    assert sft.checkpoints(tmp_path) == [] == sft.checkpoints(tmp_path / "none")


def test_the_checkpoint_of_another_model_is_named(broken_off):
    with pytest.raises(PromptlabError, match=f"{broken_off / 'checkpoint-6'} is no checkpoint to go on from"):
        finetune(quiet(tiny_policy(width=16)), RECORDS, broken_off, 3, 1e-2, 16)
    weights = broken_off / "checkpoint-6" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({f"other.{k}": v for k, v in load_file(weights).items()}, weights)
    sft.seal(broken_off / "checkpoint-6")
    with pytest.raises(PromptlabError, match="is of another model"):
        train(broken_off)
    assert len(sft.checkpoints(broken_off)) == 2, "nothing of it is deleted"


def test_a_disk_that_fills_up_while_it_saves_is_said_and_the_next_call_goes_on(finished, tmp_path, monkeypatch):
    real = torch.save

    def full(thing, place, *args, **kwargs):
        if "checkpoint-4" in str(place):
            raise RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: file write failed")
        return real(thing, place, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(PromptlabError, match=f"Could not write {tmp_path}.*Free some space"):
            train(tmp_path)
    assert [p.name for p in sft.checkpoints(tmp_path)] == ["checkpoint-2"], "the half of one that would keep the disk full is gone"
    alike(train(tmp_path), finished[0])


def test_a_folder_that_cannot_be_is_said_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(PromptlabError, match=f"Could not write {folder}"):
            train(folder)


@pytest.mark.parametrize("log", [None, b"", b"\0" * 99, bytes(range(200, 256)), b'3\n"loss"\n[]\n'])
def test_curves_that_are_lost_say_how_they_come_back(tmp_path, log):
    if log is not None:
        (tmp_path / "metrics.jsonl").write_bytes(log)
    with pytest.raises(PromptlabError, match=r"metrics.jsonl is missing or damaged: finetune\(\) with the same arguments"):
        losses(tmp_path)


def test_curves_with_damaged_lines_are_drawn_from_the_others(tmp_path, capsys):
    rows = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 2}, {"loss": 3.0}, {"step": 3, "loss": "x"}, {"step": "4", "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 5, "lo')
    assert losses(tmp_path)["training"] == [(1, 2), (2, 1.0)]
    assert "1 of 6 lines are damaged" in capsys.readouterr().out
