"""Prompt files as people have them: tables, JSON and lists of lines, read cell by cell so that what is wrong can be named by its line."""

import codecs
import csv
import io
import json
import re
from pathlib import Path

from promptlab.runtime import PromptlabError

COLUMNS = ("prompt", "caption", "captions", "text")  # where an unknown collection is looked at, in this order, in small or large letters
FILES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".txt")
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # European Excel writes semicolons; the first wins where none is found
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# Lines that AUTOMATIC1111 writes below a prompt; what stands between one that begins with "Negative" and the next "Steps:" is not wanted.
PARAMETERS = re.compile(r"\s*(?i:(negative[ _]prompt|negative template)|(steps(?=:\s*\d)|template))\s*[:\uff1a]")


def readable(path, split) -> list[Path]:
    """The files to read without `datasets`: the file itself, or those of a folder that name the split where any names one. No parquet."""
    if path.is_file():
        return [path] if path.suffix.lower() != ".parquet" else []
    files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in FILES and not f.name.startswith(".")] if path.is_dir() else []
    tables = [f for f in files if f.suffix.lower() != ".txt"]
    if any(f.suffix.lower() == ".parquet" for f in files):
        return []
    named = {f: re.findall(r"(?i)(?<![a-z])(train|test|valid|eval|dev)", f.relative_to(path).as_posix()) for f in tables or files}
    if any(named.values()):
        return [f for f in named if re.search(rf"(?i)(?<![a-z]){re.escape(split)}(?![a-z])", f.relative_to(path).as_posix())]
    return list(named) if split == "train" else []


def choose(name, names, there) -> str:
    """The column that holds the texts: the first of `names` that is there, else one of a usual name. Raises `PromptlabError`."""
    small = {c.strip().lower(): c for c in reversed([c for c in there if isinstance(c, str)])}
    column = next((n for n in names if n in there), None) or next((small[n] for n in COLUMNS if n in small and not names), None)
    if column is None:
        what = f"column {' or '.join(map(repr, names))}" if names else f"column called {', '.join(COLUMNS)}"
        own = ", ".join(str(c) for c in there if c)
        raise PromptlabError(f"{name} has no {what}. Name one of its own (`--column`, `column=`): {own[:200]}.")
    return column


def rows(path, names=()) -> list[dict]:
    """The rows of a csv, tsv, json, jsonl or txt file as dicts from column to value; a list of plain texts has the column "text".

    `names` are the columns asked for, or none: by them the separator of a table is told. Raises `PromptlabError` for what cannot
    be read, with the line and what to do.
    """
    path, ending = Path(path), Path(path).suffix.lower()
    text = decoded(path)
    if not text.strip():
        raise PromptlabError(f"{path} is empty. Name a file with prompts in it.")
    if ending == ".txt":
        found = [{"text": line} for line in prompts_of(io.StringIO(text, newline=None).read().split("\n"))]
    else:
        found = (
            table(path, text, SEPARATORS[ending], [n.lower() for n in names] or COLUMNS) if ending in SEPARATORS else objects(path, text)
        )
    if not found:
        raise PromptlabError(f"{path} has no rows{' below its header' if ending in SEPARATORS else ''}. Name a file with prompts in it.")
    return found


