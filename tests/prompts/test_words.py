"""Words a person typed."""

import random

import pytest

from promptlab.prompts import added_words, clean_prompt
from promptlab.runtime import PromptlabError

FAMILY = "👨\u200d👩\u200d👧"  # one emoji of three, held together by joiners


@pytest.mark.parametrize(
    "typed, kept",
    [
        ("a frog", "a frog"), ("  a \t frog\r\n", "a frog"), ("a\u0000frog\u0007", "a frog"), ("a\u2028frog\u2029x", "a frog x"),
        ("a\u00a0frog", "a frog"), ("\ud800frog", "frog"), (f"{FAMILY} 🐸", f"{FAMILY} 🐸"), ("צפרדע כחול", "צפרדע כחול"), ("蛙", "蛙"),
        ("<b>frog</b> & 'x'", "<b>frog</b> & 'x'"), ("\x1b[31mred\x1b[0m", "[31mred [0m"), ("!?", "!?"), ("a" * 10_000, "a" * 10_000),
    ],
)  # fmt: skip
def test_clean_prompt_keeps_letters_of_every_kind(typed, kept):
    assert clean_prompt(typed) == kept == clean_prompt(kept)


@pytest.mark.parametrize("nothing", ["", " ", "\n\t", "\u0000\u0007", "\u200b\u200d", "\u202e", "\u2028", "\ud800", "\u3000"])
def test_a_prompt_without_anything_to_draw_is_refused_by_its_value(nothing):
    with pytest.raises(PromptlabError) as error:
        clean_prompt(nothing)
    assert repr(nothing) in str(error.value) and "for example 'a frog'" in str(error.value)


def test_a_long_empty_prompt_makes_no_long_message():
    with pytest.raises(PromptlabError) as error:
        clean_prompt(" " * 10_000)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", [None, 3, b"a frog", ["a frog"], float("nan")])
def test_a_prompt_must_be_text(value):
    with pytest.raises(PromptlabError, match="must be text") as error:
        clean_prompt(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "plain, rewritten, expected",
    [
        ("a frog", "a frog", "same a, same frog"),
        ("a frog", "a frog, oil painting", "same a, same frog, added oil, added painting"),
        ("a blue frog", "a frog, vivid", "same a, removed blue, same frog, added vivid"),
        ("a frog", "a toad", "same a, removed frog, added toad"),
        ("a Frog", "vivid frog, at night", "removed a, added vivid, same frog, added at, added night"),
        ("", "a frog", "added a, added frog"), ("a frog", "", "removed a, removed frog"), ("", "", ""),
        ("<b>x</b>", "<b>x</b> y", "same <b>x</b>, added y"),
    ],
)  # fmt: skip
def test_added_words_by_hand(plain, rewritten, expected):
    assert ", ".join(f"{kind} {word.strip(',')}" for kind, word in added_words(plain, rewritten)) == expected


def test_added_words_lose_nothing():
    rng = random.Random(0)
    for _ in range(200):
        plain, rewritten = (" ".join(rng.choices(["a", "frog,", "Frog", "blue", "oil", "8k", "🐸"], k=rng.randrange(9))) for _ in range(2))
        marked = added_words(plain, rewritten)
        assert [w for kind, w in marked if kind != "removed"] == rewritten.split()
        folded = lambda words: [w.strip(",").lower() for w in words]  # noqa: E731
        assert folded(w for kind, w in marked if kind != "added") == folded(plain.split())
        assert {kind for kind, _ in marked} <= {"same", "added", "removed"}


def test_many_equal_words_still_count_as_the_same():
    """difflib's speed heuristic ignores frequent words in long texts."""
    words = " ".join(["a"] * 300)
    assert all(kind == "same" for kind, _ in added_words(words, words))


@pytest.mark.parametrize(
    "text, content, modifiers",
    [
        ("a castle, oil painting, at sunset", "a castle", ["oil painting", "at sunset"]),
        ("a frog", "a frog", []),
        ("an oil painting of a castle, at sunset", "a castle", ["oil painting", "at sunset"]),
        ("a photo of a frog and a castle", "a frog and a castle", ["photo"]),
        ("masterpiece, best quality, (a red fox:1.3), ((snow))", "a red fox", ["masterpiece", "best quality", "snow"]),
        ("a [cow|horse] in a field, sharp focus", "a cow in a field", ["sharp focus"]),
        ("portrait of an elf --ar 16:9 --v 5", "an elf", ["portrait", "--ar 16:9", "--v 5"]),
        ("a robot <lora:steel:0.8>, 8k", "a robot", ["8k", "<lora:steel:0.8>"]),
        ("a lighthouse\nat night\n\nmist", "a lighthouse", ["at night", "mist"]),
        ("\u4e00\u53ea\u732b\uff0c\u6c34\u5f69\uff0c\u96ea", "\u4e00\u53ea\u732b", ["\u6c34\u5f69", "\u96ea"]),
        (
            "\u0642\u0637\u0629\u060c \u0641\u064a \u0627\u0644\u062b\u0644\u062c",
            "\u0642\u0637\u0629",
            ["\u0641\u064a \u0627\u0644\u062b\u0644\u062c"],
        ),
        ("The quick brown fox jumps over the lazy dog", "The quick brown fox jumps over the lazy dog", []),
        ("masterpiece", "masterpiece", []),
        ("a cat, , ,, neon", "a cat", ["neon"]),
        ("--ar 16:9", "--ar 16:9", []),
        ("(((", "(((", []),
    ],
)
def test_content_and_modifiers_come_apart(text, content, modifiers):
    from promptlab.prompts import split_prompt

    assert split_prompt(text) == (content, modifiers)


@pytest.mark.parametrize("text", ["", "\n\t", None])
def test_nothing_to_split_is_an_error(text):
    from promptlab.prompts import split_prompt

    with pytest.raises(PromptlabError):
        split_prompt(text)
