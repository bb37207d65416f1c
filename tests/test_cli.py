"""`python -m promptlab`: what it prints, and its exit code."""

import ast
import base64
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys

import nbformat
import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import save_file
from tiny_policy import tiny_policy

from promptlab import __main__ as cli
from promptlab import config, evaluation, policy, ppo, runtime
from promptlab.course import notebooks
from promptlab.course.peak import Peak

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DRAW = f"import base64\nfrom IPython.display import Image, display\ndisplay(Image(base64.b64decode('{PIXEL}')))"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PROMPTLAB_PRESET", raising=False)
    return tmp_path / "home"


@pytest.fixture
def data(monkeypatch, tmp_path):
    for part in ("generator", "clip", "aesthetic", "judge"):
        (tmp_path / "data" / "pocket" / part).mkdir(parents=True)
        save_file({"w": np.zeros(3, np.float32)}, tmp_path / "data" / "pocket" / part / "model.safetensors")
    monkeypatch.setattr(runtime, "data_dir", lambda: tmp_path / "data")
    monkeypatch.setattr(cli, "dependencies", list)  # importing them all takes long: one test below does
    return tmp_path / "data" / "pocket"


def write_notebook(folder, name, *cells):
    path = folder / f"{name}.ipynb"
    v4 = nbformat.v4
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# A lesson"), *map(v4.new_code_cell, cells)]), path)
    return path


def rows(text):
    return [line.split(maxsplit=2) for line in text.splitlines()]


def test_doctor_is_content(data, capsys):
    assert cli.main(["doctor"]) == 0
    out = rows(capsys.readouterr().out)
    assert {row[0] for row in out} == {"OK"}
    assert {"python", "hardware", "preset"} <= {row[1] for row in out}


@pytest.mark.parametrize("part", ["generator", "clip", "aesthetic", "judge"])
def test_doctor_names_a_truncated_file(data, capsys, part):
    file = data / part / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.main(["doctor"]) == 1
    (failed,) = [row for row in rows(capsys.readouterr().out) if row[0] == "FAIL"]
    assert str(file) in failed[2] and "git checkout -- data/pocket" in failed[2]


def test_doctor_tells_an_unknown_preset(data, capsys, monkeypatch):
    monkeypatch.setenv("PROMPTLAB_PRESET", "huge")
    assert cli.main(["doctor"]) == 1
    assert "'huge'" in capsys.readouterr().out


def test_doctor_tells_a_run_folder_that_cannot_be_written(data, capsys, home):
    home.write_text("a file stands where the folder should be")
    assert cli.main(["doctor"]) == 1
    (failed,) = [row for row in rows(capsys.readouterr().out) if row[0] == "FAIL"]
    assert failed[1] == "run" and str(home) in failed[2]


def test_doctor_tells_missing_old_and_broken_libraries(capsys, monkeypatch):
    from packaging.requirements import Requirement

    wanted = ["numpy>=99", "no-such-library-of-ours", "pillow>=1"]
    checks = [(w, lambda w=w: cli.dependency(Requirement(w))) for w in wanted]
    assert [cli.check(*c) for c in checks] == [False, False, True]
    out = capsys.readouterr().out
    assert "pip install 'numpy>=99'" in out and "no-such-library-of-ours" in out
    monkeypatch.setitem(cli.IMPORT_NAME, "pillow", "no_such_module")
    assert not cli.check(*checks[2])


@pytest.mark.weights
def test_doctor_approves_this_checkout():
    done = subprocess.run([sys.executable, "-m", "promptlab", "doctor"], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"torch", "diffusers", "open-clip-torch", "jupyterlab"} <= {row[1] for row in rows(done.stdout)}


def test_run_keeps_notebooks_pictures_and_a_table(home, tmp_path, capsys):
    where = "import os\nos.getcwd(), os.environ['HF_HUB_OFFLINE']"
    first = write_notebook(tmp_path, "90_first", "big = bytearray(200_000_000)", DRAW, "", where)
    second = write_notebook(tmp_path, "91_second", "big")  # NameError unless it shares the first one's kernel
    assert cli.main(["run", str(first), str(second)]) == 1
    out, folder = capsys.readouterr().out, home / "pocket" / "run"
    assert "90_first  cell 2/3" in out and "| 90_first | 3 |" in out and str(folder / "pictures") in out
    assert "91_second failed in cell 1: NameError" in out
    records = json.loads((folder / "table.json").read_text())
    assert [(r["notebook"], r["cells"], r["result"]) for r in records] == [
        ("90_first", 3, "ok"),
        ("91_second", 0, "failed"),
        ("whole run", 3, "failed"),
    ]
    assert 200 < records[0]["peak_memory_mb"] < 2000 and records[0]["seconds"] > 0
    assert (folder / "table.md").read_text() == notebooks.table(records)
    assert (folder / "pictures" / "90_first-02-1.png").read_bytes() == base64.b64decode(PIXEL)
    kept = nbformat.read(folder / "90_first.ipynb", as_version=4)
    assert ast.literal_eval(kept.cells[-1].outputs[0].data["text/plain"]) == (str(tmp_path), "1")
    assert not nbformat.read(first, as_version=4).cells[2].outputs, "the notebook itself stays as it was"


