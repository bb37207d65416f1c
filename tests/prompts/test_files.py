"""Prompt files as people have them: what is read, and what is refused with the line and the next step."""

import json

import pytest

from promptlab.prompts import collections
from promptlab.runtime import PromptlabError

TWO = ["a fox, oil painting", "an owl, moody"]


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", 'style,prompt,negative_prompt,\n__one__,,,,\nA,"a fox, oil painting",dog,\nB,"an owl, moody","cat, dog",,\n'),
        ("a.csv", 'negative_prompt,prompt,,\n"cat, dog","a fox, oil painting",,\n,"an owl, moody",,,,\n'),
        ("a.csv", 'n,Prompt\n1,"a fox, oil painting",,\n2\n\n3,"an owl, moody"\n'), ("a.CSV", 'n, PROMPT \n1, "a fox, oil painting"\n2, "an owl, moody"\n'),
        ("a.csv", "prompt;other\na fox, oil painting;dog, cat\nan owl, moody;x\n"), ("a.csv", "sep=;\r\nno;prompt\r\n1;a fox, oil painting\r\n2;an owl, moody\r\n"),
        ("a.csv", "text\tn\na fox, oil painting\t1\nan owl, moody\t2\n"), ("a.Tsv", "prompt\na fox, oil painting\nan owl, moody\n"),
        ("a.csv", '\ufeff\n\n,prompt\n0,"a fox, oil painting"\n1,"an owl, moody"\n'), ("a.csv", 'prompt\r"a fox, oil painting"\r"an owl, moody"\r'),
        ("a.json", json.dumps(TWO)), ("a.json", json.dumps({"prompt": TWO, "n": [1, 2]})), ("a.json", json.dumps({"prompt": dict(enumerate(TWO))})),
        ("a.json", json.dumps({"data": [{"prompt": t, "seed": s} for t, s in zip(TWO, (1, "x"), strict=True)], "v": 1})),
        ("a.json", "\n".join(json.dumps({"prompt": t}) for t in TWO)), ("a.JSONL", "\ufeff" + "\r\n".join(json.dumps({"caption": [t, "x"]}) for t in TWO)),
        ("a.txt", "\ufeffa fox, oil painting\r\n\r\nan owl, moody"), ("b [1]/a {x}?.txt", "\n".join(TWO)), ("b [1]/a [x].csv", '"prompt"\n"a fox, oil painting"\n"an owl, moody"'),
    ],
)  # fmt: skip
def test_files_as_people_have_them(tmp_path, name, content):
    assert collections.read(write(tmp_path / name, content)) == TWO


def test_a_quote_in_a_table_by_tabs_is_a_letter(tmp_path):
    file = write(tmp_path / "a.tsv", 'Prompt\tn\n"stop" on a sign\t1\nan owl, moody\t2\n')
    assert collections.read(file) == ['"stop" on a sign', "an owl, moody"]


