"""What a run found, as Markdown and as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

from tests.bench.verdicts import NGINX, OURS, Bound, Line, verdict

_WIDE, _ROW, _TOP, _LEFT = 800, 26, 56, 370
_LONGEST = 4.0  # a ratio beyond this is drawn as this, and its figure says what it is
_STYLE = (
    ".b{fill:#2f6fb5}.w{fill:#b5622f}.t{fill:#24292f}.m{stroke:#6e7781;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){.b{fill:#6ca9ea}.w{fill:#e0935f}.t{fill:#e6edf3}.m{stroke:#8b949e}}"
)


def markdown(lines: Sequence[Line], facts: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """The whole page. ``facts``: the machine, versions, commands. ``absent``: what could not be run, and why."""
    peers = _peers(lines)
    head = ["metric", "must", "reach", OURS, *peers, f"{OURS} / {NGINX}", "must met", "reach met"]
    text = ["# Measured", "", *(f"- {name}: {said}" for name, said in facts.items())]
    text += [f"- not measured: {name}: {why}" for name, why in absent.items()]
    text += ["", "Medians, with the least and the most. A bound counts as met up to 15 % beyond it (with slack).", ""]
    text += [_row(head), _row(["---"] * len(head)), *(_row(_cells(line, peers)) for line in lines)]
    if any(line.per_cpu for line in lines):
        text += ["", "Per second of the server's CPU:", "", _row(["metric", OURS, *peers])]
        text += [_row(["---"] * (2 + len(peers)))]
        text += [
            _row([line.name, *(_spread(line.per_cpu.get(side, ()), "") for side in (OURS, *peers))])
            for line in lines
            if line.per_cpu
        ]
    return "\n".join(text) + "\n"


def chart(lines: Sequence[Line]) -> str:
    """An SVG: how many times as good as nginx each line is, the bar of 1 dashed. Readable in light and in dark."""
    drawn = [(line, ratio) for line in lines if (ratio := line.ratio(NGINX))]
    high = _TOP + _ROW * len(drawn) + 12
    one = _x(1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high}" '
        'font-family="sans-serif" font-size="13">',
        f"<style>{_STYLE}</style>",
        '<text class="t" x="12" y="22" font-size="15">Times as good as an ideal nginx (longer is better)</text>',
        f'<line class="m" x1="{one}" y1="{_TOP - 8}" x2="{one}" y2="{high - 8}"/>',
        f'<text class="t" x="{one}" y="{_TOP - 12}" text-anchor="middle">nginx</text>',
    ]
    for number, (line, ratio) in enumerate(drawn):
        good = ratio if line.more else 1 / ratio
        y, x = _TOP + _ROW * number, _x(good)
        tone = "b" if good >= 1 else "w"
        parts += [
            f'<text class="t" x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(line.name)}</text>',
            f'<rect class="{tone}" x="{_LEFT}" y="{y + 3}" width="{x - _LEFT:.1f}" height="{_ROW - 9}" rx="2"/>',
            f'<text class="t" x="{x + 6:.1f}" y="{y + 15}">{good:.2f}x</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _x(times: float) -> float:
    return _LEFT + (_WIDE - _LEFT - 70) * min(times, _LONGEST) / _LONGEST


def _peers(lines: Sequence[Line]) -> list[str]:
    """Every other side, nginx first, in the order in which they appear."""
    names = dict.fromkeys(side for line in lines for side in line.values if side != OURS)
    return sorted(names, key=lambda name: name != NGINX)


def _cells(line: Line, peers: Sequence[str]) -> list[str]:
    ratio = line.ratio(NGINX)
    figures = [_spread(line.values.get(side, ()), line.unit) for side in (OURS, *peers)]
    bounds = [_bounds(each, line) for each in (line.must, line.reach)]
    verdicts = [verdict(line, each) for each in (line.must, line.reach)]
    return [line.name, *bounds, *figures, "" if ratio is None else f"{ratio:.2f}x", *verdicts]


def _bounds(bounds: Sequence[Bound], line: Line) -> str:
    sign = ">=" if line.more else "<="
    return "; ".join(f"{sign} {bound}{'' if bound.against else f' {line.unit}'.rstrip()}" for bound in bounds)


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    spread = f"({short(min(values))} to {short(max(values))}, n={len(values)})"
    return f"{short(median(values))} {unit}".rstrip() + f" {spread}"


def short(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