def decoded(path) -> str:
    """The text of a file in UTF-8. Another encoding is named and not guessed: a wrong guess would teach letters nobody wrote."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise PromptlabError(f"{path} cannot be read ({error.strerror}). Check its permissions, or name another file.") from None
    advice = "Save it as UTF-8 (Excel: 'CSV UTF-8'; editors: 'Save with encoding') and try again."
    kind = next((kind for mark, kind in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "")
    if kind or raw[:1000].count(0) > len(raw[:1000]) // 4:  # every second byte of Latin letters in UTF-16 is zero
        raise PromptlabError(f"{path} is in the encoding {kind or 'UTF-16'}, not UTF-8. {advice}")
    try:
        return raw.decode("utf-8-sig").replace("\0", " ")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        shown = raw.split(b"\n")[line].decode("cp1252", "replace").strip()[:60]
        raise PromptlabError(
            f"{path} is not in UTF-8: line {line + 1} has the byte 0x{raw[error.start]:02x}. If that line should read {shown!r}, "
            f"its encoding is Windows' cp1252 (or Latin-1). {advice}"
        ) from None


def table(path, text, separators, usual) -> list[dict]:
    """The rows of a table with a header, as `csv.DictReader` gives them: empty cells too many are nothing, missing ones are None.

    Where filled cells are too many, nobody knows which columns they belong to, so the line is named instead.
    """
    lines = io.StringIO(text.lstrip("\r\n"), newline="")
    if hint := re.match(r"sep=(.)\r?\n", text):  # Excel's own first line
        separators = hint[1]
        lines.seek(hint.end())
    skipped, start = text[: len(text) - len(text.lstrip("\r\n"))].count("\n") + bool(hint), lines.tell()
    header_line = lines.readline()

    def cells(separator):
        names = next(csv.reader([header_line], delimiter=separator), [])
        return any(n.strip().lower() in usual for n in names), len(names)

    separator = max(separators, key=cells)
    lines.seek(start)
    reader = csv.DictReader(lines, delimiter=separator, skipinitialspace=True, strict=True, restkey="\0")
    found = []
    try:
        for row in reader:
            extra = row.pop("\0", [])
            if any(cell.strip() for cell in extra):
                have, header = len(row) + len(extra), len(reader.fieldnames)
                raise PromptlabError(
                    f"{path}: line {skipped + reader.line_num} has {have} cells and the header {header}. Put double quotes round a "
                    f"text with {'commas' if separator == ',' else repr(separator)} in it, or give the prompts as .txt, one a line."
                )
            found.append(row)
    except csv.Error as error:
        if separator == "\t":  # in such tables a quote is mostly a letter like any other
            return _unquoted(text)
        raise PromptlabError(
            f"{path}: line {skipped + reader.line_num + 1} cannot be read ({error}). A quote is missing there, or one inside a quoted text "
            'is not doubled (""). Correct it, or give the prompts as .txt, one a line.'
        ) from None
    return found


def _unquoted(text) -> list[dict]:
    header, *lines = (line.split("\t") for line in text.splitlines() if line.strip())
    return [dict(zip(header, line, strict=False)) for line in lines]


def objects(path, text) -> list[dict]:
    """The rows of JSON: one value a line, a list of objects or of texts, a table by columns, or an object that holds such a list."""
    try:
        data = json.loads(text)
    except ValueError as whole:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip(" \t\r,")]
        data = []
        for n, line in lines:
            try:
                data.append(json.loads(line))
            except ValueError as error:
                said = whole if n == lines[0][0] else f"line {n}: {error}"  # a list over many lines is no jsonl
                raise PromptlabError(f"{path} cannot be read as JSON ({said}). Check that it is complete, or name another file.") from None
    if isinstance(data, dict):
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in data.items() if isinstance(v, list | dict)}
        lists = [v for v in columns.values() if v and all(isinstance(x, dict) for x in v)]
        if lists:
            data = lists[0]
        elif columns:
            length = max(map(len, columns.values()))
            return [{k: v[i] for k, v in columns.items() if i < len(v)} for i in range(length)]
        else:
            data = [data]
    return [x if isinstance(x, dict) else {"text": x} for x in (data if isinstance(data, list) else [data])]


def prompts_of(lines) -> list[str]:
    """The prompts among the lines of a text: all of them, unless it holds generation parameters; then a prompt ends where those begin."""
    marks = [(i, m) for i, line in enumerate(lines) if (m := PARAMETERS.match(line))]
    if not any(mark[1] or mark[2].lower() == "steps" for _, mark in marks):  # "Template: ..." alone is a prompt
        marks = []
    found, start = [], 0
    for n, (i, mark) in enumerate(marks):
        *plain, block = "\n".join(lines[start:i]).strip("\n").rpartition("\n\n")  # a plain list may stand before a copied block
        found += [*plain[0].split("\n"), ", ".join(line.strip(" ,") for line in block.split("\n"))]
        until = marks[n + 1] if n + 1 < len(marks) else None
        start = until[0] if mark[1] and until and until[1][2] else i + 1
    return [line for line in (*found, *lines[start:]) if line.strip()]
