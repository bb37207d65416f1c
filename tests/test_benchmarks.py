"""What `make bench` writes: the arithmetic of its records, and the committed ones."""

import datetime
import json
import math
import sys

import pytest
from benchmarks import bench_ppo as bench

from promptlab.runtime import PromptlabError

KEYS = {"against", "metric", "ours", "theirs", "ratio", "command", "date"}


def found():
    """What the steps would find of a machine where everything of ours takes 2 and everything of theirs 4, but GRPO's update 2.2."""
    answer = lambda seconds, mb: {"seconds": [seconds, 90.0, seconds - 0.1, seconds, seconds + 0.1], "mb": mb}  # noqa: E731 - one slow turn
    update = {who: answer(4.0, 300.0) for who in bench.PEERS} | {"ours": answer(2.0, 100.0), "trl_grpo": answer(2.2, 300.0)}
    rollout = {who: answer(4.0, 0) for who in bench.PEERS if who != "trl_ppo"} | {"ours": answer(2.0, 0)}
    train = {"train SFT 0": {"reward": 0.5, "pictures": 0}}
    for seed, more in zip(bench.SEEDS, (-0.2, -0.1, 0, 0.1, 0.2), strict=True):
        train[f"train ours {seed}"] = {"reward": 2.0 + more, "pictures": 1500}
        for who in ("reference_pattern", "trl_grpo", "trl_rloo"):
            train[f"train {who} {seed}"] = {"reward": 1.0 + more, "pictures": 1000}
    return {"update": update, "rollout": rollout, "rewrites": 96} | train


def by_name(records):
    return {(r["against"], r["metric"]): r for r in records}


def check(records):
    """Every peer and metric once; ratios follow from the numbers; what is missing or below its floor has a word about it."""
    assert sorted(by_name(records)) == sorted((peer, metric) for peer in bench.PEERS for metric in bench.METRICS) and len(records) == 16
    for r in records:
        assert KEYS <= r.keys() <= KEYS | {"note"} and r["command"] == "make bench"
        datetime.date.fromisoformat(r["date"])
        if r["theirs"] is None:
            assert r["ours"] is None and r["ratio"] is None and r["note"], r
            continue
        assert math.isfinite(r["ours"]) and math.isfinite(r["theirs"]), r
        if r["ratio"] is None:  # a peer that gained nothing by its pictures
            assert r["theirs"] <= 0 and r["metric"] == "reward_per_1k_images", r
            continue
        better = r["ours"] / r["theirs"] if r["metric"] in ("rollouts_per_s", "reward_per_1k_images") else r["theirs"] / r["ours"]
        assert r["ratio"] == pytest.approx(better, rel=0.002, abs=0.001), r
        floor = bench.FLOORS.get((r["against"], r["metric"]), 0)
        assert r["ratio"] >= floor or f"below the floor of {floor:g}" in r["note"], r
    for metric in ("rollouts_per_s", "reward_per_1k_images"):
        assert by_name(records)["trl_ppo", metric]["theirs"] is None, "a PPOTrainer that takes no function has no such number"


def test_ratios_are_above_one_where_ours_is_better():
    records = bench.records_of(found())
    check(records)
    at = by_name(records)
    assert (at["trl_rloo", "update_s"]["ours"], at["trl_rloo", "update_s"]["ratio"]) == (2.0, 2.0), "the median: a slow turn counts little"
    assert (at["trl_rloo", "rollouts_per_s"]["theirs"], at["trl_rloo", "rollouts_per_s"]["ratio"]) == (24.0, 2.0)
    assert at["reference_pattern", "peak_memory"]["ratio"] == 3.0
    gains = at["reference_pattern", "reward_per_1k_images"]
    assert (gains["ours"], gains["theirs"], gains["ratio"]) == (1.0, 0.5, 2.0), "1.5 by 1,500 pictures against .5 by 1,000"


def test_a_missed_floor_is_named():
    at = by_name(bench.records_of(found()))
    assert at["trl_grpo", "update_s"]["note"] == "below the floor of 1.2." and at["trl_grpo", "update_s"]["ratio"] == 1.1
    assert at["reference_pattern", "rollouts_per_s"]["note"] == "below the floor of 5."
    assert "note" not in at["trl_ppo", "update_s"], "2 is above 1.5"


def test_what_could_not_be_measured_has_no_number():
    lacking = found()
    del lacking["update"]["trl_ppo"]
    records = bench.records_of(lacking)
    check(records)
    assert "could not be installed" in by_name(records)["trl_ppo", "update_s"]["note"]
    assert bench.record("trl_grpo", "reward_per_1k_images", 1.0, -0.2)["ratio"] is None, (
        "it lost reward: no ratio says how much better gaining is"
    )


