"""The course as a site, built from its executed notebooks: a map, a page for each lesson and a search, and it opens without a network.

`make site` writes it below the run folder. nbconvert renders the cells; the look and the search stand in page/style.css and page/script.js.
"""

import base64
import html
import json
import re
import shutil
import struct
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from promptlab import runtime
from promptlab.course import links, notebooks
from promptlab.runtime import PromptlabError, checkout, write_atomically

PAGE = Path(__file__).with_name("page")
# nbconvert's plain cells, but the setup cell and what a lesson hides are folded.
CELLS = """{% extends 'basic/index.html.j2' %}
{% block input_group %}{% if cell.metadata.get('jupyter', {}).get('source_hidden') %}<details><summary>{{ 'Setup' if loop.index == 2 else 'Folded code' }}</summary>
{{ super() }}</details>{% else %}{{ super() }}{% endif %}{% endblock %}"""
HEADING = re.compile(r'<h([1-4]) id="([^"]*)">(.*?)</h\1>', re.DOTALL)
# Code as it is, or a formula between dollars; a price ("$5 or $6") is none.
MATH = re.compile(r"```.*?```|`[^`\n]*`|\$\$(.+?)\$\$|\$([^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\d)", re.DOTALL)
THEME = """let kept; try { kept = localStorage.getItem("theme"); } catch {}
document.documentElement.dataset.theme = kept || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");"""


class Lesson(NamedTuple):
    """One page of the site."""

    name: str  # of the notebook, such as 00_tour
    title: str
    question: str  # the line of the map
    time: str
    colab: str | None  # the address of its badge
    note: str  # what is wrong with its run, if anything is
    body: str  # HTML
    pictures: dict[str, bytes]  # by file name
    diagram: str | None  # the file name of the first picture that the notebook itself keeps

    @property
    def page(self):
        return f"{self.name}.html"


def build():
    """Render every lesson as it was last run, write the site to `site` in the run folder, and say what was not run.

    Raises `PromptlabError` where no lesson was run.
    """
    run, root = notebooks.run_folder(), checkout()
    paths = notebooks.course(root / "notebooks" if root else run)
    if not any((run / path.name).exists() for path in paths):
        raise PromptlabError(f"{run} has no executed lesson. Run the course first with `make run`, then `make site`.")
    exporter, asked = renderer(), questions(read(paths[0]))
    lessons = [lesson(path, run, root, exporter, asked) for path in runtime.bar(paths, desc="lessons")]
    site = run / "site"
    runtime.remove(site)
    for i, this in enumerate(lessons):
        write_atomically(site / this.page, page(this.title, turned(this, lessons[i - 1 : i], lessons[i + 1 : i + 2]), lessons, this))
        for name, picture in this.pictures.items():
            write_atomically(site / "pictures" / name, picture)
    write_atomically(
        site / "search.js", f"const SECTIONS = {json.dumps([s for this in lessons for s in sections(this)], ensure_ascii=False)};\n"
    )
    for name in ("style.css", "script.js"):
        shutil.copy(PAGE / name, site)
    write_atomically(site / "index.html", page("promptlab", front(lessons), lessons))
    for this in lessons:
        print(f"{this.name}  {this.note or 'ok'}")
    print(f"The site: {site / 'index.html'}")


def renderer():
    """nbconvert, made once; it brings no page of its own."""
    try:
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise PromptlabError("The site needs nbconvert and latex2mathml. To get them: pip install -e '.[dev]'") from error
    return HTMLExporter(template_name="basic", raw_template=CELLS, exclude_input_prompt=True, exclude_output_prompt=True)


def read(path):
    """A notebook. Raises `PromptlabError` for a file that is none."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise PromptlabError(f"{path} is not a notebook ({type(error).__name__}: {error}).") from error


def questions(notebook) -> dict[str, str]:
    """The map of the first lesson, a table: by the name of a lesson, the question it answers."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    rows = re.findall(r"^\|[^|\n]*?(\d\d_\w+)[^|\n]*\|([^|\n]*)\|", text, re.MULTILINE)
    return {name: plain(question) for name, question in rows}


