"""One table in every format: Markdown, LaTeX, CSV, HTML, console; best bold, second underlined."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING

from sisbench.report.tables import DAGGER, Cell, Table, one_line, symbol

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text


# ------------------------------------------------------------------------------------ Markdown


def _md(text: str) -> str:
    text = re.sub(r"([\\`*_|\[\]~#])", r"\\\1", one_line(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _md_cell(cell: Cell) -> str:
    text = f"{cell.text} ± {cell.error}" if cell.error else cell.text
    text = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}[cell.rank].format(text)
    raised = ([DAGGER] if cell.seeded else []) + [symbol(n) for n in cell.notes]
    return text + (f"<sup>{','.join(raised)}</sup>" if raised else "")


def to_markdown(table: Table) -> str:
    """GitHub Markdown: ``**best**``, ``<u>second</u>``; footnotes below."""
    several = len(table.groups()) > 1
    heads = [f"{c.header} ({c.group})" if several else c.header for c in table.columns]
    groups = table.groups()
    title = f"{table.title}; {groups[0][0]}" if len(groups) == 1 else table.title
    lines = [f"### {_md(title)}", ""]
    lines.append("| " + " | ".join(["Method", *map(_md, heads)]) + " |")
    lines.append("| --- |" + " ---: |" * len(heads))
    for block, members in table.blocks():
        if block:
            lines.append(f"| *{_md(block)}* |" + " |" * len(heads))
        for y in members:
            row = table.rows[y]
            name = f"*{_md(row.title)}*" if row.ceiling else _md(row.title)
            name += DAGGER if table.seeded(y) else ""
            lines.append("| " + " | ".join([name, *map(_md_cell, table.cells[y])]) + " |")
    legend = ["**Best**, <u>second best</u>."] if _ranked(table) else []
    said = (f"**{_md(s)}**" if s.startswith(DAGGER) else _md(s) for s in table.caption)
    lines += ["", " ".join([*said, *legend]), ""]
    lines += [_md(table.absent), ""] if table.absent else []
    lines += [f"<sup>{symbol(i)}</sup> {_md(note)}  " for i, note in enumerate(table.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _ranked(table: Table) -> bool:
    return any(cell.rank for line in table.cells for cell in line)


# --------------------------------------------------------------------------------------- LaTeX

_TEX: Mapping[str, str] = MappingProxyType(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after a row's end a bare one would open an argument
        "]": "{]}",
        '"': r"\textquotedblright{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "±": r"$\pm$",
        "−": r"$-$",
        "–": "--",
        "…": r"\ldots{}",
        "†": r"$^{\dagger}$",
        "×": r"$\times$",
    }
)


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in one_line(text))


def _tex_cell(cell: Cell) -> str:
    text = rf"{_tex(cell.text)} $\pm$ {cell.error}" if cell.error else _tex(cell.text)
    text = {0: "%s", 1: r"\textbf{%s}", 2: r"\underline{%s}"}[cell.rank] % text
    raised = ([r"$\dagger$"] if cell.seeded else []) + [symbol(n) for n in cell.notes]
    return text + (rf"\textsuperscript{{{','.join(raised)}}}" if raised else "")


def to_latex(table: Table) -> str:
    """A ``table`` environment for the package booktabs: ``\\textbf`` best,
    ``\\underline`` second best."""
    width = len(table.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * width}}}",
        r"\toprule",
    ]
    at, spans, rules = 2, [], []
    for group, span in table.groups():
        spans.append(rf"\multicolumn{{{span}}}{{c}}{{{_tex(group)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + span - 1}}}")
        at += span
    if spans:
        lines += [" & ".join(["", *spans]).strip() + r" \\", " ".join(rules)]
    lines.append(" & ".join(["Method", *(_tex(c.header) for c in table.columns)]) + r" \\")
    for block, members in table.blocks():
        lines.append(r"\midrule")
        if block:
            lines.append(rf"\multicolumn{{{width + 1}}}{{l}}{{\textit{{{_tex(block)}}}}} \\")
        for y in members:
            row = table.rows[y]
            name = rf"\textit{{{_tex(row.title)}}}" if row.ceiling else _tex(row.title)
            name += r"$^{\dagger}$" if table.seeded(y) else ""
            lines.append(" & ".join([name, *map(_tex_cell, table.cells[y])]) + r" \\")
    legend = [r"\textbf{Best}, \underline{second best}."] if _ranked(table) else []
    said = (rf"\textbf{{{_tex(s)}}}" if s.startswith(DAGGER) else _tex(s) for s in table.caption)
    caption = " ".join([_tex(table.title) + ".", *said, *legend])
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.absent:
        lines.append(rf"\par\smallskip\footnotesize {_tex(table.absent)}")
    for i, note in enumerate(table.notes):
        lines.append(rf"\par\smallskip\footnotesize \textsuperscript{{{symbol(i)}}} {_tex(note)}")
    lines += [rf"\caption{{{caption}}}", rf"\label{{tab:{table.name}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------------------- CSV


def defused(text: str) -> str:
    """Text as a CSV cell that no spreadsheet takes for a formula: an apostrophe goes before
    ``= + - @`` and before a tab or return. Numbers do not come here."""
    return f"'{text}" if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


def to_csv(table: Table) -> str:
    """Stored values in full precision (fractions where tables print per cent), and for each column
    ``_rank`` (1 best, 2 second best), ``_se``, ``_n``, ``_n_real``, ``_p`` (in paired tables) and
    ``_note`` (marks, or the reason of an empty cell). Column keys name data set, task, metric and
    protocol."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    paired = any(cell.p is not None for line in table.cells for cell in line)
    parts = ("", "_rank", "_se", "_n", "_n_real", *(["_p"] if paired else []), "_note")
    keys = [c.key + part for c in table.columns for part in parts]
    out.writerow(["block", "method", "title", *map(defused, keys)])
    for row, line in zip(table.rows, table.cells, strict=True):
        texts = ("ceiling" if row.ceiling else row.block, row.key, one_line(row.title))
        fields: list[object] = [defused(text) for text in texts]
        for cell in line:
            said = [table.notes[n] for n in cell.notes] + (["seeded weights"] * cell.seeded)
            fields += [
                _blank(cell.value),
                cell.rank or "",
                _blank(cell.se),
                cell.n or "",
                _blank(cell.n_real),
                *([_blank(cell.p)] if paired else []),
                defused("; ".join(map(one_line, said))),
            ]
        out.writerow(fields)
    return stream.getvalue()


