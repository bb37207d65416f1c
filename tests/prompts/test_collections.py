"""Public collections: read from a hub, folders and files, filtered, divided; everything that can go wrong is said in one sentence."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest
from fake_hub import fake_hub

from promptlab import __main__ as cli
from promptlab import config
from promptlab.prompts import collections, keywords, load_prompts, split_prompt
from promptlab.prompts.instruct import REQUESTS
from promptlab.prompts.records import SPLITS, normalised, record
from promptlab.prompts.sources import KINDS
from promptlab.runtime import PromptlabError

SECRET = "hf_thisMustNeverBePrinted"


def parquet(path, **columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def lay_out(folder):
    """The four collections in the format in which the hub has them, and some with something wrong."""
    parquet(folder / "Gustavosta/Stable-Diffusion-Prompts/data/train.parquet", Prompt=["a fox, oil painting", "an owl, moody"])
    parquet(folder / "Gustavosta/Stable-Diffusion-Prompts/data/eval.parquet", Prompt=["of another split"])
    parquet(folder / "poloclub/diffusiondb/metadata.parquet", prompt=["a dog"], seed=[7], prompt_nsfw=[0.1])
    (folder / "poloclub/diffusiondb/diffusiondb.py").write_text("raise SystemExit('a loading script was run')")
    parquet(
        folder / "phiyodr/coco2017/data/train-00000-of-00001.parquet",
        captions=[["A cat on a mat.", "Cat."], ["A bus."]],
        image_id=[1, 2],
    )
    (folder / "nateraw/parti-prompts").mkdir(parents=True)
    (folder / "nateraw/parti-prompts/PartiPrompts.tsv").write_text("Prompt\tCategory\tChallenge\tNote\na bond\tAbstract\tBasic\t\n")
    (folder / "some/script").mkdir(parents=True)
    (folder / "some/script/script.py").write_text("raise SystemExit('a loading script was run')")
    parquet(folder / "some/gated/data/train.parquet", Prompt=["x"])
    parquet(folder / "some/odd/data/train.parquet", title=["x"])
    return folder


READ = """
import json, sys, time
from promptlab.prompts import collections
from promptlab.runtime import PromptlabError
time.sleep = lambda seconds: None  # where nobody answers, huggingface_hub tries six times, and waits 23 s in all
for arguments in json.loads(sys.argv[1]):
    try:
        print(json.dumps(collections.read(*arguments)))
    except PromptlabError as error:
        print(json.dumps(str(error)))
