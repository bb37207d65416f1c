"""Words a person typed."""

import random
import time

import pytest

from promptlab.prompts import added_words, clean_prompt, split_prompt
from promptlab.prompts.words import praises, says_how
from promptlab.runtime import PromptlabError

FAMILY = "👨\u200d👩\u200d👧"  # one emoji of three, held together by joiners


@pytest.mark.parametrize(
    "typed, kept",
    [
        ("a frog", "a frog"), ("  a \t frog\r\n", "a frog"), ("a\u0000frog\u0007", "a frog"), ("a\u2028frog\u2029x", "a frog x"),
        ("a\u00a0frog", "a frog"), ("\ud800frog", "frog"), (f"{FAMILY} 🐸", f"{FAMILY} 🐸"), ("צפרדע כחול", "צפרדע כחול"), ("蛙", "蛙"),
        ("\ufeffa frog", "a frog"), ("a\u200bfrog\u2060", "a frog"), ("a fr\u00adog", "a frog"),
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
    assert split_prompt(text) == (content, modifiers)


def contents(*pairs):
    return pytest.mark.parametrize("text, content", pairs)


@contents(
    ("masterpiece, best quality, ultra-detailed, a lamp on a table", "a lamp on a table"), ("(best quality:1.4), ((masterpiece)), an owl", "an owl"),
    ("{{{masterpiece}}}, {amazing quality}, very aesthetic, absurdres, a knight", "a knight"), ("best_quality, highres, 2boys, rain", "2boys"),
    ("extremely detailed CG unity 8k wallpaper, ultra high res, a ship", "a ship"), ("score_9, score_8_up, source_anime, rating_safe, a dragon", "a dragon"),
    ("RAW photo, 8 k uhd, dslr, soft lighting, a dog", "a dog"), ("anime style, vivid, full body, 4 k, a cute girl", "a cute girl"),
    ("cinematic movie scene, a car", "a car"), ("beautiful ink sketch, a heron", "a heron"), ("by greg rutkowski, trending on artstation, a tower", "a tower"),
    ("in the style of van gogh, a cafe", "a cafe"), ("studio ghibli style, oil on canvas, a mill", "a mill"), ("depth of field, bokeh, a rose", "a rose"),
    ("\u6770\u4f5c\uff0c\u6700\u4f73\u8d28\u91cf\uff0c\u732b", "\u732b"), ("by the sea, a tower", "by the sea"), ("a house in gothic style, rain", "a house in gothic style"),
    ("best quality, oil painting", "oil painting"), ("portrait, oil painting", "portrait"), ("fine art, golden hour, a fine golden field", "a fine golden field"),
)  # fmt: skip
def test_praise_and_style_are_the_content_only_where_nothing_else_is_named(text, content):
    assert split_prompt(text)[0] == content


def test_praise_says_nothing_and_style_says_how():
    assert all(praises(p) and says_how(p) for p in ("8k", "Best Quality", "ultra-detailed", "trending on artstation"))
    assert all(says_how(p) and not praises(p) for p in ("oil painting", "35mm", "by Monet", "dramatic lighting"))
    assert not any(says_how(p) for p in ("a fox", "a painting of a fox", "blue eyes", "2024", "!?", ""))


@contents(
    ("a black and white photo of a bear", "a bear"), ("a stunning watercolor painting of two owls", "two owls"), ("oil on canvas painting of a mill", "a mill"),
    ("photo of a man with drawing of a cat", "a man with drawing of a cat"), *[(whole, whole) for whole in (
        "a woman holding a portrait of a cat", "a boy drawing a picture of his dog", "a mug with a photo of an owl", "a tourist snapping photo of a tower",
        "a wall in front of a painting of ships", "my sister and her sketch of a horse", "a girl looks at illustration of a fox")],
)  # fmt: skip
def test_a_medium_counts_as_one_where_no_other_thing_stands_before_it(text, content):
    assert split_prompt(text)[0] == content


@contents(
    ("a cake for $2,500 on 1,000 plates, neon", "a cake for $2,500 on 1,000 plates"), ("fox,4k,8k", "fox"), ("miku \\(singer\\), \\[x\\]", "miku (singer)"),
    ("a [dog:wolf:0.3] by a lake, moody", "a dog by a lake"), ("a [dog:wolf:12]", "a dog"), ("[mist::0.4] over hills", "mist over hills"),
    ("[:mist:0.4] over hills", "mist over hills"), ("[[dog|cat]:wolf:0.5] runs", "dog runs"), ("a [dog|cat|(cow:1.2)] runs", "a dog runs"),
    ("{old|new} barn", "old barn"), ("{2$$old|red|tall} barn", "old barn"), ("{0.5::old|2::new} barn", "old barn"), ("{|old} barn", "barn"),
    ("a cat.swap(dog) in snow", "a cat in snow"), ("a (fox)1.3 and (owl)++", "a fox and owl"), ("(a fox:1,3), snow", "a fox"),
    ("a bridge--old and broken, at night", "a bridge--old and broken"), ("a bridge -- old, at night", "a bridge -- old"), ("a bridge\u2014old, at night", "a bridge\u2014old"),
    ('a shop called "bread, cake; tea", rain', 'a shop called "bread, cake; tea"'), ("it says \u201chi, you\u201d, neon", "it says \u201chi, you\u201d"),
    ('a 12" plate, a 6" cup', 'a 12" plate'), ('"a fox, oil painting"', "a fox"), ("film still a fox . grain, vignette", "film still a fox"),
    ("dr. who. a fox", "dr. who. a fox"), ("\uff08\u72d7\uff1a1.3\uff09\uff0c\u96ea", "\u72d7"), ("\uff3b\u72d7\uff5c\u732b\uff3d\uff0c\u96ea", "\u72d7"),
    ("a fox:: oil painting::2", "a fox"), ("1.2::rain, fog ::, snow", "rain"), ('--prompt "a fox, moody" --steps 20', "a fox"),
)  # fmt: skip
def test_syntax_of_other_programs(text, content):
    assert split_prompt(text)[0] == content


@pytest.mark.parametrize(
    "text, modifiers",
    [
        ("a fox --no text, frame --ar 3:2", ["--ar 3:2"]), ("a fox, moody --no dogs", ["moody"]), ("a fox \u2014ar 3:2 \u2014no text, frame", ["\u2014ar 3:2"]),
        ("a fox --tile --v 6", ["--tile", "--v 6"]), ("a fox --sref https://x.org/a.png --s 50", ["--sref https://x.org/a.png", "--s 50"]),
        ("a fox, moody\nNegative prompt: dog, ugly\nmore\nSteps: 20, Sampler: Euler", ["moody"]), ("a fox, moody Negative prompt: dog Steps: 20, Seed: 1", ["moody"]),
        ("a fox, moody\nSteps: 30, Sampler: x, Seed: 1", ["moody"]), ("a fox, negative_prompt: dog", []), ("a fox, stone steps: 20 of them", ["stone steps: 20 of them"]),
        ("a fox:: oil painting:: dog::-0.5", ["oil painting"]), ('--prompt "a fox" --negative_prompt "a dog, x" --steps 9', ["--steps 9"]),
    ],
)  # fmt: skip
def test_what_is_not_wanted_is_no_modifier(text, modifiers):
    assert split_prompt(text) == ("a fox", modifiers)


@pytest.mark.parametrize("text", ["Negative prompt: a dog", "\u200d\nNegative prompt: a dog", "Steps: 20, Seed: 1", "--no dogs"])
def test_only_unwanted_things_leave_the_prompt_as_typed(text):
    assert split_prompt(text) == (clean_prompt(text), [])


def test_every_prompt_that_can_be_cleaned_can_be_split():
    rng, signs = random.Random(0), [*"()[]{}|:,;.<>-\\\"'$+ \n\u201c\u201d\u3001\ufeff\u200b\ufdd0\ud800", "a", "1.2", "--no", "--ar 3:2", "::", "Steps: 20,", "BREAK"]
    for _ in range(2000):
        text = "a" + "".join(rng.choices(signs, k=12))
        content, modifiers = split_prompt(text)
        assert content.strip() and all(m.strip() for m in modifiers), text


@pytest.mark.parametrize("piece", [":1", ":" + "1" * 50_000, "[a:", "[a|", "{1::", "(", '"', "--no ", "a painting of ", "a-", "\n", " . ", "1$$", "::1"])
def test_no_prompt_takes_long(piece):
    start = time.perf_counter()
    split_prompt("a fox" + piece * (50_000 // len(piece) or 1))
    assert time.perf_counter() - start < 5, "in proportion to its length: under a second here"


@pytest.mark.parametrize("text", ["", "\n\t", None])
def test_nothing_to_split_is_an_error(text):
    with pytest.raises(PromptlabError):
        split_prompt(text)