def _blank(value: float | None) -> str:
    return "" if value is None else repr(value)


# ---------------------------------------------------------------------------------------- HTML


def _html(text: str) -> str:
    return escape(one_line(text), quote=True)


def _html_cell(cell: Cell, opens: bool) -> str:
    text = _html(f"{cell.text} ± {cell.error}" if cell.error else cell.text)
    text = {0: "{}", 1: "<strong>{}</strong>", 2: "<u>{}</u>"}[cell.rank].format(text)
    raised = ([DAGGER] if cell.seeded else []) + [symbol(n) for n in cell.notes]
    title = f' title="{_html(cell.reason)}"' if cell.value is None else ""
    kinds = ["empty"] * (cell.value is None) + ["opens"] * opens
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    note = f"<sup>{','.join(raised)}</sup>" if raised else ""
    return f"<td{kind}{title}>{text}{note}</td>"


def to_html(table: Table) -> str:
    """A ``<score>`` with title, table, caption and footnotes; everything escaped."""
    lines = ['<figure class="table">', f"<h3>{_html(table.title)}</h3>"]
    lines += ['<div class="scroll"><table>', "<thead>"]
    opens = [x > 0 and c.group != table.columns[x - 1].group for x, c in enumerate(table.columns)]
    if table.groups():
        spans = (f'<th colspan="{n}" scope="colgroup">{_html(g)}</th>' for g, n in table.groups())
        lines.append(f"<tr><th></th>{''.join(spans)}</tr>")
    heads = (f'<th scope="col">{_html(c.header)}</th>' for c in table.columns)
    lines += [f'<tr><th scope="col">Method</th>{"".join(heads)}</tr>', "</thead>"]
    for block, members in table.blocks():
        lines.append("<tbody>")
        if block:
            span = len(table.columns) + 1
            lines.append(f'<tr class="block"><th colspan="{span}">{_html(block)}</th></tr>')
        for y in members:
            row = table.rows[y]
            kinds = ["ceiling"] * row.ceiling + ["seeded"] * table.seeded(y)
            mark = f"<sup>{DAGGER}</sup>" if table.seeded(y) else ""
            opening = f'<tr class="{" ".join(kinds)}">' if kinds else "<tr>"
            name = f'<th scope="row">{_html(row.title)}{mark}</th>'
            cells = "".join(map(_html_cell, table.cells[y], opens))
            lines.append(f"{opening}{name}{cells}</tr>")
        lines.append("</tbody>")
    lines.append("</table></div>")
    legend = "<strong>Best</strong>, <u>second best</u>." if _ranked(table) else ""
    lines.append("<figcaption>")
    warning = [s for s in table.caption if s.startswith(DAGGER)]
    plain = [s for s in table.caption if not s.startswith(DAGGER)]
    lines.append(f"<p>{_html(' '.join(plain))} {legend}</p>".replace(" </p>", "</p>"))
    lines += [f'<p class="warning">{_html(s)}</p>' for s in warning]
    if table.absent:
        lines.append(f"<p>{_html(table.absent)}</p>")
    if table.notes:
        items = (f"<li><sup>{symbol(i)}</sup> {_html(n)}</li>" for i, n in enumerate(table.notes))
        lines.append(f'<ul class="notes">{"".join(items)}</ul>')
    return "\n".join([*lines, "</figcaption>", "</figure>"]) + "\n"


