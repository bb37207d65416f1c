"""Sampling of training pictures, and rendering them to disk."""

import os
import subprocess
import sys

import numpy as np
import pytest

from promptlab.pocket import pairs
from promptlab.pocket.pairs import held_out, render_all, sample_pictures
from promptlab.pocket.pictures import BACKGROUNDS, COLOURS, EFFECTS, HARMFUL, MEDIA, VARIANTS, Picture, render
from promptlab.pocket.subjects import SUBJECTS

TRAINING = sample_pictures(20_000, 1)
HELD = sample_pictures(2000, 99, held=True)


def seen_in(pictures):
    return {(noun, p.medium) for p in pictures for noun in p.subjects}


def test_held_out_pairs_never_appear_in_training():
    kept_back = {(noun, medium) for noun in SUBJECTS for medium in MEDIA if held_out(noun, medium)}
    assert kept_back and not seen_in(TRAINING) & kept_back
    everything = len(SUBJECTS) * (len(MEDIA) - 1)
    assert 0.03 < len(kept_back) / everything < 0.07
    assert not any(medium == "photo" for _, medium in kept_back), "a bare noun is a photo"
    assert {noun for noun, medium in kept_back} != set(SUBJECTS) and {m for _, m in kept_back} == set(MEDIA) - {"photo"}
    assert held_out("frog", "neon") == held_out("frog", "neon")


def test_held_out_pictures_show_nothing_else():
    assert all(any(held_out(noun, p.medium) for noun in p.subjects) for p in HELD)
    single = [p for p in HELD if len(p.subjects) == 1]
    assert len(single) > 1000 and not seen_in(single) & seen_in(TRAINING)


def test_the_split_is_the_same_in_every_process():
    """Python's own hash is salted per process; a split by it would leak."""
    code = "from promptlab.pocket.pairs import held_out as h, SUBJECTS as s; print([n for n in s if h(n, 'neon')])"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{[n for n in SUBJECTS if held_out(n, 'neon')]}\n"


@pytest.mark.parametrize("what, of", [("colours", lambda p: p.colour is not None), ("pairs", lambda p: len(p.subjects) == 2)])
def test_content_is_more_than_one_noun(what, of):
    assert 0.15 < np.mean([of(p) for p in TRAINING]) < 0.20, what


def test_a_pair_is_two_different_subjects_without_a_colour():
    for p in TRAINING:
        assert len(set(p.subjects)) == len(p.subjects) in (1, 2) and not (p.colour and len(p.subjects) == 2)


def test_every_value_is_trained_about_evenly():
    rich = [p for p in TRAINING if not (p.medium == "photo" and p.background == "plain")]
    for field, values in (("medium", MEDIA[1:]), ("background", BACKGROUNDS[1:])):
        shares = [np.mean([getattr(p, field) == v for p in rich]) for v in values]
        assert max(shares) < 1.3 * min(shares), dict(zip(values, shares, strict=True))
    counts = np.array([sum(noun in p.subjects for p in TRAINING) for noun in SUBJECTS])
    assert counts.min() > 0.5 * counts.mean()
    assert {e for p in TRAINING for e in p.effects} == set(EFFECTS) and {p.colour for p in TRAINING} == {None, *COLOURS}
    assert {(p.mirrored, p.variant) for p in TRAINING} == {(m, v) for m in (0, 1) for v in range(VARIANTS)}
    assert all(len(set(p.effects)) == len(p.effects) and len(set(p.effects) & HARMFUL) <= 1 for p in TRAINING)


def test_dull_pictures_are_about_a_fifth():
    dull = np.mean([p.medium == "photo" and p.background == "plain" and not p.effects for p in TRAINING])
    assert 0.18 < dull < 0.25


def test_specifications_hold_what_people_type_and_nothing_twice():
    specs = pairs.specifications(2000, 300, 1)
    assert len(set(specs)) == len(specs) and not any(p.mirrored or p.variant for p in specs)
    everything = set(specs)
    assert all(Picture((s,), c) in everything for s in SUBJECTS for c in (None, *COLOURS))
    assert all(Picture((s,), None, m) in everything for s in SUBJECTS for m in MEDIA if not held_out(s, m))
    assert not seen_in(specs) & {(s, m) for s in SUBJECTS for m in MEDIA if held_out(s, m)}
    counts = np.bincount(pairs.often(specs), minlength=len(specs))
    assert counts[specs.index(Picture(("frog",)))] == 16 and counts[specs.index(Picture(("frog",), "red"))] == 2
    assert {int(c) for c, p in zip(counts, specs, strict=True) if len(p.subjects) == 2} == {2} and counts.min() == 1


def test_one_seed_one_list():
    assert sample_pictures(300, 1) == TRAINING[:300] != sample_pictures(300, 2)


# --- rendering ------------------------------------------------------------------------------------------------------


def test_render_all_equals_render_one_by_one(font, tmp_path):
    some = TRAINING[:7]
    one_by_one = np.stack([render(p) for p in some])
    assert (render_all(some, block=3) == one_by_one).all()
    on_disk = render_all(some, tmp_path / "pictures.npy", block=3)
    assert (on_disk == one_by_one).all() and not on_disk.flags.writeable
    assert os.listdir(tmp_path) == ["pictures.npy"]


def test_a_complete_file_is_reused_and_another_is_not(font, tmp_path, monkeypatch):
    path, some = tmp_path / "pictures.npy", TRAINING[:3]
    marked = np.full((3, 128, 128, 3), 7, np.uint8)
    np.save(path, marked)
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "ProcessPoolExecutor", lambda *_: pytest.fail("rendered again"))
        assert (render_all(some, path) == marked).all()
    np.save(path, marked[:2])
    assert (render_all(some, path, block=2) == np.stack([render(p) for p in some])).all()


def test_an_interrupted_rendering_leaves_no_file_that_looks_complete(font, tmp_path):
    path, some = tmp_path / "pictures.npy", TRAINING[:4]

    class Killed(Exception):
        pass

    def progress(blocks, total):
        assert total == 2
        yield next(blocks)
        raise Killed

    with pytest.raises(Killed):
        render_all(some, path, progress, block=2)
    assert not path.exists()
    assert (render_all(some, path, block=2) == np.stack([render(p) for p in some])).all()
    assert os.listdir(tmp_path) == ["pictures.npy"]
