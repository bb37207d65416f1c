"""Pictures that are drawn once: recalled, shared between processes, and kept through a kill."""

import dataclasses
import io
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from promptlab.pictures.gallery import Gallery
from promptlab.runtime import PromptlabError

PROMPTS = ["a frog", "a castle", "a frog", "a frog", "a dog"]
SEEDS = [1, 1, 2, 1, 7]


class FakeGenerator:
    """Draws at once: a picture that only (prompt, seed) decides. Counts its calls; may pause or stop."""

    def __init__(self, batch=4, pause=0.0, stop_at=None):
        self.batch, self.pause, self.stop_at, self.calls = batch, pause, stop_at, []

    def key(self, prompt, seed):
        return ("fake", prompt, int(seed))

    def generate(self, prompts, seeds):
        if self.stop_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append(list(zip(prompts, seeds, strict=True)))
        time.sleep(self.pause)
        return np.stack([np.full((128, 128, 3), (len(p) * 37 + s) % 251, np.uint8) for p, s in zip(prompts, seeds, strict=True)])


class FakeClip:
    fingerprint = "fake"

    def embed_images(self, images):
        return images.reshape(len(images), -1)[:, :4].astype(np.float32)


@dataclasses.dataclass
class FakePreset:
    name: str = "fake"
    judge: str = ""


def fake_gallery(folder, **kwargs):
    gallery = Gallery(FakePreset(), FakeClip(), folder)
    gallery.generator = FakeGenerator(**kwargs)
    return gallery


@pytest.fixture
def gallery(tiny_preset, tiny_clip, tiny_generator, tmp_path):
    gallery = Gallery(tiny_preset, tiny_clip, tmp_path)
    gallery.generator = tiny_generator
    return gallery


def no_drawing(monkeypatch, generator):
    monkeypatch.setattr(generator, "generate", lambda *_, **__: pytest.fail("it was drawn again"))


# --- what it remembers ----------------------------------------------------------------------------------------------


def test_the_second_call_draws_nothing(gallery, tiny_preset, tiny_clip, tiny_generator, tmp_path, monkeypatch):
    first = [getattr(gallery, what)(PROMPTS, SEEDS) for what in ("embeddings", "facts", "thumbnails", "pictures")]
    no_drawing(monkeypatch, tiny_generator)
    other = Gallery(tiny_preset, tiny_clip, tmp_path)  # a new process would open the same file
    other.generator = tiny_generator
    for again in (gallery, other):
        second = [getattr(again, what)(PROMPTS, SEEDS) for what in ("embeddings", "facts", "thumbnails", "pictures")]
        assert (second[0] == first[0]).all() and second[1:3] == first[1:3] and (second[3] == first[3]).all()


def test_rows_come_in_the_order_asked_and_repeats_are_drawn_once(tmp_path):
    gallery = fake_gallery(tmp_path)
    x = gallery.embeddings(PROMPTS, SEEDS)
    assert x.shape == (5, 4) and x.dtype == np.float32
    assert x[:, 0].tolist() == [(len(p) * 37 + s) % 251 for p, s in zip(PROMPTS, SEEDS, strict=True)] and (x[0] == x[3]).all()
    drawn = [row for call in gallery.generator.calls for row in call]
    assert len(drawn) == 4 == len(set(drawn)), "four different ones of five"
    gallery.embeddings(PROMPTS[::-1] + ["a new one"], SEEDS[::-1] + [0])
    assert gallery.generator.calls[-1] == [("a new one", 0)], "only what is missing"


def test_what_it_recalls_is_what_the_generator_drew_and_clip_and_judge_saw(gallery, tiny_generator, tiny_clip):
    images = tiny_generator.generate(PROMPTS, SEEDS)
    recalled = gallery.pictures(PROMPTS, SEEDS)
    assert recalled.dtype == np.uint8 and np.abs(recalled.astype(int) - images).max() <= 1  # another batch size
    for png, picture in zip(gallery.thumbnails(PROMPTS, SEEDS), recalled, strict=True):
        decoded = Image.open(io.BytesIO(png))
        assert decoded.format == "PNG" and (np.asarray(decoded) == picture).all()
    np.testing.assert_allclose(gallery.embeddings(PROMPTS, SEEDS), tiny_clip.embed_images(recalled), atol=1e-5)
    for fact, expected in zip(gallery.facts(PROMPTS, SEEDS), gallery.judge.facts(recalled), strict=True):
        assert fact | {"gold": 0} == expected | {"gold": 0} and fact["gold"] == pytest.approx(expected["gold"], abs=2e-3)


