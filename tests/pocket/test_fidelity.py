"""How close a drawn picture comes to a true one: the measures against an independent implementation, and the search for the nearest."""

import numpy as np
import pytest
from scipy import ndimage as nd

from promptlab.pocket import fidelity
from promptlab.pocket.fidelity import nearest, prompts_of, psnr, ssim, worst_tenth
from promptlab.pocket.pictures import Picture, render, variants
from promptlab.pocket.subjects import SUBJECTS


def test_ssim_is_that_of_scikit_image(font):
    """Against values of scikit-image 0.26: structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)."""
    sharp = np.stack([render(Picture((noun,))) for noun in ("frog", "castle", "violin")])
    soft = np.stack([nd.gaussian_filter(x, (2, 2, 0)) for x in sharp])
    np.testing.assert_allclose(ssim(sharp, soft), [0.85616125, 0.78306779, 0.82386742], atol=1e-6)
    np.testing.assert_allclose(ssim(sharp, sharp), 1, atol=1e-9)


def test_psnr_by_hand():
    a = np.zeros((1, 4, 4, 3), np.uint8)
    assert psnr(a, a + 10)[0] == pytest.approx(10 * np.log10(255**2 / 100), abs=1e-4)


def test_the_nearest_true_picture_is_found(font):
    meant = [Picture(("frog",)), Picture(("castle",), None, "oil painting", "sunset")]
    drawn = np.stack([render(variants(p)[i]) for p, i in zip(meant, (4, 1), strict=True)])
    alike, ratio, truth = nearest(drawn, meant)
    assert alike.min() > 0.999 and ratio.min() > 60 and (truth == drawn).all()
    alike, _, _ = nearest(drawn[::-1], meant)
    assert alike.max() < 0.8, "another thing is not near"


def test_prompts_say_what_is_meant():
    from promptlab.pocket.captions import content_of

    assert {p.subjects[0] for p in prompts_of("plain")[1]} == set(SUBJECTS)
    for group in fidelity.GROUPS:
        texts, meant = prompts_of(group, 20)
        claims = [content_of(t) for t in texts]
        assert [(c.subjects, c.colour) for c in claims] == [(p.subjects, p.colour) for p in meant], group
    assert prompts_of("styled", 20) == prompts_of("styled", 20)


def test_the_worst_tenth_is_of_nouns_and_not_of_pictures():
    nouns = [f"noun {i}" for i in range(20)]
    meant = [Picture((n,)) for n in nouns for _ in range(2)]
    values = np.array([v for i in range(20) for v in (i / 20 - 0.5, i / 20 + 0.5)])
    assert worst_tenth(values, meant) == pytest.approx((0 + 1 / 20) / 2)