def lesson(path, run, root, exporter, asked) -> Lesson:
    """The page of one notebook: its copy in the run folder, else the notebook itself with a note that says so."""
    original, ran = read(path), (run / path.name).exists()
    notebook = read(run / path.name) if ran else original
    note = fault(notebook, original) if ran else f"not run here, so most outputs are missing: python -m promptlab run {path.stem[:2]}"
    first = notebook.cells[0].source
    title = re.search(r"^# (.+)", first, re.MULTILINE)
    opening = re.search(r"^(?![#*|\s]).+", first, re.MULTILINE)  # the first line of plain words
    time = re.search(r"\*\*Time:\*\*\s*([^.,;(]+)", first)
    notebook.cells[0].source = "\n".join(re.sub(links.SEGMENT, "", line) for line in first.splitlines())  # the page has its own
    for cell in notebook.cells[1:2]:
        cell.metadata["jupyter"] = {"source_hidden": True}  # the setup cell
    pictures, diagram = take_pictures(notebook, path.stem)
    return Lesson(
        name=path.stem,
        title=plain(title[1]) if title else path.stem,
        question=asked.get(path.stem) or (plain(opening[0]).split(". ")[0] if opening else ""),
        time=time[1].strip() if time else "",
        colab=links.address(links.repository(), path, root) if root else None,
        note=note,
        body=render(notebook, exporter),
        pictures=pictures,
        diagram=diagram,
    )


def plain(markdown) -> str:
    """A line of Markdown without its stars and backticks."""
    return re.sub(r"[*`]", "", markdown).strip()


def fault(executed, original) -> str:
    """What a reader should know about a run, or nothing."""
    if any(output.output_type == "error" for cell in executed.cells for output in cell.get("outputs", [])):
        return "this run stopped with an error"
    code = [[cell.source for cell in notebook.cells if cell.cell_type == "code"] for notebook in (executed, original)]
    return "" if code[0] == code[1] else "the lesson has changed since this run: make run"


def take_pictures(notebook, name) -> tuple[dict[str, bytes], str | None]:
    """Take the pictures out of a notebook's outputs, which then name their files, and drop what shows nothing without a kernel.

    Returns the pictures by file name, and the name of the first one in a cell tagged `keep_output`.
    """
    pictures, diagram, heading = {}, None, name
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            heading = plain((re.findall(r"^#+ (.+)", cell.source, re.MULTILINE) or [heading])[-1])
            continue
        # Widgets here are progress bars; on stderr libraries talk to themselves.
        shown = [
            o for o in cell.get("outputs", []) if not any("widget-view" in kind for kind in o.get("data", {})) and o.get("name") != "stderr"
        ]
        for output in shown:
            if "image/png" in output.get("data", {}):
                file, png = f"{name}-{number}-{len(pictures)}.png", base64.b64decode(output.data["image/png"])
                pictures[file] = png
                width, height = struct.unpack(">II", png[16:24])
                output.metadata = {
                    "filenames": {"image/png": f"pictures/{file}"},
                    "image/png": {"alt": f"Picture of the section {heading}", "width": width, "height": height},
                }
                if diagram is None and "keep_output" in cell.metadata.get("tags", []):
                    diagram = file
        if cell.cell_type == "code":
            cell.outputs = shown
    return pictures, diagram


