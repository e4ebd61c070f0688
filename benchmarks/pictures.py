"""Pictures of curves as SVG, in colours of their own in light and in dark surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

__all__ = ["picture"]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 64, 44

# The picture brings its own ground: a page may be dark where the system is not.
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.ground { fill: #ffffff } .rule { stroke: #d0d7de } .band { fill: #1a7f37; opacity: .1 } .small { font-size: 12px }
.s0 { stroke: #0969da; fill: #0969da } .s1 { stroke: #bc4c00; fill: #bc4c00 } .s2 { stroke: #8250df; fill: #8250df }
polyline { fill: none !important; stroke-width: 2 } text.s0, text.s1, text.s2 { stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .ground { fill: #0d1117 } .rule { stroke: #30363d } .band { fill: #3fb950; opacity: .15 }
.s0 { stroke: #58a6ff; fill: #58a6ff } .s1 { stroke: #f0883e; fill: #f0883e } .s2 { stroke: #bc8cff; fill: #bc8cff }
}"""


def picture(
    title: str, axis: str, labels: Sequence[str], series: Mapping[str, Mapping[str, float]], flat: float
) -> str:
    """Return the picture of some series.

    Args:
        axis: what the labels count.
        labels: the points, from left to right.
        series: by name, its value at the labels that it has.
        flat: how far from 1 a value may be; the picture has this as a band.
    """
    values = [value for each in series.values() for value in each.values()]
    low, high = min(1 - 2 * flat, *values), max(1 + 2 * flat, *values)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    across = {label: LEFT + step * (number + 0.5) for number, label in enumerate(labels)}

    def down(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="16" y="24">{escape(title)}</text>',
        f'<rect class="band" x="{LEFT}" y="{down(1 + flat):.1f}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{down(1 - flat) - down(1 + flat):.1f}"/>',
    ]
    for value in sorted({round(low, 1), 1 - flat, 1.0, 1 + flat, round(high, 1)}):
        out.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(value):.1f}" y2="{down(value):.1f}"/>'
            f'<text class="small" x="{LEFT - 8}" y="{down(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>'
        )
    for label, x in across.items():
        out.append(f'<text class="small" x="{x:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{escape(label)}</text>')
    out.append(f'<text class="small" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(axis)}</text>')
    key = 16.0
    for number, (name, taken) in enumerate(series.items()):
        points = [(across[label], down(value)) for label, value in taken.items()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline class="s{number}" points="{line}"/>')
        out += [f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
        out.append(f'<text class="s{number}" x="{key}" y="46">● {escape(name)}</text>')
        key += 34 + 7.8 * len(name)
    return "\n".join([*out, "</svg>", ""])
