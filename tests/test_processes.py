"""Several processes at one training do what one does: on the CPU, where they talk by gloo, each forked from a server that has torch loaded."""

import contextlib
import dataclasses
import io
import logging
import multiprocessing.forkserver
import os
import signal
import socket
import traceback

import numpy as np
import pytest
import torch
from fakes import FakeScorer
from test_ppo import FAST, count
from test_sft import RECORDS, quiet
from tiny_policy import tiny_policy

from promptlab import evaluation, ppo, processes
from promptlab.policy import draw
from promptlab.ppo import PPO
from promptlab.rewards import Calibration, Scores
from promptlab.runtime import PromptlabError
from promptlab.sft import finetune, losses

servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload([
    "promptlab.ppo", "promptlab.sft", "promptlab.evaluation", "promptlab.referee", "pytest", "accelerate.utils", "tokenizers",
    "transformers.models.gpt2.modeling_gpt2", "transformers.tokenization_utils_tokenizers", "trl.trainer.sft_trainer",
])  # fmt: skip
POOL = ["a frog", "a red castle", "blue frog", "castle", "red frog", "a vivid blue castle", "oil"]
# Shares of 3 and 2 prompts, and a last minibatch of one rewrite: the second of two processes has none of it.
UNEVEN = dataclasses.replace(FAST, prompts=5, samples=3, minibatch=7, microbatch=3, compared=True, kl_target=0.5)


@pytest.fixture(scope="module", autouse=True)
def server():
    """Ends with the module: it holds a gigabyte, which other tests would count as theirs."""
    yield
    multiprocessing.forkserver._forkserver._stop()


def begin(job, *args, rank=0, world=1, port=0):
    """Start `job(*args)` in a process of its own, as a launcher does; returns it and the pipe its answer comes by."""
    ours, theirs = servers.Pipe(False)
    child = servers.Process(target=_run, args=(theirs, rank, world, port, job, args))
    child.start(), theirs.close()
    return child, ours


def _run(pipe, rank, world, port, job, args):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    try:
        pipe.send(job(*args))
    except BaseException as error:
        traceback.print_exc()
        pipe.send(error)


def together(world, job, *args) -> list:
    """What `job(*args)` returns in each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = [begin(job, *args, rank=rank, world=world, port=port) for rank in range(world)]
    found = [pipe.recv() if pipe.poll(120) else RuntimeError("no answer in two minutes") for _, pipe in begun]
    for child, _ in begun:
        child.join(20)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return found


def weights(model):
    return {name: p.detach().numpy().copy() for name, p in model.state_dict().items()}


def learn(folder, updates=3, settings=UNEVEN):
    """A short run; its metrics, its weights, what its reward was asked, and what it showed."""
    policy, asked, shown = tiny_policy(), [], io.StringIO()

    def reward(plain, written, seeds):
        asked.append((plain, written))
        reward.last = {"vivid": float(count("vivid")(plain, written, seeds).mean()), "images_per_second": 10.0, "rewrites": len(plain)}
        return count("vivid")(plain, written, seeds)

    with contextlib.redirect_stderr(shown):
        history = ppo.train(policy, POOL, reward, folder, updates, settings, every=1)
    return history, weights(policy.model), asked, shown.getvalue()


def close(one, two, atol=1e-5):
    for name in one:
        if name.endswith(
            "c_attn.bias"
        ):  # softmax takes no notice of the keys' bias: its gradient is rounding, of which Adam makes full steps
            a, b = (np.delete(x[name], slice(len(x[name]) // 3, 2 * len(x[name]) // 3)) for x in (one, two))
        else:
            a, b = one[name], two[name]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_make_the_steps_that_one_makes(alone, tmp_path, world):
    found = together(world, learn, tmp_path)
    history, policy, _, shown = found[0]
    assert len(history) == 3 and history[-1]["gradient_norm"] > 0.01 and history[0]["kl_coefficient"] != history[2]["kl_coefficient"]
    for mine, theirs in zip(history, alone[0], strict=True):
        assert mine.keys() == theirs.keys()
        assert mine == pytest.approx(theirs | {"images_per_second": 10.0 * world}, rel=1e-3, abs=1e-4)
    close(policy, alone[1])
    for other in found[1:]:
        assert other[0] == history and all(np.array_equal(policy[name], other[1][name]) for name in policy), "they never part"
    shares = [[update[0] for update in other[2]] for other in found]
    assert [[*map(len, share)] for share in zip(*shares, strict=True)] == [{2: [9, 6], 3: [6, 6, 3]}[world]] * 3, (
        "rewrites of one prompt stay together"
    )
    for update, (plain, written) in enumerate(alone[2]):
        assert [p for other in found for p in other[2][update][0]] == plain and [
            w for other in found for w in other[2][update][1]
        ] == written
    assert sorted(f.name for f in tmp_path.iterdir()) == ["metrics.jsonl", "ppo-before.ckpt", "ppo.ckpt"]
    assert "3/3" in shown and not any(other[3] for other in found[1:]), "one bar"


def test_a_run_of_two_processes_goes_on_in_one(alone, tmp_path):
    together(2, learn, tmp_path, 2)
    history, policy, asked, _ = learn(tmp_path)
    assert len(asked) == 1 and [m["update"] for m in history] == [0, 1, 2]
    close(policy, alone[1])


def divided(folder, updates=3, lora=0):
    """As `learn`, with what the processes hold of a matrix while they train."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # as the launcher reads it in data/benchmarks/fsdp.yaml
    held, plain = [], PPO.learn

    def look(self, r, index):
        held.append(self.policy.model.base_model.h[0].mlp.c_fc.weight.to_local().shape[0])
        return plain(self, r, index)

    PPO.learn = look
    return *learn(folder, updates, dataclasses.replace(UNEVEN, lora=lora)), held