def test_thumbnails_are_exactly_the_drawn_picture(gallery, tiny_generator, monkeypatch):
    drawn, draw = [], tiny_generator.generate
    monkeypatch.setattr(tiny_generator, "generate", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    recalled = gallery.pictures(["a frog", "a castle"], [1, 2])
    assert len(drawn) == 1 and (recalled == drawn[0]).all()


def test_pictures_drawn_before_new_weights_are_not_recalled(gallery, tiny_world, tiny_preset, tiny_clip, tiny_generator, tmp_path):
    from safetensors.torch import load_file, save_file

    from promptlab.models.clip import Clip

    gallery.embeddings(["a frog"], [1])
    seen = lambda g: g.db.execute("select count(*) from pictures").fetchone()[0]  # noqa: E731
    for part in ("judge", "clip"):
        folder = shutil.copytree(tiny_world / part, tmp_path / part)
        (file,) = folder.glob("*.safetensors")
        tensors = load_file(file)
        next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] += 1
        save_file(tensors, file)
        changed = Gallery(dataclasses.replace(tiny_preset, **{part: str(folder)}), Clip(folder) if part == "clip" else tiny_clip, tmp_path)
        changed.generator = tiny_generator
        before = seen(gallery)
        changed.embeddings(["a frog"], [1])
        assert seen(gallery) == before + 1, f"new weights of the {part} are looked at anew"
    gallery.embeddings(["a frog"], [1])
    assert seen(gallery) == 3, "and the old ones are still known"


def test_a_row_from_another_machine_is_drawn_again_only_for_its_small_picture(tmp_path):
    gallery = fake_gallery(tmp_path)
    before, looks = gallery.thumbnails(PROMPTS, SEEDS), gallery.embeddings(PROMPTS, SEEDS)
    gallery._write("update pictures set thumbnail = null")  # as promptlab.course.keeping restores it
    drawn = len(gallery.generator.calls)
    assert np.array_equal(gallery.embeddings(PROMPTS, SEEDS), looks) and len(gallery.generator.calls) == drawn
    assert gallery.thumbnails(PROMPTS, SEEDS) == before and len(gallery.generator.calls) == drawn + 1
    assert gallery.thumbnails(PROMPTS, SEEDS) == before and len(gallery.generator.calls) == drawn + 1, "and then kept"


def test_an_empty_prompt_is_refused_before_anything_is_drawn(gallery):
    with pytest.raises(PromptlabError, match="''"):
        gallery.embeddings(["a frog", ""], [1, 2])
    with pytest.raises(ValueError):
        gallery.embeddings(["a frog"], [1, 2])
    assert gallery.db.execute("select count(*) from pictures").fetchone()[0] == 0


def test_it_lies_in_the_run_folder_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "drive"))
    assert Gallery(FakePreset(), FakeClip()).path == tmp_path.resolve() / "drive" / "fake" / "cache" / "pictures.sqlite"


def test_a_preset_without_a_judge_has_no_facts(tmp_path):
    assert fake_gallery(tmp_path).facts(["a frog"], [1]) == [{}]


# --- kills and company ----------------------------------------------------------------------------------------------


