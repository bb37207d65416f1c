"""Another scorer beside the others: PickScore's arithmetic on a tiny CLIP, and that a gallery keeps the two apart."""

import numpy as np
import pytest
import tiny_hub
import torch
from PIL import Image

from promptlab import runtime
from promptlab.models import pickscore
from promptlab.models.pickscore import PickScore, pick_scores
from promptlab.rewards import mean_per_pair, promptist_reward
from promptlab.runtime import PromptlabError

PLAIN, REWRITTEN, SEEDS = ["a frog", "a castle"], ["a frog, oil painting", "a castle, neon"], [5, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_hub.save_pickscore(tmp_path_factory.mktemp("pick"))


@pytest.fixture(scope="module")
def eye(folder):
    with pytest.MonkeyPatch.context() as patch:  # without the rounding of a CPU's bfloat16
        patch.setattr(pickscore, "hardware", lambda: runtime.Hardware(torch.device("cpu"), torch.float32, ""))
        return PickScore(folder)


def test_scores_are_those_of_the_plain_model(folder, eye):
    """As the authors' page computes them: scale times cosine, through transformers' own call."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder, dtype="float32").eval(), CLIPProcessor.from_pretrained(folder)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    batch = processor(text=PLAIN, images=[Image.fromarray(i) for i in images], return_tensors="pt", padding=True)
    with torch.no_grad():
        theirs = model(**batch).logits_per_image.numpy()
    np.testing.assert_allclose(eye.scale * eye.embed_images(images) @ eye.embed_texts(PLAIN).T, theirs, atol=1e-4)


def test_a_new_column_fits_beside_the_others(tiny_scorer, eye, monkeypatch):
    scores = tiny_scorer.score(PLAIN, REWRITTEN, SEEDS)
    picked = pick_scores(tiny_scorer, eye, PLAIN, REWRITTEN, SEEDS)
    drawn = tiny_scorer.gallery.generator.generate([y for y in REWRITTEN for _ in SEEDS], SEEDS * 2)
    expected = eye.scale * (eye.embed_images(drawn) * np.repeat(eye.embed_texts(PLAIN), 2, 0)).sum(1)
    np.testing.assert_allclose(picked.numpy(), expected, atol=1e-3)
    both = mean_per_pair(promptist_reward(scores, tiny_scorer.calibration) + 0.1 * picked, scores)
    assert both.shape == (2,) and picked.shape == scores.aesthetic.shape
    monkeypatch.setattr(eye, "embed_images", lambda images: pytest.fail("looked again"))
    assert torch.equal(pick_scores(tiny_scorer, eye, PLAIN, REWRITTEN, SEEDS), picked), "remembered"


def test_another_model_is_refused(tmp_path, folder):
    with pytest.raises(PromptlabError, match=rf"{tmp_path}.*|lacks weights"):
        PickScore(tiny_hub.save_gpt2(tmp_path / "gpt2"), folder)


def test_typed_words_are_read_as_they_are_drawn(tiny_scorer, eye):
    ask = lambda x: pick_scores(tiny_scorer, eye, [x], ["a frog, neon"], [5])  # noqa: E731
    assert torch.equal(ask("a\0frog\u2028"), ask("a frog"))


def test_weights_replaced_after_loading_do_not_name_what_the_old_ones_see(folder, eye, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    loaded = PickScore(copy)
    shutil.rmtree(copy)
    assert loaded.fingerprint == eye.fingerprint