def test_a_policy_divided_among_processes_makes_the_same_steps_and_goes_on(alone, tmp_path):
    first = together(2, divided, tmp_path, 2)
    for history, policy, asked, _, held in together(2, divided, tmp_path):
        assert set(held) == {16}, "half of the 32 rows"
        assert len(asked) == 1 and len(history) == 3
        for mine, theirs in zip(history, alone[0], strict=True):
            assert mine == pytest.approx(theirs | {"images_per_second": 20.0}, rel=1e-3, abs=1e-4)
        close(policy, alone[1])
    history, policy, _, _ = learn(tmp_path, 3)
    assert history == first[0][0] + history[2:], "its checkpoint is whole: one process goes on from it as well"
    close(policy, alone[1])


def measured():
    """An evaluation by a scorer whose numbers go by words and seed alone, and how many prompts were scored here."""
    scorer, records, drawn = FakeScorer(), [{"x": x} for x in ("a blue frog", "a fox", "a red castle", "a pig", "a frog")], []

    def score(plain, written, seeds, progress):
        drawn.extend(plain)
        looks = torch.from_numpy(scorer.gallery.embeddings([w for w in written for _ in seeds], list(seeds) * len(written)))
        pair = torch.arange(len(plain)).repeat_interleave(len(seeds))
        return Scores(pair, torch.tensor(list(seeds) * len(plain)), looks[:, 0], looks[:, 1], looks[:, 2], looks[:, 1])

    scorer.score, scorer.calibration = score, Calibration(relevance_slope=10.0, relevance_threshold=0.5, aesthetic_scale=0.5)
    return evaluation.measure(scorer, records, [f"{r['x']}, vivid" for r in records], seeds=(1, 2)), len(drawn)


def test_an_evaluation_is_shared_and_put_together_in_order():
    whole, drawn = measured()
    assert drawn == 5 and len(set(whole["reward"])) == 5
    for (found, part), share in zip(together(2, measured), (3, 2), strict=True):
        assert part == share and found.keys() == whole.keys() and all(np.array_equal(found[name], whole[name]) for name in whole)


def tuned(folder):
    policy = finetune(quiet(tiny_policy()), RECORDS, folder, epochs=2, lr=1e-2, batch=8, held_out=RECORDS[:4])
    return weights(policy.model), losses(folder)


