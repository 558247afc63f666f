#!/usr/bin/env python3
"""Draws docs/zigzag.svg: one pass of the zig-zag schedule over three layers and three micro-batches, a row for each lane.

Usage: docs/draw_zigzag.py > docs/zigzag.svg
The times are made up (a visit computes for 4 units, a third of a layer's weights loads in 3); the order is the program's:
the weights of the next layer arrive in as many pieces as the current layer has visits, beside the KV cache of the next visit.
"""

LAYERS, BATCHES = 3, 3
UNIT, LEFT, TOP, ROW, BAR = 17.0, 96, 64, 46, 30
COLORS = ["#3b6ea5", "#c2762b", "#4b8f5c"]
WEIGHTS, CACHE, COMPUTE = 2.2, 1.1, 4.0


def schedule():
    """Lane name -> list of (start, end, text, layer)."""
    read, compute, write = [], [], []
    disk = 0.0
    loaded = {}  # when a layer's weights are there
    for _ in range(BATCHES):  # the first layer has no visits to hide behind
        read.append((disk, disk + WEIGHTS, "W1", 0))
        disk += WEIGHTS
    loaded[0] = disk
    cache = {}
    read.append((disk, disk + CACHE, "KV", 0))
    disk += CACHE
    cache[0] = disk
    free = written = 0.0
    visits = [(layer, batch) for layer in range(LAYERS) for batch in range(BATCHES)]
    for n, (layer, batch) in enumerate(visits):
        start = max(free, loaded[layer], cache[n])
        disk = max(disk, start)
        if layer + 1 < LAYERS:
            read.append((disk, disk + WEIGHTS, f"W{layer + 2}", layer + 1))
            disk += WEIGHTS
            loaded[layer + 1] = disk
        if n + 1 < len(visits):
            read.append((disk, disk + CACHE, "KV", visits[n + 1][0]))
            disk += CACHE
            cache[n + 1] = disk
        free = start + COMPUTE
        compute.append((start, free, f"layer {layer + 1}, batch {batch + 1}", layer))
        written = max(written, free)
        write.append((written, written + 0.8, "kv", layer))
        written += 0.8
    return {"disk read": read, "compute": compute, "disk write": write}


def main():
    lanes = schedule()
    end = max(bar[1] for bars in lanes.values() for bar in bars)
    width, height = LEFT + end * UNIT + 16, TOP + ROW * len(lanes) + 26
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">',
        "<title>One pass of the zig-zag schedule: while a layer computes, the next layer's weights are read</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14" fill="#222">One pass: each layer\'s weights are read once and serve all micro-batches.</text>',
        f'<text x="{LEFT}" y="42" fill="#555">W2 = a third of the weights of layer 2; KV, kv = the KV cache of one micro-batch, read and written back.</text>',
    ]
    for row, (name, bars) in enumerate(lanes.items()):
        y = TOP + row * ROW
        out.append(f'<text x="{LEFT - 10}" y="{y + 20}" text-anchor="end" fill="#222">{name}</text>')
        out.append(f'<line x1="{LEFT}" y1="{y + BAR + 6}" x2="{width - 12:.0f}" y2="{y + BAR + 6}" stroke="#ddd"/>')
        for start, stop, text, layer in bars:
            x, w = LEFT + start * UNIT, (stop - start) * UNIT - 1.5
            light = text in ("KV", "kv")
            opacity = ' fill-opacity=".45"' if light else ""
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="{BAR}" rx="3" fill="{COLORS[layer]}"{opacity}/>')
            parts = text.split(", ") if w > 40 else [text]
            for i, part in enumerate(parts):
                out.append(f'<text x="{x + w / 2:.1f}" y="{y + 19 + (i * 2 - len(parts) + 1) * 6:.0f}" text-anchor="middle" '
                           f'font-size="{11 if w > 20 else 8}" fill="{"#222" if light else "#fff"}">{part}</text>')
    out.append(f'<text x="{LEFT}" y="{height - 8:.0f}" fill="#555">time &#8594;</text>')
    out.append("</svg>")
    print("\n".join(out))


main()