def test_the_learners_file_is_read_at_the_pictures_both_have():
    row = lambda who, n, reward, seed=0: {"learner": who, "seed": seed, "pictures": n, "set": "in_domain", "n": 120, "reward": reward}  # noqa: E731
    rows = [row("SFT", 0, 0.5)]
    for seed, luck in enumerate((-0.1, 0.1)):
        rows += [row("PPO", n, r + luck, seed) for n, r in ((480, 0.9), (960, 1.5), (1920, 9.0))]
        rows += [row(who, n, r + luck, seed) for who in ("GRPO", "RLOO") for n, r in ((480, 0.7), (960, 1.0))]
    at = by_name(bench.records_of(found(), rows))["trl_grpo", "reward_per_1k_images"]
    assert (
        at["ours"] == pytest.approx(1.0 / 0.96, rel=1e-3)
        and at["theirs"] == pytest.approx(0.5 / 0.96, rel=1e-3)
        and at["ratio"] == pytest.approx(2.0, rel=1e-3)
    )
    assert at["note"] == "ours minus theirs +0.52 (+0.52 to +0.52), training seeds: 2, from data/pocket/learners.json"


def test_a_profile_adds_up():
    parts = [{"drawing": 2.0, "sampling": 0.5, "learning": 1.0}, {"drawing": 4.0, "sampling": 0.5, "learning": 1.0}]
    at = {row["part"]: row for row in bench.profile_of(parts, [4.0, 6.0])}
    assert at["drawing"] == {"part": "drawing", "seconds": 3.0, "share": 0.6} and at["the rest"]["seconds"] == 0.5
    assert at["all but pictures"] == {"part": "all but pictures", "seconds": 2.0, "share": 0.4}


STAND_IN = """
import json, sys
what, who, seed = sys.argv[1:4]
open({log!r}, "a").write(f"{{what}} {{who}} {{seed}}\\n")
if {fails!r} in (who, what):
    sys.exit("no such luck")
say = lambda **found: print(json.dumps(found), flush=True)
say(ready=True)
turn = 0
while sys.stdin.readline().strip() == "go":
    open({log!r}, "a").write(f"go {{who}}\\n")
    say(seconds=100.0 if not turn else 4.0 if who == "ours" else 8.0, parts={{"drawing": 3.0}}, reward=len(who) + int(seed), pictures=500)
    turn += 1
say(mb=10.0)
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Workers that only say numbers, and a function that tells what they were asked since the last call."""
    log = tmp_path / "log"

    def become(fails=""):
        (tmp_path / "ppo_worker.py").write_text(STAND_IN.format(log=str(log), fails=fails))

    def asked():
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    become()
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "ROOT", tmp_path)  # there is no learners.json
    monkeypatch.setattr(bench, "old_trl", lambda: sys.executable)
    return become, asked


def test_learners_take_turns_and_the_first_does_not_count(stand_in, tmp_path):
    _, asked = stand_in
    found = bench.measure(tmp_path, quick=False)
    lines = asked()
    assert lines[:5] == [f"update {who} 0" for who in ("ours", *bench.PEERS)], "all are loaded before the first turn"
    assert lines[5:35] == [f"go {who}" for who in ("ours", *bench.PEERS)] * 6
    assert found["update"]["ours"] == {"said": found["update"]["ours"]["said"], "seconds": [4.0] * 5, "mb": 10.0}
    records = bench.records_of(found)
    check(records)
    assert all(r["ratio"] == 2.0 for r in records if r["metric"] in ("update_s", "rollouts_per_s") and r["theirs"])
    assert {row["part"]: row["seconds"] for row in found["profile"]}["the rest"] == 1.0


def test_a_bench_that_was_stopped_goes_on(stand_in, tmp_path):
    become, asked = stand_in
    become(fails="profile")
    with pytest.raises(PromptlabError, match="profile-ours-0 ended early: no such luck"):
        bench.measure(tmp_path, quick=True)
    assert "rollout ours 0" in asked()
    become()
    bench.measure(tmp_path, quick=True)
    assert asked()[0] == "profile ours 0"
    bench.measure(tmp_path, quick=True)
    assert asked() == [], "everything was known"


@pytest.mark.skipif(not bench.RECORDS.exists(), reason="make bench writes it")
def test_the_committed_records_hold():
    check(json.loads(bench.RECORDS.read_text(encoding="utf8")))
    about = json.loads(bench.PROFILE.read_text(encoding="utf8"))
    parts = {row["part"]: row["seconds"] for row in about["parts"]}
    other = parts.pop("all but pictures")
    assert other == pytest.approx(sum(s for part, s in parts.items() if part not in bench.PICTURES), abs=0.01)
    assert {"drawing", "sampling", "learning", "reading by policy and reference"} <= parts.keys()