def to_html_file(table: Table) -> str:
    """``to_html`` as a document of its own."""
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>{_html(table.title)}</title>\n'
    return head + to_html(table)


# ------------------------------------------------------------------------------------- console


def to_rich(table: Table) -> RichTable:
    """A rich table: bold best, underlined second best; nothing is read as markup. Groups of columns
    stand below each other where rows have no blocks: a terminal is narrow."""
    from rich.table import Table as RichTable
    from rich.text import Text

    caption = Text(" ".join(table.caption))
    if table.absent:
        caption.append(f"\n{one_line(table.absent)}")
    for i, note in enumerate(table.notes):
        caption.append(f"\n{symbol(i)} {one_line(note)}")
    # captions are set to the table's width: one of two columns would make them a ribbon
    rich = RichTable(title=Text(table.title), caption=caption, caption_justify="left", min_width=76)
    rich.add_column(Text("Method"))
    several = len(table.groups()) > 1
    if several and table.blocks() == [("", list(range(len(table.rows))))]:
        return _stacked(rich, table)
    for column in table.columns:
        head = f"{column.group}\n{column.header}" if several else column.header
        rich.add_column(Text(head), justify="right")
    for block, members in table.blocks():
        if block:
            rich.add_section()
            rich.add_row(Text(one_line(block), style="italic"))
        for y in members:
            rich.add_row(_rich_name(table, y), *map(_rich_cell, table.cells[y]))
    return rich


def _stacked(rich: RichTable, table: Table) -> RichTable:
    """Every group of columns as a section of rows under the headers of all groups."""
    from rich.text import Text

    heads = list(dict.fromkeys(column.header for column in table.columns))
    for head in heads:
        rich.add_column(Text(head), justify="right")
    start = 0
    for group, width in table.groups():
        rich.add_section()
        rich.add_row(Text(one_line(group), style="italic"))
        place = {c.header: start + k for k, c in enumerate(table.columns[start : start + width])}
        for y, cells in enumerate(table.cells):
            shown = [_rich_cell(cells[place[h]]) if h in place else Text() for h in heads]
            rich.add_row(_rich_name(table, y), *shown)
        start += width
    return rich


def _rich_name(table: Table, row: int) -> Text:
    from rich.text import Text

    name = Text(one_line(table.rows[row].title))
    name.append(DAGGER if table.seeded(row) else "")
    return name


def _rich_cell(cell: Cell) -> Text:
    from rich.text import Text

    shown = f"{cell.text} ± {cell.error}" if cell.error else cell.text
    text = Text(shown, style={0: "", 1: "bold", 2: "underline"}[cell.rank])
    raised = ([DAGGER] if cell.seeded else []) + [symbol(n) for n in cell.notes]
    text.append(f" {','.join(raised)}" if raised else "", style="not bold not underline dim")
    return text


RENDERERS: Mapping[str, Callable[[Table], str]] = MappingProxyType(
    {"md": to_markdown, "tex": to_latex, "csv": to_csv, "html": to_html_file}
)
"""File suffix -> renderer."""
