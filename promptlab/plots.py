"""Figures of the course: one fixed colour per score, and walls of pictures a sentence can point at."""

# Okabe and Ito's colour-blind-safe palette; the same colour means the same score in every figure, table and widget.
COLOURS = {"reward": "#0072B2", "aesthetic": "#CC79A7", "relevance": "#009E73", "gold": "#E69F00", "intent": "#555555"}


def wall(images, titles=None, columns=4, size=1.3, row_labels=None):
    """Show pictures (n, h, w, 3) in a grid; `titles` one short text each, `row_labels` one per row. Returns the figure."""
    import matplotlib.pyplot as plt

    rows = -(-len(images) // columns)
    extra = 0.22 if titles is not None else 0
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, (size + extra) * rows), squeeze=False, layout="constrained")
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < len(images):
            ax.imshow(images[i])
            if titles is not None:
                ax.set_title(titles[i], fontsize=7, parse_math=False)
        if row_labels is not None and i % columns == 0:
            ax.text(-0.05, 0.5, row_labels[i // columns], transform=ax.transAxes, ha="right", va="center", fontsize=8, parse_math=False)
    plt.close(figure)  # the notebook shows the returned figure once
    return figure