def render(notebook, exporter) -> str:
    """The cells of a notebook as HTML, formulas as MathML, links to other lessons as links to their pages."""
    formulas = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = MATH.sub(lambda found: keep_formula(found, formulas), cell.source)
    body, _ = exporter.from_notebook_node(notebook)
    # Anchors as Jupyter spells them, so that a link to a section leads to it here as there.
    body = HEADING.sub(lambda found: found[0].replace(f'id="{found[2]}"', f'id="{spelt(found[2])}"'), body)
    body = re.sub(r"FORMULA(\d+)ALUMROF", lambda found: formulas[int(found[1])], body)
    body = re.sub(r'href="(?:[^"]*/)?(\d\d_\w+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    return body.replace("<img ", '<img loading="lazy" ')


def spelt(anchor) -> str:
    """An anchor without the percent signs of an address, for an attribute."""
    return unquote(anchor).replace('"', "&quot;")


def keep_formula(found, formulas) -> str:
    """Put the formula that `MATH` found aside as MathML, which Markdown would take for emphasis; a word stands in its place."""
    from latex2mathml.converter import convert

    block, inline = found[1], found[2]
    if not (block or inline):
        return found[0]
    text = (block or inline).replace("{aligned}", "{split}")  # the same, and the name that is known here
    try:
        formulas.append(convert(text, display="block" if block else "inline"))
    except Exception as error:
        raise PromptlabError(f"The formula {found[0]} cannot be shown ({type(error).__name__}: {error}).") from error
    return f"FORMULA{len(formulas) - 1}ALUMROF"


def sections(lesson) -> list[list[str]]:
    """What the search looks through: page, anchor, lesson, heading and text, one for each heading."""
    parts = HEADING.split(lesson.body)
    return [
        [lesson.page, html.unescape(anchor), lesson.title, words(title), words(text)]
        for anchor, title, text in zip(parts[2::4], parts[3::4], parts[4::4], strict=True)
    ]


def words(markup) -> str:
    """The text of a piece of HTML on one line."""
    text = re.sub(r'<a class="anchor-link".*?</a>|<style.*?</style>|<script.*?</script>', "", markup, flags=re.DOTALL)
    text = re.sub(r"</?(?:span|b|strong|em|code|a)\b[^>]*>", "", text)  # within a word or beside a comma
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def badge(lesson) -> str:
    return f'<a class="colab" href="{html.escape(lesson.colab)}">Open in Colab</a>' if lesson.colab else ""


def anchor(lesson, label="") -> str:
    return f'<a href="{lesson.page}">{label}{html.escape(lesson.title)}</a>'


def turned(lesson, before, after) -> str:
    """The body of a lesson between the ways to the one before and the next."""
    ways = [anchor(other, "Previous: ") for other in before] or ['<a href="index.html">The map</a>']
    ways += [anchor(other, "Next: ") for other in after] or ['<a href="index.html">Back to the map</a>']
    note = f'<p class="note">About this page: {html.escape(lesson.note)}.</p>' if lesson.note else ""
    turn = "\n".join(ways)
    return f'<div class="turn">{turn}</div>\n{badge(lesson)}{note}\n{lesson.body}\n<footer class="turn">{turn}</footer>'


def front(lessons) -> str:
    """The first page: the diagram of the method and a line for each lesson."""
    diagram = next((f"pictures/{this.diagram}" for this in lessons if this.diagram), None)
    figure = f'<figure><a href="{lessons[0].page}"><img src="{diagram}" alt="The method as a diagram, explained in the first lesson"></a></figure>'
    lines = [
        f'<li><span class="title">{anchor(this)}</span> {badge(this)}<br>{html.escape(this.question[:1].upper() + this.question[1:])}'
        f"<br><small>{html.escape(this.time)}</small></li>"
        for this in lessons
    ]
    return f"""<h1>promptlab</h1>
<p>Teach a small language model to write better image prompts. Each lesson stands here as it ran; in Jupyter you turn its knobs yourself.</p>
{figure if diagram else ""}
<h2>The map</h2>
<ol class="map">
{chr(10).join(lines)}
</ol>"""


def page(title, main, lessons, here=None) -> str:
    """A whole page: the head with search and theme, the list of lessons with the sections of this one, and the text."""
    entries = [f'<li><a href="index.html"{"" if here else " aria-current=page"}>The map</a></li>']
    for this in lessons:
        inner, current = "", ""
        if this is here:
            heads = [(a, words(t)) for level, a, t in HEADING.findall(this.body) if level == "2"]
            inner = "<ul>" + "".join(f'<li><a href="#{a}">{html.escape(t)}</a></li>' for a, t in heads) + "</ul>" if heads else ""
            current = " aria-current=page"
        entries.append(f'<li><a href="{this.page}"{current}>{html.escape(this.title)}</a>{inner}</li>')
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<script>{THEME}</script>
<link rel="stylesheet" href="style.css">
</head>
<body>
<a class="skip" href="#main">To the text</a>
<header><a class="home" href="index.html">promptlab</a>
<input id="search" type="search" placeholder="Search (press /)" aria-label="Search the course" autocomplete="off" hidden>
<button id="theme" type="button" aria-label="Change the theme">Dark</button></header>
<div id="found" role="status" hidden></div>
<div class="columns">
<nav class="lessons" aria-label="Lessons"><ul>
{chr(10).join(entries)}
</ul></nav>
<main id="main">
{main}
</main>
</div>
<script src="search.js"></script><script src="script.js"></script>
</body>
</html>
"""