def test_a_failing_cell_is_named_and_what_ran_is_kept(home, tmp_path):
    path = write_notebook(tmp_path, "90_fails", DRAW, "1 / 0", "print('never')")
    record = notebooks.execute(path, home)
    assert record["error"] == "90_fails failed in cell 2: ZeroDivisionError: division by zero"
    assert (record["cells"], record["result"]) == (1, "failed")
    kept = nbformat.read(home / "90_fails.ipynb", as_version=4)
    assert [bool(c.outputs) for c in kept.cells[1:]] == [True, True, False]
    assert (home / "pictures" / "90_fails-01-1.png").exists()


def test_a_killed_kernel_is_reported(home, tmp_path):
    record = notebooks.execute(write_notebook(tmp_path, "90_dies", "1", "import os\nos._exit(1)"), home)
    assert "90_dies failed in cell 2" in record["error"] and "out of memory?" in record["error"]


# Says the kernel's process and one it started, which takes no notice of a friendly signal.
BOTH = """import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(90)"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")"""


def alive(folder):
    """Which of the two still live after a moment; a zombie does not."""
    left = []
    for pid in map(int, (folder / "pids").read_text().split()):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(pid))
    return [p for p in psutil.wait_procs(left, timeout=5)[1] if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("ending", ["print('ok')", "1 / 0", "os._exit(1)", "raise KeyboardInterrupt"])
def test_a_kernel_ends_with_its_notebook_and_so_does_what_it_started(home, tmp_path, ending):
    notebooks.execute(write_notebook(tmp_path, "90_starts", BOTH, ending), home)
    assert alive(tmp_path) == []


@pytest.mark.parametrize("when, number", [("in a cell", signal.SIGINT), ("while the kernel starts", signal.SIGTERM)])
def test_a_stop_keeps_what_ran_leaves_no_process_and_begins_no_other_notebook(home, tmp_path, when, number, monkeypatch):
    stop = f"{BOTH}\nos.kill(os.getppid(), {int(number)})\nsignal.pause()"
    path = write_notebook(tmp_path, "90_slow", "print('kept')", stop, "print('never')")
    last = write_notebook(tmp_path, "91_last", "open('begun', 'w')")
    if when == "while the kernel starts":  # IPython runs this before the kernel answers
        startup = tmp_path / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "stop.py").write_text(stop)
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    done = subprocess.run([sys.executable, "-m", "promptlab", "run", path, last], capture_output=True, text=True, timeout=90)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert alive(tmp_path) == [] and not (tmp_path / "begun").exists()
    kept = nbformat.read(home / "pocket" / "run" / "90_slow.ipynb", as_version=4)
    assert [bool(c.outputs) for c in kept.cells[1:]] == [when == "in a cell", False, False]


def test_a_stop_while_a_kernel_ends_is_a_stop_all_the_same(home, tmp_path):
    leave = f"atexit.register(lambda: (os.kill(os.getppid(), {int(signal.SIGINT)}), time.sleep(60)))"
    path = write_notebook(tmp_path, "90_ends", f"import atexit, os, time\n{leave}\nprint('kept')")
    with pytest.raises(KeyboardInterrupt):
        notebooks.execute(path, home)
    assert nbformat.read(home / "90_ends.ipynb", as_version=4).cells[1].outputs


def test_peak_memory_counts_every_process_and_no_kernel_that_ended(home, tmp_path):
    own = "big = bytearray(300_000_000)\ndel big"  # back before anybody looks again
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; big = bytearray(300_000_000); time.sleep(1)'])"
    paths = [write_notebook(tmp_path, name, *cells) for name, cells in {"90_own": [own], "91_child": [child], "92_none": ["1"]}.items()]
    first, second, third, whole = notebooks.run(map(str, paths), home)
    assert 300 < first["peak_memory_mb"] - third["peak_memory_mb"] + 20 < 340
    assert 290 < second["peak_memory_mb"] - third["peak_memory_mb"] < 340
    with Peak() as now:  # this process and what earlier tests have started, such as a browser
        pass
    both = max(first["peak_memory_mb"], second["peak_memory_mb"]) + now.mb
    # On a busy machine one that was ended may be seen beside the next one's beginning, before the system has taken its memory back.
    assert both - 60 < whole["peak_memory_mb"] < both + third["peak_memory_mb"] + 60
    assert "| whole run | 3 |" in (home / "table.md").read_text()


