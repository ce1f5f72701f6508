"""Draws nats over bits per weight: lines of what was made here, points of what others make."""

import math

WIDTH, HEIGHT, LEFT, TOP = 360, 280, 52, 34
BITS, NATS = (2.9, 7.4), (-3, 0.3)  # of NATS the logarithms to base 10
COLOURS = ("#2563a8", "#b3541e")


def draw(panels):
    """SVG of `panels`: {title: {"ours": [(bits, nats, note)], "theirs": [(bits, nats, name)]}}."""
    width = len(panels) * (WIDTH + LEFT) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + TOP + 44}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{HEIGHT + TOP + 44}" fill="#fff"/>',
    ]
    for idx, (title, series) in enumerate(panels.items()):
        parts += panel(title, series, LEFT + idx * (WIDTH + LEFT))
    return "\n".join([*parts, "</svg>\n"])


def panel(title, series, left):
    def at(bits, nats):
        x = left + (bits - BITS[0]) / (BITS[1] - BITS[0]) * WIDTH
        y = TOP + (NATS[1] - math.log10(max(nats, 1e-9))) / (NATS[1] - NATS[0]) * HEIGHT
        return x, min(y, TOP + HEIGHT)

    parts = [f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{title}</text>']
    for nats in (0.001, 0.01, 0.1, 1.0):
        y = at(3, nats)[1]
        parts.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{nats:g}</text>')
    for bits in (3, 4, 5, 6, 7):
        x, y = at(bits, 1)[0], TOP + HEIGHT + 15
        parts.append(f'<path d="M{x:.1f} {TOP}v{HEIGHT}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{bits}</text>')
    middle = left + WIDTH / 2
    parts.append(
        f'<text x="{middle}" y="{TOP + HEIGHT + 32}" text-anchor="middle">'
        "bits per weight, whole file; up: nats from the model as given</text>"
    )
    line = " ".join("{:.1f},{:.1f}".format(*at(bits, nats)) for bits, nats, _ in series["ours"])
    parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
    for bits, nats, note in series["ours"]:
        x, y = at(bits, nats)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[0]}"/>')
        if note:
            parts.append(f'<text x="{x + 7:.1f}" y="{y - 5:.1f}" fill="{COLOURS[0]}">{note}</text>')
    for idx, (bits, nats, name) in enumerate(sorted(series["theirs"])):
        x, y = at(bits, nats)
        parts.append(f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{COLOURS[1]}"/>')
        # Neighbours' names stand above and below.
        y += 14 if idx % 2 else -7
        parts.append(f'<text x="{x + 4:.1f}" y="{y:.1f}" fill="{COLOURS[1]}">{name}</text>')
    return parts