def test_brackets_in_the_name_of_a_folder_and_of_a_parquet_file(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "b [1]" / "a [2].parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"prompt": TWO}), file)
    assert collections.read(file) == TWO == collections.read(file.parent)


def test_folders_of_files(tmp_path):
    write(tmp_path / "x/1.txt", "a fox, moody\nNegative prompt: dog\nSteps: 20, Seed: 1"), write(tmp_path / "x/2.txt", "an owl"), write(tmp_path / "x/2.png", b"\x89")
    assert collections.read(tmp_path / "x") == ["a fox, moody", "an owl"]
    write(tmp_path / "y/train.csv", "prompt,,\na fox,,,\n"), write(tmp_path / "y/test.csv", "prompt\nan owl\n"), write(tmp_path / "y/licence.txt", "free")
    assert collections.read(tmp_path / "y") == ["a fox"] and collections.read(tmp_path / "y", split="test") == ["an owl"]


@pytest.mark.parametrize(
    "content, prompts",
    [
        ("a fox, moody\nNegative prompt: dog\nSteps: 20, Sampler: x", ["a fox, moody"]),
        ("a fox,\nmoody\nNegative prompt: dog,\nugly\n\nblurry\nSteps: 20, Seed: 1\n\nan owl\nSteps: 9, Seed: 2\n", ["a fox, moody", "an owl"]),
        ("a fox\nnegative_prompt: dog\nan owl\nNegative prompt: cat", ["a fox", "an owl"]),
        ("a fox\nan owl\n\na lamp, moody\nNegative prompt: dog\nSteps: 20, Seed: 1\nTemplate: a lamp\nNegative Template: dog", ["a fox", "an owl", "a lamp, moody"]),
        ("a fox\nsteps: of stone\nan owl", ["a fox", "steps: of stone", "an owl"]),
        ("Template: x\nan owl", ["Template: x", "an owl"]), ("Negative prompt: dog\nSteps: 20, Seed: 1\nan owl", ["an owl"]),
    ],
)  # fmt: skip
def test_parameter_files_give_the_prompts_alone(tmp_path, content, prompts):
    assert collections.read(write(tmp_path / "a.txt", content)) == prompts


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", 'prompt,n\n"a fox",1\n"a caf\u00e9\u2026, moody",2\n'.encode("cp1252"), "not in UTF-8: line 3 has the byte 0xe9.*'\"a caf\u00e9\u2026, moody\",2'.*Save it as UTF-8"),
        ("a.txt", "a caf\u00e9\n".encode("latin-1"), "not in UTF-8: line 1"), ("a.jsonl", '{"prompt": "caf\u00e9"}'.encode("latin-1"), "not in UTF-8: line 1"),
        ("a.json", '["\u72d0"]'.encode("gb18030"), "not in UTF-8: line 1"), ("a.csv", "prompt\na fox".encode("utf-16"), "encoding UTF-16, not UTF-8"),
        ("a.txt", "a fox\n".encode("utf-16-le"), "encoding UTF-16, not UTF-8"), ("a.txt", "a fox\n".encode("utf-32"), "encoding UTF-32, not UTF-8"),
        ("a.csv", "prompt\na fox\na dog, moody\n", "line 3 has 2 cells and the header 1. Put double quotes"), ("a.csv", "\n\nprompt,n\na dog, moody,1\n", "line 4 has 3 cells and the header 2"),
        ("a.csv", 'prompt,n\n"a fox" red,1\n', "line 2 cannot be read .* quote"), ("a.csv", 'prompt,n\n"a fox,1\nb,2\n', "line 2 cannot be read .* quote"),
        ("a.csv", "", "is empty"), ("a.txt", "\ufeff \n", "is empty"), ("a.jsonl", "", "is empty"), ("a.csv", "prompt,n\n", "no rows below its header"), ("a.json", "[]", "has no rows"),
        ("a.csv", "prompt,n\n,1\n", "holds no text"), ("a.json", '[{"prompt": 3}]', "holds no text"), ("a.jsonl", '{"prompt": "x"}\n{"prompt": ', "line 2: .* Check that it is complete"),
        ("a.json", '[\n{"prompt": "x"},\n{"prompt"', "line 3 .* Check that it is complete"), ("a.json", "3", "holds no text"), ("a.XLSX", "x", "of no kind we read"),
        ("a.csv", "negative_prompt,name\nx,y\n", "has no column called prompt, caption, captions, text. .*: negative_prompt, name"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_the_next_step(tmp_path, name, content, message):
    with pytest.raises(PromptlabError, match=message) as error:
        collections.read(write(tmp_path / name, content))
    assert name in str(error.value)


def test_a_column_by_name(tmp_path):
    file = write(tmp_path / "a.csv", "prompt;positive\nno;a fox, moody\n")
    assert collections.read(file, "positive") == ["a fox, moody"] == collections.read(file, ["missing", "positive"])
    with pytest.raises(PromptlabError, match="no column 'Positive'. Name one of its own .*: prompt, positive"):
        collections.read(file, "Positive")
