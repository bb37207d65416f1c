"""The build from nothing, in miniature: every stage runs, a stopped one goes on, and the result loads like the real world."""

import pytest

from promptlab.pocket import __main__ as command
from promptlab.pocket import build, training
from promptlab.pocket.subjects import glyph
from promptlab.rewards import Scorer


@pytest.mark.timeout(1200)
def test_a_rehearsal_stops_goes_on_and_ends_in_a_world_that_draws(font, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    for part in (build.autoencoder, build.clip, build.judge, build.language, build.unet):  # sizes that suit two steps
        monkeypatch.setattr(part, "BATCH", 8 if isinstance(part.BATCH, int) else dict.fromkeys(part.BATCH, 8))
    specs, share = build.training_specs, build.small_share
    monkeypatch.setattr(build, "training_specs", lambda: specs()[:60])
    monkeypatch.setattr(build, "small_share", lambda count: share(count // 10, 24))
    real = build.unet.fit
    monkeypatch.setattr(build.unet, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command.main(["rehearse"]) == 130 and "goes on" in capsys.readouterr().err
    assert training.STEPS is None, "a stopped rehearsal must not shorten the next real build"
    kept = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "pocket" / "rehearsal").glob("*.ckpt")}
    assert {"language.ckpt", "autoencoder.ckpt", "clip.ckpt"} <= kept.keys()

    monkeypatch.setattr(build.unet, "fit", real)
    assert command.main(["rehearse"]) == 0
    again = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "pocket" / "rehearsal").glob("*.ckpt")}
    assert all(again[name] == kept[name] for name in kept), "finished stages are not trained again"

    scorer = Scorer(build.preset_for(tmp_path / "pocket" / "rehearsed"), tmp_path / "cache")
    assert scorer.gallery.pictures(["a frog"], [1]).shape == (1, 128, 128, 3)
    assert scorer.rewards(["a frog"], ["a frog, at sunset"], [1, 2]).isfinite().all()
    assert "gold" in scorer.gallery.facts(["a frog"], [1])[0]


def test_without_the_font_the_build_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    monkeypatch.setattr("promptlab.pocket.subjects.FONT", tmp_path / "NotoColorEmoji.ttf")
    glyph.cache_clear()
    assert command.main(["build", "--out", str(tmp_path / "world")]) == 1
    assert "apt-get install fonts-noto-color-emoji" in capsys.readouterr().err
