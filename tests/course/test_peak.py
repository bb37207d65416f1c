"""Peak memory of a process and what it started."""

import os
import subprocess
import sys
import threading

import psutil
import pytest

from promptlab.course import peak

HOLD = "import sys; big = bytearray({0} << 20); print('held', flush=True); sys.stdin.read()"


def child(mb):
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(mb)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.communicate(timeout=60)


def test_children_of_one_time_add_up_and_those_of_different_times_do_not(monkeypatch):
    monkeypatch.setattr(peak, "EVERY", 60)  # looks only when told to
    with peak.Peak() as p:
        before = p.mb
        one = child(100)
        p.look()
        two = child(150)
        p.look()
        both = p.mb - before
        end(one), end(two)
        three = child(200)
        p.look()
        end(three)
    assert 250 <= both < 310 and p.mb - before == both


def test_a_peak_between_two_looks_counts_where_the_system_marks_it(monkeypatch):
    if not peak._mark(psutil.Process().pid):
        pytest.skip("this system marks no peaks")
    monkeypatch.setattr(peak, "EVERY", 60)
    code = "import sys; print(1, flush=True); sys.stdin.readline(); big = bytearray(200 << 20); del big; print(2, flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    with peak.Peak(process.pid) as p:
        before = p.mb
        process.stdin.write("\n"), process.stdin.flush(), process.stdout.readline()
    end(process)
    assert 200 <= p.mb - before < 240


def test_what_was_held_before_the_block_is_not_its_peak(monkeypatch):
    code = "import sys; big = bytearray(300 << 20); del big; print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with peak.Peak(process.pid) as p:
        p.look()
    end(process)
    assert 0 < p.mb < 100


def test_looks_by_itself_and_bears_the_end_of_its_process():
    process = child(50)
    with peak.Peak(process.pid) as p:
        end(process)
        process.wait()
        threading.Event().wait(2 * peak.EVERY)
    assert 50 < p.mb < 110


def test_a_process_that_is_about_to_start_another_program_counts_once(monkeypatch):
    monkeypatch.setattr(peak, "EVERY", 60)
    with peak.Peak() as p:
        before = p.mb  # of this process and what earlier tests have started, such as a browser
        reader, writer = os.pipe()
        pid = os.fork()  # shows all of this process as its own, as before an exec
        if not pid:
            os.close(writer), os.read(reader, 1), os._exit(0)
        p.look()
        os.close(writer), os.close(reader), os.waitpid(pid, 0)
    assert p.mb < before + 0.5 * psutil.Process().memory_info().rss / 2**20
