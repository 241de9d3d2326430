"""Bar charts as SVG, for `harness`: text enough that a diff of two runs can be read."""

from collections.abc import Sequence
from html import escape

_WIDTH, _LABELS, _ROW, _TOP = 720, 190, 26, 44


def bars(title: str, figures: Sequence[tuple[str, float]]) -> str:
    """One horizontal bar a figure, the longest first; what begins with `stoker` stands out."""
    most = max((figure for _, figure in figures), default=1) or 1
    height = _TOP + _ROW * len(figures) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15">{escape(title)}</text>',
    ]
    for place, (name, figure) in enumerate(sorted(figures, key=lambda one: -one[1])):
        y = _TOP + _ROW * place
        length = max(1.0, figure / most * (_WIDTH - _LABELS - 80))
        colour = "#c2410c" if name.startswith("stoker") else "#94a3b8"
        lines += [
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{length:.1f}" height="18" fill="{colour}"/>',
            f'<text x="{_LABELS + length + 6:.1f}" y="{y + 14}">{figure:.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