def test_finished_batches_survive_a_stop(tmp_path):
    prompts, seeds = [f"frog {i}" for i in range(10)], list(range(10))
    stopped = fake_gallery(tmp_path, batch=3, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        stopped.embeddings(prompts, seeds)
    again = fake_gallery(tmp_path, batch=3)
    again.embeddings(prompts, seeds)
    assert [len(call) for call in again.generator.calls] == [3, 1], "six of ten were kept"


def test_a_batch_is_looked_at_while_the_next_is_drawn(tmp_path, monkeypatch):
    gallery, second = fake_gallery(tmp_path, batch=2), threading.Event()
    draw, look = gallery.generator.generate, gallery.clip.embed_images
    gallery.embeddings(["a dog"], [0])  # the first look says how long an embedding is

    def draws(prompts, seeds):
        if len(gallery.generator.calls) == 2:
            second.set()
        return draw(prompts, seeds)

    def looks(images):
        assert second.wait(10), "the second batch waits until the first was looked at"
        return look(images)

    monkeypatch.setattr(gallery.generator, "generate", draws)
    monkeypatch.setattr(gallery.clip, "embed_images", looks)
    found = gallery.embeddings(["a frog"] * 5, range(5))
    monkeypatch.undo()
    np.testing.assert_array_equal(found, gallery.embeddings(["a frog"] * 5, range(5)))
    assert len(gallery.generator.calls) == 1 + 3


def test_what_goes_wrong_beside_the_drawing_ends_it(tmp_path, monkeypatch):
    """And keeps what was seen before."""
    gallery, looks = fake_gallery(tmp_path, batch=1), []
    look = gallery.clip.embed_images

    def tires(images):
        looks.append(1)
        if len(looks) == 3:
            raise PromptlabError("the disk is full")
        return look(images)

    gallery.embeddings(["a dog"], [0])  # the first look says how long an embedding is
    monkeypatch.setattr(gallery.clip, "embed_images", tires)
    with pytest.raises(PromptlabError, match="the disk is full"):
        gallery.embeddings(["a frog"] * 9, range(9))
    monkeypatch.undo()
    assert len(gallery.generator.calls) <= 1 + 4, "it went on drawing"
    drawn = len(gallery.generator.calls)
    gallery.embeddings(["a frog"] * 9, range(9))
    assert len(gallery.generator.calls) == drawn + 7


def test_looking_beside_the_drawing_is_as_safe_as_after_it(tmp_path, monkeypatch):
    """Under the caller's gradients, one look at a time, from a picture that nobody changes, and in a program that has otherwise ended."""
    import torch

    gallery = fake_gallery(tmp_path / "a", batch=1)
    buffer, busy, seen = np.zeros((1, 128, 128, 3), np.uint8), [], []
    draw = gallery.generator.generate

    def into_one_buffer(prompts, seeds):
        buffer[:] = draw(prompts, seeds)
        return buffer

    def look(images):
        busy.append(1)
        seen.append((torch.is_grad_enabled(), len(busy)))
        time.sleep(0.02)
        busy.pop()
        return images.reshape(len(images), -1)[:, :4].astype(np.float32)

    monkeypatch.setattr(gallery.generator, "generate", into_one_buffer)
    monkeypatch.setattr(gallery.clip, "embed_images", look)
    with torch.no_grad():
        found = gallery.embeddings(["a frog"] * 6, range(6))
    assert found[:, 0].tolist() == [(6 * 37 + seed) % 251 for seed in range(6)]
    threads = [threading.Thread(target=gallery.embeddings, args=([f"{n} frogs"] * 6, range(6))) for n in range(3)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not any(grad for grad, _ in seen[:6]) and all(number == 1 for _, number in seen), "one look at a time, without gradients"
    code = (
        "import sys, threading, time, torch; sys.path.insert(0, sys.argv[1]); from test_gallery import fake_gallery\n"
        "gallery = fake_gallery(sys.argv[2], batch=1, pause=0.05)\n"
        "def work():\n    time.sleep(0.5); print(gallery.embeddings(['a frog'] * 5, range(5)).shape)\n"
        "threading.Thread(target=work).start()"
    )
    here = os.path.dirname(__file__)
    out = subprocess.run([sys.executable, "-c", code, here, tmp_path / "b"], capture_output=True, text=True, timeout=120)
    assert "(5, 4)" in out.stdout, out.stderr


def open_many(folder, barrier):
    try:
        for i in range(60):
            barrier.wait(60)
            fake_gallery(folder / str(i)).db.close()
    except BaseException:
        barrier.abort()  # or the others would wait
        raise


def write_many(folder, barrier, start, count):
    gallery = fake_gallery(folder, batch=2)
    prompts = [f"frog {i}" for i in range(start, start + count)]
    barrier.wait(60)
    gallery.embeddings(prompts, range(start, start + count))
    assert gallery.embeddings(prompts, range(start, start + count)).shape == (count, 4)


def at_once(target, folder, *arguments, count=2):
    """Run a function in some processes that wait for each other; their exit codes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    workers = [context.Process(target=target, args=(folder, barrier, *(a[i] for a in arguments))) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    return [worker.exitcode for worker in workers]


def write_forever(folder):
    gallery = fake_gallery(folder, batch=2, pause=0.002)
    gallery.embeddings([f"frog {i}" for i in range(100_000)], range(100_000))


def rows_and_health(folder):
    db = sqlite3.connect(folder / "pictures.sqlite")
    return db.execute("select count(*) from pictures").fetchone()[0], db.execute("pragma integrity_check").fetchone()[0]


def test_processes_may_open_a_fresh_gallery_at_the_same_moment(tmp_path):
    """Two notebooks of a new reader: the first to come makes the file, the others wait."""
    assert at_once(open_many, tmp_path, count=3) == [0, 0, 0]


def test_two_processes_write_one_gallery_at_once(tmp_path):
    """They share half of their pictures."""
    fake_gallery(tmp_path)
    assert at_once(write_many, tmp_path, (0, 100), (200, 200)) == [0, 0]
    assert rows_and_health(tmp_path) == (300, "ok")


def test_a_killed_process_leaves_a_sound_gallery(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=write_forever, args=(tmp_path,))
    worker.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        try:
            if rows_and_health(tmp_path)[0] >= 20:
                break
        except sqlite3.Error:  # not there yet
            pass
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    rows, health = rows_and_health(tmp_path)
    assert rows >= 20 and rows % 2 == 0 and health == "ok", "whole batches only"
    gallery = fake_gallery(tmp_path)
    gallery.embeddings([f"frog {i}" for i in range(rows + 3)], range(rows + 3))
    assert sum(map(len, gallery.generator.calls)) == 3


# --- files that are no gallery --------------------------------------------------------------------------------------


def fill(folder):
    gallery = fake_gallery(folder)
    gallery.embeddings([f"frog {i}" for i in range(40)], range(40))
    gallery.db.execute("pragma wal_checkpoint(truncate)")
    gallery.db.close()
    return folder / "pictures.sqlite"


def damage(path, how):
    if how == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n" * 50)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "holes":
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    elif how == "another table":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("create table pictures (name text)")
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["text", "truncated", "holes", "another table", "folder"])
def test_a_broken_file_is_named_with_what_to_do(tmp_path, how):
    path = fill(tmp_path)
    damage(path, how)
    with pytest.raises(PromptlabError, match=r"pictures\.sqlite.*[Dd]elete"):
        fake_gallery(tmp_path).embeddings([f"frog {i}" for i in range(41)], range(41))


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(PromptlabError, match="PROMPTLAB_HOME"):
        fake_gallery(tmp_path / "cache")


# --- rows that are damaged in a sound file --------------------------------------------------------------------------

DAMAGES = ["embedding = substr(embedding, 1, 4)", "embedding = substr(embedding, 1, 9)", "embedding = x'0000c07f0000c07f0000c07f0000c07f'", "embedding = x''",
           "embedding = embedding || embedding", "embedding = 'text'", "embedding = 7", "embedding = null", "facts = '{'", "facts = '[1]'", "facts = '3'",
           "facts = 'null'", "facts = null", "facts = x'ff'", "thumbnail = substr(thumbnail, 1, 150)", "thumbnail = 'text'", "thumbnail = x''"]  # fmt: skip


@pytest.mark.parametrize("change", DAMAGES)
@pytest.mark.parametrize("where", ["where rowid = 2", ""], ids=["one row", "all rows"])
def test_a_damaged_row_is_drawn_again(tmp_path, change, where):
    gallery = fake_gallery(tmp_path)
    ask = lambda: [np.asarray(getattr(gallery, what)(PROMPTS, SEEDS)) for what in ("embeddings", "facts", "pictures")]  # noqa: E731
    before = ask()
    gallery._write(f"update pictures set {change} {where}")
    calls = len(gallery.generator.calls)
    assert all(np.array_equal(a, b) for a, b in zip(ask(), before, strict=True)) and len(gallery.generator.calls) > calls
    calls = len(gallery.generator.calls)
    ask()
    assert len(gallery.generator.calls) == calls, "and then it is whole"


@pytest.mark.parametrize("fact", ['{}', '{"gold": "high"}', '{"gold": NaN, "subjects": ["ant", "fox"], "colour": "red", "medium": "photo", "background": "snow"}',
                                  '{"gold": 5, "subjects": ["ant", "fox", "owl"], "colour": "red", "medium": "photo", "background": "snow"}',
                                  '{"gold": 5, "subjects": ["ant", "fox"], "colour": 3, "medium": "photo", "background": "snow"}'])  # fmt: skip
def test_facts_that_lack_something_are_drawn_again(gallery, fact):
    before = gallery.facts(["a frog"], [1])
    gallery._write("update pictures set facts = ?", [(fact,)])
    assert gallery.facts(["a frog"], [1]) == before


# --- two threads ----------------------------------------------------------------------------------------------------


def test_two_threads_share_a_gallery_and_draw_one_after_the_other(tmp_path):
    gallery, errors, inside = fake_gallery(tmp_path, batch=2), [], []
    draw = gallery.generator.generate

    def alone(prompts, seeds):
        inside.append(len(inside))
        assert len(inside) == 1, "a pipeline's scheduler has state: two threads would draw with one"
        time.sleep(0.001)
        inside.pop()
        return draw(prompts, seeds)

    gallery.generator.generate = alone

    def work(start):
        try:
            for i in range(40):
                prompts = [f"frog {start + i}"] * 5
                found = gallery.embeddings(prompts, range(5))
                assert found[:, 0].tolist() == [(len(prompts[0]) * 37 + s) % 251 for s in range(5)]
                gallery.facts(["frog 0"], [0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 20, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and rows_and_health(tmp_path) == (100 * 5, "ok")


def test_the_generator_is_loaded_once_however_many_threads_ask(tmp_path, monkeypatch):
    from promptlab.pictures import gallery as module

    loads = []
    monkeypatch.setattr(module, "load_generator", lambda _: (time.sleep(0.05), loads.append(1), FakeGenerator())[2])
    gallery = Gallery(FakePreset(), FakeClip(), tmp_path)
    threads = [threading.Thread(target=gallery.embeddings, args=(["a frog"], [i])) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1]


# --- pictures that a safety checker blacked out ---------------------------------------------------------------------


def prudish(folder):
    gallery = fake_gallery(folder)
    draw = gallery.generator.generate
    gallery.generator.generate = lambda p, s: draw(p, s) * np.array(["dog" not in x for x in p], np.uint8)[:, None, None, None]
    gallery.generator.blacked_out = lambda images: ~images.reshape(len(images), -1).any(1)
    return gallery


def test_a_blacked_out_picture_is_marked_and_the_mark_is_kept(tmp_path):
    assert prudish(tmp_path).blacked_out(PROMPTS, SEEDS).tolist() == [False] * 4 + [True]
    again = prudish(tmp_path)
    assert again.blacked_out(PROMPTS, SEEDS).tolist() == [False] * 4 + [True] and not again.generator.calls
    assert again.facts(PROMPTS, SEEDS)[3:] == [{}, {"blacked_out": True}]


def test_without_a_checker_a_black_picture_is_a_picture(tmp_path):
    gallery = prudish(tmp_path)
    del gallery.generator.blacked_out
    assert not gallery.blacked_out(PROMPTS, SEEDS).any()
