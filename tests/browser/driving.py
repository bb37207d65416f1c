"""How tests drive a browser: servers that last for the session, and what every page of ours must keep."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TOKEN = "frog"


def find_chromium():
    return next(filter(None, map(shutil.which, NAMES)), None)


@functools.cache
def jupyterlab(root, cleanup) -> str:
    """The address of a JupyterLab with `root` as its folder: no user settings, no look for news or updates."""
    return _serve(
        "jupyterlab", root, cleanup, "--allow-root", "--ip=127.0.0.1", f"--notebook-dir={root}", f"--IdentityProvider.token={TOKEN}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly", ready=f"api?token={TOKEN}",
    )  # fmt: skip


@functools.cache
def voila(root, cleanup, startup, *options) -> str:
    """The address of a Voila that serves the notebooks under `root`; each of its kernels runs `startup` first."""
    return _serve("voila", root, cleanup, str(root), "--Voila.ip=127.0.0.1", "--show_tracebacks=True", *options, ready="", startup=startup)


def _serve(module, root, cleanup, *options, ready, startup=""):
    """Start a server of the session; `cleanup` gets the function that ends it, and its kernels with it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder = Path(root) / f"{module}-settings"
    first = folder / "ipython" / "profile_default" / "startup" / "first.py"
    first.parent.mkdir(parents=True)
    first.write_text(startup)
    quiet = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')  # else it asks, on top of what a test looks at
    env = {k: v for k, v in os.environ.items() if k != "PROMPTLAB_HEADLESS"}  # somebody can click
    env |= {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")} | {
        "IPYTHONDIR": str(folder / "ipython")
    }
    log = folder / "log.txt"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", module, "--no-browser", f"--port={port}", *options], stdout=file, stderr=file, cwd=root, env=env
        )
    cleanup(lambda: (server.terminate(), server.wait(60)))
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urlopen(f"http://127.0.0.1:{port}/{ready}", timeout=5).close()
            return f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{module} does not answer:\n{log.read_text()}")


def end_kernels(address):
    """Give back the memory of a JupyterLab's kernels."""
    headers = {"Authorization": f"token {TOKEN}"}
    with urlopen(Request(f"{address}/api/kernels", headers=headers), timeout=30) as answer:
        kernels = json.load(answer)
    for kernel in kernels:
        urlopen(Request(f"{address}/api/kernels/{kernel['id']}", headers=headers, method="DELETE"), timeout=60).close()


def write_notebook(path, *cells):
    """A notebook of these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


# Can the notebook in front show widgets? The extension that draws them loads beside it; what a cell shows before stays text for good.
SHOWS_WIDGETS = "window.jupyterapp.shell.currentWidget?.content?.rendermime?.mimeTypes.includes('application/vnd.jupyter.widget-view+json')"


def run_all(page):
    """Wait for kernel and widgets, then run all cells; asked too early, JupyterLab does nothing, so ask until the first has begun."""
    page.get_by_text("(ipykernel) | Idle").wait_for()  # in the status bar
    page.wait_for_function(SHOWS_WIDGETS)
    number = page.locator(".jp-CodeCell .jp-InputPrompt").first
    while not number.inner_text().strip("[]: "):
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_timeout(1000)


def theme(page, name):
    """JupyterLab in "Light" or "Dark"."""
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {name}'}})")
    page.locator(f"body[data-jp-theme-light={'true' if name == 'Light' else 'false'}]").wait_for(state="attached")


def faults(page, scope) -> list[str]:
    """What axe-core (WCAG 2 A and AA, contrast of text among them) finds wrong with what is shown inside `scope`, one line each."""
    from axe_playwright_python.base import AXE_SCRIPT

    page.evaluate(AXE_SCRIPT)
    asked = "scope => axe.run({include: [[scope]]}, {resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
    found = page.evaluate(asked, scope)["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]} ({'; '.join(check['message'] for check in node['any'] + node['all'])})"
        for rule in found
        for node in rule["nodes"]
    ]


# What can be used inside a box and is in view.
CONTROLS = """scope => [...document.querySelectorAll(scope)].flatMap(box => [...box.querySelectorAll(
  'button, input, select, textarea, summary, a[href], [role=slider], [role=tab][aria-selected=true], [tabindex="0"]')])
  .filter(e => !e.disabled && e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length)"""
NAME = "e => (e.getAttribute('aria-label') || e.innerText || e.labels?.[0]?.innerText || e.title || e.outerHTML.slice(0, 120)).trim()"


def unreached(page, scope) -> list[str]:
    """Names of the controls inside `scope` that the Tab key, from the first one on, does not come to."""
    controls = page.evaluate_handle(CONTROLS, scope)
    count = controls.evaluate("all => all.length")
    assert count, f"no controls in {scope}"
    controls.evaluate("all => { window.reached = new Set(); all[0].focus(); window.reached.add(all[0]) }")
    for _ in range(count + 10):
        page.keyboard.press("Tab")
        page.evaluate("window.reached.add(document.activeElement)")
    # Of a group of tabs one takes the focus, and the arrow keys move it on.
    same = "[...window.reached].some(r => r === e || r.role === 'tab' && e.role === 'tab' && r.parentElement === e.parentElement)"
    return controls.evaluate(f"all => all.filter(e => !{same}).map({NAME})")


def sideways(page, scope) -> list[str]:
    """What inside `scope` is wider than the room it has, so that a reader would have to scroll sideways or finds a word cut off."""
    wide = """scope => [document.documentElement, ...document.querySelectorAll(
      `${scope}, ${scope} :is([role=list], .widget-gridbox, .lm-TabBar-tabLabel)`)]
      .filter(e => e.scrollWidth > e.clientWidth + 1)
      .map(e => `${e.className || e.tagName}: ${e.scrollWidth} in ${e.clientWidth} pixels`)"""
    return page.evaluate(wide, scope)


def kept(page, scope):
    """Fail where what is shown inside `scope` has a fault, has a control that Tab does not reach, or is too wide."""
    wrong = [*faults(page, scope), *(f"not reached by Tab: {name}" for name in unreached(page, scope)), *sideways(page, scope)]
    assert not wrong, "\n".join(wrong)
