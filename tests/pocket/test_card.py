"""The model card in miniature: every part runs on a tiny world, and what is published says the same in both files."""

import json

from promptlab.pocket import card, fidelity, suffixes


def test_a_card_of_a_tiny_world(font, tiny_world, tiny_preset, tmp_path, monkeypatch):
    import shutil

    out = shutil.copytree(tiny_world, tmp_path / "world")
    few, pictures = ["frog", "castle", "violin", "whale", "pizza", "rocket"], 12
    monkeypatch.setattr(card, "SUBJECTS", few), monkeypatch.setattr(fidelity, "SUBJECTS", few)
    monkeypatch.setattr(suffixes, "COMBINATIONS", suffixes.COMBINATIONS[:2])
    sampled, compared = card.sample_pictures, suffixes.compare
    monkeypatch.setattr(card, "sample_pictures", lambda n, seed, **more: sampled(pictures, seed, **more))
    monkeypatch.setattr(suffixes, "compare", lambda rate, per_kind=1: compared(rate, 1, 1))
    measured, nothing = fidelity.measure, fidelity.nameless
    monkeypatch.setattr(fidelity, "measure", lambda generator, vae: measured(generator, vae, count=2))
    monkeypatch.setattr(fidelity, "nameless", lambda generator: nothing(generator, 2))
    monkeypatch.setattr(card, "PER_MEDIUM", 1), monkeypatch.setattr(card, "PAIRS", 2)
    monkeypatch.setattr(card, "relevance_and_taste", lambda scorer: [])  # asks for a thousand pictures, and for 99 wrong captions of each

    card.write(out, tiny_preset, tmp_path / "cache")
    records, text = json.loads((out / "card.json").read_text()), (out / "README.md").read_text()
    assert len(records) > 30 and all(f"| {r['name']} |" in text for r in records)
    assert "**no**" in text, "random weights meet no bar"
