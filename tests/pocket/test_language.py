"""The language model that every policy starts from: what it reads, and that the shipped one can say a thing again."""

import pytest

from promptlab.pocket.captions import content_of
from promptlab.pocket.language import FACTS, pages
from promptlab.pocket.pairs import sample_pictures
from promptlab.pocket.subjects import KIND
from promptlab.policy import stage_policy


def test_a_page_names_the_same_things_twice_and_nothing_is_learnt_of_rubbish():
    pictures = sample_pictures(300, seed=5)
    clean = noisy = facts = 0
    for picture, (given, learnt) in zip(pictures, pages(pictures, seed=1), strict=True):
        things = content_of(learnt)
        if "; " in learnt and learnt.endswith(FACTS[KIND[picture.subjects[0]]]) and ", " not in learnt:
            told = [noun for part in learnt.split("; ") for noun in content_of(part).subjects]
            assert told[0] == picture.subjects[0] and KIND[told[0]] == KIND[told[-1]] and not given
            assert all(part.endswith(FACTS[KIND[told[0]]]) for part in learnt.split("; "))
            facts += 1
            continue
        strange = {fact for kind, some in FACTS.items() for fact in some if kind not in {KIND[n] for n in picture.subjects}}
        assert not strange & set(learnt.replace(";", ",").split(", ")), "a tag is true of its noun"
        assert things.subjects == picture.subjects and things.colour == picture.colour
        if given:
            assert content_of(given).subjects == picture.subjects
            noisy += 1
        else:
            assert all(learnt.count(noun) >= 2 for noun in picture.subjects)
            clean += 1
    assert 25 < facts < 80 and 50 < noisy < 120 and clean == 300 - noisy - facts
    assert pages(pictures[:9], seed=1) == pages(pictures, seed=1)[:9] and pages(pictures[:9], seed=2) != pages(pictures[:9], seed=1)


@pytest.mark.parametrize(
    "prompt", ["a panda and a teddy bear", "two friends talk about a pizza near a bench", "purple bread", "a candle in x7 qq"]
)
def test_the_shipped_language_model_says_again_what_stands_among_other_words(prompt):
    (text,) = stage_policy("language", shipped=True).rewrite([prompt])
    wanted, said = content_of(prompt), content_of(text)
    assert (said.subjects, said.colour) == (wanted.subjects, wanted.colour), text
