import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text


def line(axes, label):
    return next(drawn for drawn in axes.get_lines() if drawn.get_label() == label)


def marks(axes, colour):
    """Places along x of the scattered marks of a colour, seeds before means."""
    drawn = [c for c in axes.collections if to_hex(c.get_facecolor()[0]) == colour]
    return [np.asarray(c.get_offsets())[:, 0] for c in drawn]


def texts_overlap(figure):
    """Pairs of texts that lie on one another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    undrawn = {
        id(tick.label1)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [
        (text.get_text(), text.get_window_extent(renderer).shrunk(0.98, 0.8))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in undrawn
    ]
    boxes = [(text, box) for text, box in found if box.width and box.height]
    return [
        (a, b)
        for index, (a, box) in enumerate(boxes)
        for b, other in boxes[index + 1 :]
        if box.overlaps(other)
    ]
