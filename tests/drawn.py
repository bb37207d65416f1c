"""Figures as a test reads them: their words, and their bytes."""

import io
import warnings


def text_of(figure):
    return [t.get_text() for ax in figure.axes for t in ax.texts] + [ax.get_title() for ax in figure.axes]


def draw(figure):
    """The figure as PNG bytes; any warning, such as a missing glyph, fails."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