def test_pictures_of_an_earlier_run_go(home, tmp_path):
    notebooks.execute(write_notebook(tmp_path, "90_draws", DRAW), home)
    notebooks.execute(write_notebook(tmp_path, "90_draws", "1"), home)
    assert not list((home / "pictures").glob("*"))


def test_kernel_is_this_python_whatever_the_kernelspec_says(home, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "another", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    code = "import sys, promptlab\nprint(sys.executable, promptlab.__file__)"
    assert notebooks.execute(write_notebook(tmp_path, "90_who", code), home)["result"] == "ok"
    printed = nbformat.read(home / "90_who.ipynb", as_version=4).cells[1].outputs[0].text.split()
    assert printed == [sys.executable, os.path.join(runtime.PACKAGE, "__init__.py")]


@pytest.mark.parametrize("arguments, message", [(["run", "77_nowhere"], "'77_nowhere'"), (["run", __file__], "test_cli.py")])
def test_run_tells_what_it_cannot_find(arguments, message, capsys):
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_run_finds_lessons_beyond_the_course_by_name_only_and_no_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "checkout", lambda: tmp_path)
    for name in (
        "00_tour",
        "mine",
        "beyond/11_more",
        ".ipynb_checkpoints/00_tour-checkpoint",
        "beyond/.ipynb_checkpoints/11_more-checkpoint",
    ):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = lambda *asked: [p.stem for p in notebooks.find(asked)]  # noqa: E731
    assert names() == ["00_tour", "mine"] and names("00", "11", "mine") == ["00_tour", "11_more", "mine"]