def test_processes_share_a_batch_of_sft(tmp_path):
    one, curve = tuned(tmp_path / "one")
    for found, seen in together(2, tuned, tmp_path / "two"):
        close(one, found, atol=1e-4)
        for name, points in curve.items():
            assert [step for step, _ in points] == [step for step, _ in seen[name]]
            assert [y for _, y in points] == pytest.approx([y for _, y in seen[name]], rel=1e-2), name
    assert len(list((tmp_path / "two").glob("checkpoint-*"))) == 1 and len(list((tmp_path / "two").glob("*/whole.json"))) == 1


# --- the parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, tokens", [(1, 7), (16, 11), (5, 50257)])
def test_a_draw_is_torchs_own_and_knows_nothing_of_who_else_draws(n, tokens):
    scores = 3 * torch.randn(n, tokens, generator=torch.Generator().manual_seed(n))
    noise = lambda: torch.Generator().manual_seed(4)  # noqa: E731
    expected = torch.multinomial(scores.softmax(-1), 1, generator=noise())[:, 0]
    assert torch.equal(draw(noise(), n)(scores, slice(None)), expected)
    half = slice(n // 2, n)
    assert torch.equal(draw(noise(), n, half)(scores[half], slice(None)), expected[half])


def test_tokens_are_drawn_as_often_as_they_are_likely():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = draw(torch.Generator().manual_seed(0), 20000)(p.log().expand(20000, 4), slice(None))
    seen = torch.bincount(drawn, minlength=4) / 20000
    assert ((seen - p).abs() < 4 * (p * (1 - p) / 20000).sqrt()).all(), seen


def test_a_part_of_the_rows_is_written_as_among_all():
    policy = tiny_policy()
    whole, part = policy.sample(POOL, seed=3), policy.sample(POOL, seed=3, rows=slice(2, 5))
    assert part.texts == whole.texts[2:5] and part.start == whole.start


def test_prompts_of_one_length_are_written_without_a_warning():
    from transformers.utils.logging import warning_once

    warning_once.cache_clear()
    policy, said, log = tiny_policy(), [], logging.getLogger("transformers.modeling_utils")
    policy.model.config.pad_token_id, handler = policy.end, logging.Handler()
    handler.emit = said.append
    log.addHandler(handler)
    try:
        for filtered in (True, False):
            policy.rewrite(["a frog", "red frog"], decode="beam", new_tokens=8)
            log.filters = log.filters if filtered else []
            warning_once.cache_clear()
            policy.model.base_model.warn_if_padding_and_no_attention_mask(torch.full((2, 2), policy.end), None)
            assert bool(said) != filtered
    finally:
        log.removeHandler(handler)


def test_figures_of_shares_are_those_of_the_whole():
    parts = [{"gold": 3.0, "blacked_out": 1, "images_per_second": 5.0}, {"gold": 6.0, "images_per_second": 4.0, "which": "b"}]
    expected = {"gold": 4.0, "blacked_out": 1, "images_per_second": 9.0, "which": "b"}
    assert processes.merged_figures(parts, [10, 5]) == expected and processes.merged_figures([{}, {}], [1, 1]) == {}


def lone():
    os.environ["WORLD_SIZE"] = "1"  # as `accelerate launch` says of a single process
    learn(os.devnull, 0, FAST)
    from accelerate import PartialState

    return (
        processes.count(),
        processes.share(5, 2),
        processes.every("x"),
        torch.distributed.is_initialized(),
        dict(PartialState._shared_state),
    )


def test_one_process_needs_nobody():
    assert together(1, lone) == [(1, slice(0, 10), ["x"], False, {})]


def crowded():
    learn(os.devnull, 1, dataclasses.replace(UNEVEN, prompts=1))


def apart():
    policy = tiny_policy(seed=processes.index())
    ppo.train(policy, POOL, count("vivid"), os.devnull, 1, UNEVEN)


def unequal():
    finetune(tiny_policy(), RECORDS, os.devnull, batch=7)


@pytest.mark.parametrize("job, said", [
    (crowded, "2 processes cannot share 1 prompts. Start at most 1"),
    (apart, "The processes start apart"),
    (unequal, "2 processes cannot share a batch of 7 equally"),
])  # fmt: skip
def test_what_cannot_be_shared_is_said(job, said):
    with pytest.raises(PromptlabError, match=said):
        together(2, job)