"""


def read_elsewhere(home, address, asked, **environment):
    """What `read` gives for each list of arguments in a process that takes `address` for the hub: texts, or the error."""
    env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": SECRET, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(asked)], capture_output=True, text=True, timeout=900, env=env | environment
    )
    assert done.returncode == 0 and SECRET not in done.stdout + done.stderr, (done.stdout + done.stderr).replace(SECRET, "***")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(900)
def test_everything_a_hub_may_answer(tmp_path):
    asked = [[name] for name in collections.COLLECTIONS] + [
        ["some/script"],
        ["some/gated"],
        ["some/odd"],
        ["some/odd", "title"],
        ["no/such"],
        ["not an id!"],
    ]
    asked += [["some/odd", "title", "nope"]]
    with fake_hub(lay_out(tmp_path / "hub"), gated=["some/gated"]) as (address, seen):
        got = read_elsewhere(tmp_path / "home", address, asked)
    assert got[:4] == [["a fox, oil painting", "an owl, moody"], ["a dog"], ["A cat on a mat.", "A bus."], ["a bond"]]
    assert "some/script is a script" in got[4] and "name that file" in got[4]
    assert "some/gated is gated: accept its terms at https://huggingface.co/datasets/some/gated" in got[5]
    assert got[6] == "some/odd has no column called prompt, caption, captions, text. Name one of its own (`--column`, `column=`): title." and got[7] == [
        "x"
    ]
    assert all(
        f"{name} is neither a file or folder here nor a public collection" in got[i] for i, name in ((8, "no/such"), (9, "not an id!"))
    )
    assert "some/odd has no split 'nope'" in got[10] and "['train']" in got[10]
    assert any(authorization == f"Bearer {SECRET}" for _, _, authorization in seen), "the token was found and used"
    assert all("\n" not in e for e in got if isinstance(e, str))


@pytest.mark.timeout(900)
def test_without_a_network_the_next_step_is_said(tmp_path):
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):  # switched off, and a port where nobody listens
        got = read_elsewhere(
            tmp_path, "http://127.0.0.1:9", [["Gustavosta/Stable-Diffusion-Prompts"], ["poloclub/diffusiondb"]], **environment
        )
        assert all(": our own keyword tables need none" in e and "needs the network" in e for e in got), got


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", '{"prompt": "a fox"}\n{"prompt": "an owl"}\n'), ("a.json", '[{"caption": "a fox"}, {"caption": "an owl"}]'),
        ("a.csv", 'Prompt,n\n"a fox",1\n"an owl",2\n'), ("a.tsv", "text\tn\na fox\t1\nan owl\t2\n"), ("a.txt", "a fox\nan owl\n"),
    ],
)  # fmt: skip
def test_files_of_every_kind(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert collections.read(tmp_path / name) == ["a fox", "an owl"]


def test_folders_in_the_hubs_format_and_rows_by_chance(tmp_path):
    texts = [f"a fox {i}" for i in range(100)]
    parquet(tmp_path / "x/data/train.parquet", Prompt=[*texts[:-1], None])
    assert collections.read(tmp_path / "x") == texts[:-1], "what is no text is left out"
    some = collections.read(tmp_path / "x", limit=20)
    assert (
        len(some) in (19, 20)
        and some != texts[:20]
        and some == collections.read(tmp_path / "x", limit=20) != collections.read(tmp_path / "x", limit=20, seed=1)
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.parquet", "not one", "a.parquet cannot be read .* Check that it is complete"), ("a.jsonl", '{"prompt": ', "a.jsonl cannot be read"),
        ("a.docx", "x", "of no kind we read. Give a file that ends in .parquet, .csv"), ("a.csv", "title\nx\n", "has no column called prompt.* own .*: title"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptlabError, match=message) as error:
        collections.read(tmp_path / name)
    assert error.value.__suppress_context__ or error.value.__cause__ is None, "a traceback of a library may show request headers"


def test_a_library_that_repeats_the_token_is_not_repeated(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    said = collections.explain("a/b", "train", RuntimeError(f"header Bearer {SECRET} refused"))
    assert SECRET not in said and "Bearer *** refused" in said


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a red fox, oil painting", None), ("a café at night", None), ("a  fox\nin snow", None), ("", "empty"), (", ,", "empty"), ("fox", "length"), ("x " * 61, "length"),
        ("a nude statue", "word list"), ("a Nude, statue", "word list"), ("a denuded hill", None), ("a cat and the el train in la", None),
        ("un gato en el jardin con flores", "language"), ("ein Fuchs und eine Katze im Schnee", "language"), ("une maison dans les bois et le ciel", "language"),
        ("\u4e00\u53ea \u732b \u5728 \u96ea", "language"), ("\u043a\u043e\u0442 \u043d\u0430 \u043a\u0440\u044b\u0448\u0435", "language"),
        ("a (red:1.3) fox", "syntax"), ("((red)) fox, snow", "syntax"), ("a fox --ar 16:9", "syntax"), ("a fox <lora:x:1>", "syntax"), ("a [cow|horse] here", "syntax"),
        ("a fox https://example.org/x.png", "syntax"), ("Negative prompt: a fox, ugly", "empty"), ("1girl,solo,red_hair", None), ("A red FOX. Oil painting!", "duplicates"),
    ],
)  # fmt: skip
def test_every_filter(text, reason):
    kept, gone = collections.keep(["a red fox, oil painting", text] if reason == "duplicates" else [text])
    assert gone == (Counter({reason: 1}) if reason else Counter())
    assert kept == ["a red fox, oil painting"] if reason == "duplicates" else kept == ([" ".join(text.split())] if reason is None else [])


def test_what_a_copied_text_does_not_want_is_not_kept():
    assert collections.keep(["a fox, moody Negative prompt: a dog Steps: 20, Seed: 1"])[0] == ["a fox, moody"]


NOUNS = "mug owl tower bridge apple knight lamp whale barn rose".split()


def only(prompts, **more):
    return collections.fetch(prompts=str(prompts), typed=None, captions=None, parti=None, **more)


def lines(path, texts):
    path.write_text("".join(f"{t}\n" for t in texts), encoding="utf-8")
    return path


def test_prompts_that_open_with_praise_have_different_contents(tmp_path):
    opening = "(best quality:1.0), masterpiece, very detailed, cinematic lighting".replace("(best quality:1.0)", "best quality")
    splits, _ = only(lines(tmp_path / "a.txt", [f"{opening}, one {n} number {i}, moody" for n in NOUNS for i in range(20)]))
    assert {r["x"].split()[0] for r in splits["sft"] if r["kind"] == "MC"} == {"one"} and len(splits["sft"]) > 300


@pytest.mark.parametrize(
    "texts, said",
    [
        ([f"a {n} on hill {i}, moody --ar {i}:9" for n in NOUNS for i in range(20)], "0 prompts passed.* 200 by syntax .weights, brackets"),
        ([f"1girl, {n}, number {i}" for n in NOUNS for i in range(20)], "200 prompts passed.* 200 have the content '1girl', which counts 4 times"),
        ([f"there is a {n} in the room of house {i}" for n in NOUNS for i in range(20)], "200 say no more than what is in the picture .no commas.*--captions"),
        ([f"{n}{i}" for n in NOUNS for i in range(20)] + ["un gato en el jardin con flores"], "200 by length .2 to 60 words pass.*, 1 by language"),
    ],
)  # fmt: skip
def test_where_nothing_is_left_the_reason_is_said(tmp_path, texts, said):
    with pytest.raises(PromptlabError, match=f"(?s){said}"):
        only(lines(tmp_path / "a.txt", texts))


def test_filters_can_be_set():
    texts = ["fox", "a nude statue", "un gato en el jardin con flores"]
    assert collections.keep(texts, shortest=1, blocked=["fox"], english=False) == (texts[1:], Counter({"word list": 1}))
    assert collections.keep(["one two three four"], longest=3)[1] == Counter({"length": 1})


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Collections as files, with overlaps between them, as the public ones have; and what `fetch` makes of them."""
    folder = tmp_path_factory.mktemp("files")
    targets = [r["y"] for r in keywords.make_all()["sft"][::4]][:1500]
    tables = {
        "prompts": targets + targets[:50] + ["nude", "fox"],
        "typed": targets[:100]
        + [f"a {n} of {m}, moody" for n in ("mug", "pile", "wall", "ring") for m in keywords.entries(keywords.DETAILS)],
        "captions": [f"A {noun} stands beside a {other} today." for noun in keywords.NOUNS["animal"] for other in keywords.NOUNS["object"]],
        "parti": [split_prompt(t)[0] for t in targets[:200]],  # all of them somebody's main content
    }
    files = {kind: parquet(folder / f"{kind}.parquet", Prompt=texts) for kind, texts in tables.items()}
    return files, *collections.fetch(**files)