def test_run_tells_a_file_that_is_no_notebook(tmp_path, capsys):
    (tmp_path / "90_text.ipynb").write_text("hello")
    assert cli.main(["run", str(tmp_path / "90_text.ipynb")]) == 1
    assert "90_text.ipynb is not a notebook" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["doctor", "--loudly"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "usage: python -m promptlab" in capsys.readouterr().err


# --- training, measuring, rewriting ---------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch, tiny_preset, tmp_path):
    """The preset "tiny" chosen: a world of random weights, a language model without an SFT or PPO policy, a dozen prompts."""
    from promptlab import prompts

    folder = tmp_path / "language"
    tiny_policy().save(folder)
    small = {
        "ppo_updates": 3,
        "ppo_prompts": 2,
        "ppo_samples": 2,
        "ppo_new_tokens": 6,
        "sft_epochs": 1,
        "sft_batch": 4,
        "test_prompts": 4,
        "test_images": 2,
    }
    preset = dataclasses.replace(tiny_preset, language=str(folder), sft="", ppo="", **small)
    monkeypatch.setitem(config.PRESETS, "tiny", preset)
    monkeypatch.setenv("PROMPTLAB_PRESET", "tiny")
    names = ("red frog", "blue frog", "red castle", "blue castle", "frog", "castle")
    some = [{"x": f"a {n}", "y": f"{n}, oil, vivid", "kind": "MC", "set": s, "subjects": [n.split()[-1]], "colour": None} for n in names for s in ("in_domain", "out_of_domain")]  # fmt: skip
    monkeypatch.setattr(prompts, "load_prompts", lambda split: some)
    return preset


def test_train_measure_and_rewrite(tiny, home, capsys, tmp_path):
    """The verbs in their order, each finding what the one before has made."""
    assert cli.main(["ppo"]) == 1
    assert "'tiny' comes without a policy after sft" in capsys.readouterr().err
    assert cli.main(["sft"]) == 0
    assert str(policy.own_policy("sft")) in capsys.readouterr().out
    assert not torch.equal(*(policy.load_policy(f).model.transformer.wte.weight for f in (tiny.language, policy.own_policy("sft"))))

    assert cli.main(["ppo", "--updates", "2"]) == 0
    out = capsys.readouterr().out
    assert "sft policy: your own" in out and out.index(str(policy.own_policy("ppo"))) < out.index("2 updates. ") and "clipped share" in out
    (log,) = (home / "tiny" / "ppo").glob("run-*/metrics.jsonl")
    first = log.read_text().splitlines()
    weights = policy.own_policy("ppo") / "model.safetensors"
    two = weights.read_bytes()
    assert cli.main(["ppo"]) == 0, "on to the three of the preset, from the checkpoint"
    again = log.read_text().splitlines()
    assert again[:2] == first and len(again) == 3 and weights.read_bytes() != two
    assert cli.main(["ppo", "--updates", "2", "--seed", "1", "--out", str(tmp_path / "mine")]) == 0
    assert policy.load_policy(tmp_path / "mine") and len(list((home / "tiny" / "ppo").glob("run-*"))) == 2
    capsys.readouterr()

    assert cli.main(["evaluate"]) == 0
    out = capsys.readouterr().out
    records = evaluation.load_results(home / "tiny" / "evaluate" / "results.json")
    for name in ("in_domain", "out_of_domain"):
        assert name in out
        for versus, method in ((None, "plain"), (None, "sft"), (None, "ppo"), ("sft", "ppo")):
            r = evaluation.find(records, set=name, method=method, versus=versus, metric="reward")
            assert f"{r['mean']:.2f} ({r['low']:.2f} to {r['high']:.2f})" in out and r["seeds"] == 1
    assert (
        cli.main(["evaluate", "--out", str(tmp_path / "mine")]) == 0
        and evaluation.load_results(tmp_path / "mine" / "results.json") == records
    )
    capsys.readouterr()

    assert cli.main(["rewrite", "a frog", "a castle"]) == 0
    out, err = capsys.readouterr()
    assert (
        out.splitlines() == policy.load_policy(policy.own_policy("ppo")).rewrite(["a frog", "a castle"]) and "ppo policy: your own" in err
    )


def test_rewrite_samples_several_by_a_seed(tiny, capsys):
    tiny_policy(seed=3).save(policy.own_policy("sft"))
    seen = []
    for seed in ("0", "0", "1"):
        assert cli.main(["rewrite", "a frog", "a castle", "--stage", "sft", "--n", "3", "--seed", seed]) == 0
        seen.append(capsys.readouterr().out)
    assert seen[0] == seen[1] != seen[2] and len(seen[0].splitlines()) == 6
    assert seen[0].splitlines()[:3] == tiny_policy(seed=3).rewrite(["a frog", "a castle"], 3, "sample", seed=0)[0]


def test_an_interrupted_ppo_keeps_no_half_trained_policy_and_goes_on(tiny, home, capsys, monkeypatch):
    tiny_policy(seed=3).save(policy.own_policy("sft"))
    update = ppo.PPO.update

    def interrupted(run, *args):
        if run.done == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return update(run, *args)

    monkeypatch.setattr(ppo.PPO, "update", interrupted)
    assert cli.main(["ppo"]) == 130
    assert "Stopped after update 2 of 3" in capsys.readouterr().out and not policy.own_policy("ppo").exists()
    monkeypatch.setattr(ppo.PPO, "update", update)
    assert cli.main(["ppo"]) == 0 and policy.own_policy("ppo").exists()
    (log,) = (home / "tiny" / "ppo").glob("run-*/metrics.jsonl")
    assert len(log.read_text().splitlines()) == 3


def test_a_preset_is_chosen_by_name(tiny, monkeypatch, capsys):
    monkeypatch.setenv("PROMPTLAB_PRESET", "pocket")  # which goes back to what it was, whatever a verb makes of it
    assert cli.main(["rewrite", "a frog", "--preset", "tiny"]) == 1
    assert "'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ppo", "--updates", "0"], "a whole number above 0"),
        (["ppo", "--updates", "many"], "a whole number above 0"),
        (["rewrite", "a frog", "--n", "-1"], "a whole number above 0"),
        (["rewrite"], "PROMPT"),
        (["rewrite", "a frog", "--stage", "rlhf"], "choose from"),
        (["sft", "--preset", "huge"], "choose from"),
    ],
)
def test_a_wrong_option_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["rewrite", " "], ["rewrite", "a frog", ""]])
def test_a_prompt_without_words_is_an_error_in_a_line(tiny, arguments, capsys):
    tiny_policy().save(policy.own_policy("ppo"))
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert not out and "empty" in err.splitlines()[-1]


@pytest.mark.parametrize("verb", ["sft", "ppo", "evaluate", "rewrite"])
def test_help_loads_nothing_heavy(verb):
    code = f"import sys\nfrom promptlab.__main__ import main\ntry:\n    main([{verb!r}, '--help'])\nfinally:\n    assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0 and "--preset" in done.stdout, done.stderr
