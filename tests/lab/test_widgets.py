"""The clickable parts: their state and logic without a browser, and their views by ipywidgets' own click and drag."""

import types

from promptlab.lab import widgets


def test_live_only_in_a_kernel_with_a_reader(monkeypatch):
    monkeypatch.delenv("PROMPTLAB_HEADLESS", raising=False)
    assert not widgets.live()
    monkeypatch.setattr("IPython.get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    assert widgets.live()
    monkeypatch.setenv("PROMPTLAB_HEADLESS", "1")
    assert not widgets.live()