def test_collections_become_splits_with_the_fields_of_all_others(collected):
    _, splits, manifest = collected
    assert tuple(splits) == SPLITS
    fields = list(record("", "", "", "", "a frog", None))
    assert all(list(r) == fields and r["split"] == split for split, records in splits.items() for r in records)
    assert {r["set"] for r in splits["sft"]} == {"in_domain"} and len(splits["sft"]) > 2000
    for four in (splits["sft"][i : i + 4] for i in range(0, len(splits["sft"]), 4)):
        assert [r["kind"] for r in four] == list(KINDS) and len({r["y"] for r in four}) == 1
    kinds = Counter((r["set"], r["kind"]) for r in splits["test"])
    assert {k for s, k in kinds if s == "in_domain"} == set(KINDS) and {k for s, k in kinds if s == "out_of_domain"} >= {
        "caption",
        "label",
    }
    assert kinds["diffusiondb", "DiffusionDB"] > 5 and kinds["out_of_domain", "label"] > 200 and kinds["out_of_domain", "caption"] > 50
    first = next(iter(manifest["collections"].values()))
    assert first["read"] == 1552 and first["filtered out"] == {"duplicates": 50, "length": 2} and first["kept"] == 1500
    assert manifest["rephrased by"] == "rules"


@pytest.mark.parametrize("a, b", list(combinations(SPLITS, 2)))
def test_collections_share_nothing_between_splits(collected, a, b):
    _, splits, _ = collected
    texts = [{normalised(t) for r in splits[s] for t in (r["x"], r["y"]) if t} for s in (a, b)]
    assert not texts[0] & texts[1]
    contents = [{normalised(split_prompt(r["y"] or r["x"])[0]) for r in splits[s] if r["set"] != "out_of_domain"} for s in (a, b)]
    assert not contents[0] & contents[1]


def test_every_prompt_outside_sft_occurs_once_and_contents_a_few_times(collected):
    for split, records in collected[1].items():
        if split != "sft":
            assert max(Counter(normalised(r["x"]) for r in records).values()) == 1
        targets = {r["y"] for r in records if r["y"]}
        assert not targets or max(Counter(split_prompt(y)[0] for y in targets).values()) <= collections.PER_CONTENT


