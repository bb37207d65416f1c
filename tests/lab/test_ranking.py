"""The ranking: its state and its log without a browser, and its view by ipywidgets' own click."""

import json

import pytest
from fakes import png
from matplotlib.figure import Figure

from promptlab.lab.ranking import RankTwelve
from promptlab.runtime import PromptlabError


def make_ranking(log, count=4):
    return RankTwelve([f"a frog, way {i}" for i in range(count)], [7] * count, [png((i, i, i)) for i in range(count)], log)


def test_ranking_is_blind_and_places_ties_and_leftovers(tmp_path):
    r = make_ranking(tmp_path / "r.jsonl", 5)
    assert sorted(r.letters.values()) == list("ABCDE") and r.ranks() is None
    r.pick(3)
    r.pick(0, tie=True)
    r.pick(r.letters[4].lower())
    assert r.ranks() == [1.5, 4.5, 4.5, 1.5, 3.0]


def test_every_choice_is_on_disk_at_once_and_undo_too(tmp_path):
    r = make_ranking(tmp_path / "deep" / "r.jsonl")
    r.undo()  # nothing to take back, nothing written
    for i in range(3):
        r.pick(i)
        assert len(r.log.read_text().splitlines()) == i + 1
    r.undo()
    events = [json.loads(line) for line in r.log.read_text().splitlines()]
    assert [e["action"] for e in events] == ["pick"] * 3 + ["undo"] and events[1]["prompt"] == "a frog, way 1" and events[1]["seed"] == 7
    assert r.ranks() == [1, 2, 3.5, 3.5]


def test_undo_takes_a_tie_back(tmp_path):
    r = make_ranking(tmp_path / "r.jsonl")
    r.pick(0)
    r.pick(1, tie=True)
    r.undo()
    assert r.groups == [[0]]


def test_a_new_kernel_goes_on_and_other_pictures_do_not(tmp_path):
    first = make_ranking(tmp_path / "r.jsonl")
    first.pick(2)
    first.pick(1)
    with open(first.log, "ab") as file:
        file.write(b'\nnot json\n[1, 2]\n{"set": 3}\n{"time": 1, "set": [["a fr')  # what a kill may leave
    again = make_ranking(tmp_path / "r.jsonl")
    assert again.groups == [[2], [1]] and again.letters == first.letters
    again.pick(0)
    assert make_ranking(tmp_path / "r.jsonl").groups == [[2], [1], [0]], "a line behind half a line is whole"
    assert make_ranking(tmp_path / "r.jsonl", 5).groups == []


def test_two_notebooks_choosing_the_same_picture_leave_one_choice(tmp_path):
    one, other = make_ranking(tmp_path / "r.jsonl"), make_ranking(tmp_path / "r.jsonl")
    one.pick(2)
    other.pick(2)
    assert make_ranking(tmp_path / "r.jsonl").groups == [[2]]


@pytest.mark.parametrize("picture", ["Z", 99, "", 1])
def test_wrong_picks_are_named_and_not_kept(tmp_path, picture):
    r = make_ranking(tmp_path / "r.jsonl")
    r.pick(1)
    with pytest.raises(PromptlabError, match="not among those left"):
        r.pick(picture)
    assert r.ranked == [1] and len(r.log.read_text().splitlines()) == 1


def test_a_choice_that_cannot_be_kept_is_not_made(tmp_path):
    (tmp_path / "file").write_text("")
    r = make_ranking(tmp_path / "file" / "r.jsonl")
    with pytest.raises(PromptlabError, match="PROMPTLAB_HOME"):
        r.pick(0)
    assert r.ranked == []


def test_ranking_needs_matching_lists(tmp_path):
    with pytest.raises(PromptlabError, match="2 to 26"):
        RankTwelve(["a"], [1], [png("red")], tmp_path / "r.jsonl")


def test_ranking_goes_to_the_run_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    assert make_ranking(None).log == tmp_path.resolve() / "pocket" / "rewards" / "ranking.jsonl"


def test_ranking_by_clicks(tmp_path):
    r = make_ranking(tmp_path / "r.jsonl")
    view = r.widget
    html = " ".join(c.children[0].value for c in view.children[2].children[0].children)
    assert "picture A" in html and "way" not in html, "blind: no prompt may show"
    assert r._tie.disabled and r._back.disabled
    r._buttons[2].click()
    assert r._buttons[2].disabled and "place 1" in r._buttons[2].description and not r._back.disabled
    r._tie.value = True
    r._buttons[0].click()
    assert r.groups == [[2, 0]] and not r._tie.value, "a tie is meant once"
    r._back.click()
    assert r.groups == [[2]] and not r._buttons[0].disabled
    for i in (0, 1, 3):
        r._buttons[i].click()
    assert "<b>All 4 are ranked. Run the next cell.</b>" in r._line.value and r.ranks() == [2, 3, 1, 4]
    assert isinstance(r.figure(), Figure)


def test_a_click_that_cannot_be_kept_says_so_in_the_widget(tmp_path):
    (tmp_path / "file").write_text("")
    r = make_ranking(tmp_path / "file" / "r.jsonl")
    assert r.widget
    r._buttons[0].click()
    assert 'role="alert"' in r._line.value and "PROMPTLAB_HOME" in r._line.value and not r._buttons[0].disabled
    (tmp_path / "file").unlink()
    r._buttons[0].click()
    assert 'role="status"' in r._line.value and r.ranked == [0] and r._buttons[0].disabled


STRANGE = ["a\u2028frog", "a\u2029frog", "a\x85frog", "a\x0bfrog", "a\x0cfrog", "a\x1cfrog\x1d\x1e", "a\nfrog", "a\r\nfrog", "a\rfrog",
           "\ud800 frog", "frog \udfff", "a\0frog", "🐸", 'a "frog"', "a \\u2028 frog"]  # fmt: skip


def test_choices_outlive_a_restart_whatever_their_prompts_hold(tmp_path):
    new = lambda: RankTwelve(STRANGE, range(len(STRANGE)), [png("red")] * len(STRANGE), tmp_path / "r.jsonl")  # noqa: E731
    for i in range(len(STRANGE)):
        new().pick(i)
    assert new().ranked == list(range(len(STRANGE)))
    new().undo()
    assert new().ranked == list(range(len(STRANGE) - 1))


def test_choices_of_an_earlier_version_are_read(tmp_path):
    """It wrote such characters as they are."""
    prompts = ["a\u2028frog", "a\x85frog"]
    event = {"time": 1.0, "set": [[prompts[0], 1], [prompts[1], 2]], "action": "pick", "picture": 1}
    (tmp_path / "r.jsonl").write_bytes(json.dumps(event, ensure_ascii=False).encode() + b"\n")
    assert RankTwelve(prompts, [1, 2], [png("red")] * 2, tmp_path / "r.jsonl").ranked == [1]