def test_the_same_files_make_the_same_splits(collected):
    files, splits, manifest = collected
    assert collections.fetch(**files) == (splits, manifest)
    assert collections.fetch(**files, seed=1)[0] != splits


def test_a_language_model_may_rephrase(collected):
    files, by_rules, _ = collected
    few = {"prompts": files["prompts"], "typed": None, "captions": None, "parti": None}

    def write(requests):  # refuses one in ten
        return ["no" if i % 10 == 0 else f"Let there be {r.split(': ', 1)[1]}" for i, r in enumerate(requests)]

    splits, manifest = collections.fetch(**few, writer=write)
    assert manifest["rephrased by"] == "a language model" and manifest["targets it could not rephrase"] > 50
    assert all(r["x"].startswith("Let there be ") == (r["kind"] in REQUESTS) for r in splits["sft"])
    assert len(splits["sft"]) % 4 == 0 and len(splits["sft"]) < len(by_rules["sft"])


def test_too_few_prompts_are_an_error(tmp_path):
    with pytest.raises(PromptlabError, match="1 prompts passed the filters, and none is left for"):
        collections.build(["a fox, oil painting"], {})


def test_every_collection_says_licence_and_size():
    for c in collections.COLLECTIONS.values():
        assert c.id.count("/") == 1 and c.licence and c.megabytes > 0 and c.revision


def test_the_command_takes_a_column_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(config.PRESETS, "sd", dataclasses.replace(config.POCKET, name="sd", prompts=""))
    monkeypatch.setenv("PROMPTLAB_PRESET", "sd")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    mine, theirs = tmp_path / "mine.jsonl", tmp_path / "theirs.csv"
    mine.write_text("".join(json.dumps({"start": f"one {n} number {i}, moody", "prompt": "wrong"}) + "\n" for n in NOUNS for i in range(20)))
    theirs.write_text("seen\n" + "".join(f"There is a {n} on the hill\n" for n in NOUNS))
    command = ["prompts", str(mine), "--captions", str(theirs), "--typed=none", "--parti=none"]
    assert cli.main([*command, "--column=start"]) == 1
    assert "theirs.csv has no column 'start'. Name one of its own (`--column`, `column=`): seen." in capsys.readouterr().err
    assert cli.main([*command, "--column=start", "--column=seen"]) == 0
    assert {r["y"].split()[0] for r in load_prompts("sft")} == {"one"} and "10 of 10 kept" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    from datasets import config as settings

    (tmp_path / "file").touch()
    monkeypatch.setattr(settings, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    with pytest.raises(PromptlabError, match="file/datasets cannot be written .* HF_HOME"):
        collections.read(parquet(tmp_path / "a.parquet", prompt=["a fox"]))
    (tmp_path / "a.csv").write_text("prompt\na fox\n")
    assert collections.read(tmp_path / "a.csv") == ["a fox"], "tables need no cache"


def test_the_command_fetches_what_load_prompts_then_gives(collected, monkeypatch, tmp_path, capsys):
    files, splits, _ = collected
    monkeypatch.setitem(config.PRESETS, "sd", dataclasses.replace(config.POCKET, name="sd", prompts=""))
    monkeypatch.setenv("PROMPTLAB_PRESET", "sd")
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    options = [f"--{kind}={files[kind]}" for kind in ("typed", "captions", "parti")]
    assert cli.main(["prompts", str(files["prompts"]), *options]) == 0
    out = capsys.readouterr().out
    assert (
        out.startswith("Downloads about 0 MB")
        and f"{files['prompts']} (yours to know): 1500 of 1552 kept; filtered out: 50 by duplicates, 2 by length" in out
    )
    assert f"sft {len(splits['sft'])}, ppo" in out and str(tmp_path) in out
    assert all(load_prompts(split) == splits[split] for split in SPLITS)
    manifest = json.loads((tmp_path / "sd" / "prompts" / "manifest.json").read_text())
    assert manifest["records"] == {split: len(records) for split, records in splits.items()}
    assert cli.main(["prompts", str(files["prompts"]), "--typed=none", "--captions=none", "--parti=none", "--limit=900"]) == 0
    assert " of 900 kept" in capsys.readouterr().out and {r["kind"] for r in load_prompts("test")} == {*KINDS, "label"}
    assert cli.main(["prompts", str(tmp_path / "nowhere.csv")]) == 1
    assert "nowhere.csv" in capsys.readouterr().err and len(load_prompts("sft")) > 100, "what was there stays"
    monkeypatch.delenv("PROMPTLAB_PRESET")
    assert cli.main(["prompts"]) == 1 and "pocket brings its own prompts" in capsys.readouterr().err
