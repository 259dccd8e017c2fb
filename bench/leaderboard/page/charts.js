// mIoU against cost, on log axes, and curves by method over the share of MACs kept.

const WIDTH = 480, HEIGHT = 350, LEFT = 58, RIGHT = 14, TOP = 12, BOTTOM = 46;

const COSTS = [
  { key: 'macs', name: 'MACs', dense: (b) => b.macs, at: (l) => costOf(l, 'macs'), unit: '' },
  { key: 'parameters', name: 'parameters', dense: (b) => b.parameters, at: (l) => costOf(l, 'parameters'), unit: '' },
  { key: 'ms', name: 'latency', dense: (b) => b.ms, at: (l) => l.ms?.[0], ends: (l) => l.ms.slice(1), unit: ' ms' },
];

const CLEAN = (line) => scoreOf(line)?.seeds;

function showCharts(lines) {
  const scored = lines.filter((line) => scoreOf(line) && !line.sparse);
  const cost = [], curves = [];
  const arenas = [...new Set(board.benchmarks.filter(chosenBenchmark).map(arenaOf))];
  for (const arena of arenas) {
    const own = scored.filter((line) => arenaOf(benchmarkOf(line)) === arena);
    const dense = board.benchmarks.filter((b) => chosenBenchmark(b) && arenaOf(b) === arena && b.miou !== null);
    if (!own.length) continue;
    const charts = [];
    for (const axis of COSTS) {
      const points = own.filter((line) => axis.at(line)).map((line) => pointOf(line, axis));
      if (points.length) charts.push(figure(axis.name, costChart(points, dense, axis)));
    }
    cost.push(ofArena(arenas, arena, [...charts, ...bandKeys(own)]));
    const clean = { title: `mIoU ${board.stages[state.stage] ?? lastText()}`, of: CLEAN, dense: (b) => b.miou };
    const corrupted = { title: 'mIoU under corruptions', of: (l) => l.corrupted.corrupted, dense: (b) => b.corrupted.corrupted };
    const views = own.some(corrupted.of) ? [clean, corrupted] : [clean];
    curves.push(ofArena(arenas, arena, [...views.map((view) => curveChart(own, dense, arena, view)), curveKeys(own)]));
  }
  for (const [id, parts] of [['cost', cost], ['curves', curves]]) {
    byId(id).hidden = !parts.length;
    byId(id).querySelector('div').replaceChildren(...parts);
  }
}

// The charts of one data set, split and size; which it is is said where there are several.
function ofArena(arenas, arena, parts) {
  return make('div', {}, arenas.length > 1 ? make('h3', {}, arena) : null, make('div', { class: 'charts' }, ...parts));
}

function figure(title, chart, ...notes) {
  return make('figure', {}, make('h4', {}, title), chart, notes.length ? make('figcaption', { class: 'faint' }, ...notes) : null);
}

function pointOf(line, axis, seeds = scoreOf(line).seeds) {
  const [mean, deviation] = seeds;
  const x = axis.at(line);
  const spread = axis.ends ? axis.ends(line) : [x - (line.cost[axis.key][1] ?? 0), x + (line.cost[axis.key][1] ?? 0)];
  return { line, x, ends: spread, y: mean, low: mean - (deviation ?? 0), high: mean + (deviation ?? 0) };
}

// The points that another one beats, being no dearer and no worse, and better in one of both.
function dominatedOf(points) {
  const found = new Set();
  let best = -Infinity;
  // From the cheapest up, and of equal cost the best first: what does not rise above all before it is beaten or a twin.
  let twin = null;
  for (const point of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) {
    if (point.y > best) [best, twin] = [point.y, point.x];
    else if (point.y < best || point.x > twin) found.add(point);
  }
  return found;
}

function costChart(points, dense, axis) {
  const own = dense.filter((b) => axis.dense(b)).map((b) => ({ benchmark: b, x: axis.dense(b), y: b.miou, low: b.miou, high: b.miou,
    ends: [axis.dense(b), axis.dense(b)] }));
  const all = [...points, ...own];
  const scratch = BANDS.flatMap((control) => points.flatMap((point) => point.line.scratch[control]?.[0] ?? []));
  const across = logScale(all.flatMap((point) => point.ends));
  const up = linearScale([...all.flatMap((point) => [point.low, point.high]), ...scratch]);
  const chart = frame(`mIoU against ${axis.name}`, across, up, `${axis.name}${axis.unit && `,${axis.unit}`}, log axis`,
    (value) => short(value).replace(/\.0+(?= |$)/, ''));
  const dominated = dominatedOf(all);
  const front = all.filter((point) => !dominated.has(point)).sort((a, b) => a.x - b.x);
  chart.append(...bandsOf(points, across, up), polyline(front.map((p) => [across(p.x), up(p.y)]), { class: 'front' }));
  // What is dominated lies below.
  const order = [...points].sort((a, b) => dominated.has(b) - dominated.has(a));
  chart.append(...own.map((point) => densePoint(point, across, up)),
    ...order.map((point) => mark(point, across, up, dominated.has(point), axis)));
  return chart;
}

function mark(point, across, up, isGrey, axis) {
  const { line } = point;
  const look = board.looks[line.method];
  const colour = isGrey ? '#a8a8a8' : look.colour;
  const [x, y] = [across(point.x), up(point.y)];
  const about = hint(`${line.name} at ${targetText(line)}: ${withSpread(scoreOf(line).seeds, 2)} %`,
    `${short(point.x)} ${axis.unit.trim() || axis.name}, ${seedsText(line.jobs)}`, aboutText(line), axis.key === 'ms' && deviceText(line));
  const whiskers = [[x, up(point.low), x, up(point.high)], [across(point.ends[0]), y, across(point.ends[1]), y]]
    .filter(([x1, y1, x2, y2]) => Math.abs(x2 - x1) + Math.abs(y2 - y1) > 1)
    .map(([x1, y1, x2, y2]) => draw('line', { x1, y1, x2, y2, stroke: colour, 'stroke-width': 1 }));
  return draw('a', { href: cellAddress(line), 'data-cell': line.id, class: isGrey ? 'mark dominated' : 'mark' }, ...whiskers,
    draw('path', { d: look.path, transform: `translate(${x},${y}) scale(10)`, fill: colour, stroke: 'white', 'stroke-width': 0.06 }),
    draw('title', {}, about));
}

function densePoint(point, across, up) {
  const y = up(point.y);
  return draw('g', { class: 'dense' }, draw('line', { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }),
    draw('circle', { cx: across(point.x), cy: y, r: 5.5 }),
    draw('title', {}, `dense ${point.benchmark.model}: ${plain(point.y, 2)} %, ${arenaOf(point.benchmark)}`));
}

const BANDS = board.controls.filter((control) => control !== 'l1');

// Where random pruning and training from scratch lie: mean ± sd along the axis. Random is a method, whose lines are points
// of the band; from scratch each network has its own, and those of a target are a point together.
function bandsOf(points, across, up) {
  return BANDS.flatMap((control) => {
    const groups = {};
    for (const point of points.filter((one) => one.line.method === control)) {
      (groups[`${point.line.benchmark} ${point.line.name} ${point.line.kind}`] ??= []).push(point);
    }
    for (const [key, made] of Object.entries(scratchPoints(points, control))) groups[key] = made;
    const colour = board.looks[control].colour;
    return Object.values(groups).map((group) => {
      const line = group.sort((a, b) => a.x - b.x);
      const edge = [...line.map((p) => [across(p.x), up(p.high)]), ...line.reverse().map((p) => [across(p.x), up(p.low)])];
      return draw('polygon', { class: 'band', points: edge.map((p) => p.map(fixed)).join(' '), fill: colour, stroke: colour });
    });
  });
}

function scratchPoints(points, control) {
  const targets = {};
  for (const point of points.filter((one) => one.line.scratch[control])) {
    const { benchmark, kind, target } = point.line;
    ((targets[`${benchmark} ${kind}`] ??= {})[target] ??= []).push(point);
  }
  return Object.fromEntries(Object.entries(targets).map(([key, ofTarget]) => [key, Object.values(ofTarget).map((group) => {
    const mious = group.map((point) => point.line.scratch[control][0]);
    const middle = mean(mious);
    const spread = Math.sqrt(mean(mious.map((value) => (value - middle) ** 2)));
    return { x: mean(group.map((point) => point.x)), low: middle - spread, high: middle + spread };
  })]));
}

function bandKeys(lines) {
  const shown = BANDS.filter((control) => lines.some((line) => line.method === control || line.scratch[control]));
  const keys = shown.map((control) => make('span', { class: 'key' },
    make('i', { style: `background:${board.looks[control].colour}` }), `${control}, mean ± sd`));
  return keys.length ? [make('p', { class: 'faint keys' }, ...keys)] : [];
}

function curveChart(lines, dense, arena, view) {
  // Published numbers are of clean images.
  const grey = board.published.filter((one) => one.macs_kept !== undefined && view.of === CLEAN
    && [one.dataset, one.split, one.input_size.join('x')].join(', ') === arena);
  const axis = { at: (line) => 100 * costOf(line, 'macs_kept'), key: 'macs_kept' };
  const points = lines.filter((line) => costOf(line, 'macs_kept') !== undefined && view.of(line))
    .map((line) => pointOf(line, axis, view.of(line)));
  const whole = dense.map((b) => [b, view.dense(b)]).filter(([, miou]) => miou !== undefined && miou !== null);
  const across = linearScale([...points.map((p) => p.x), 100, ...grey.map((one) => one.macs_kept)], LEFT, WIDTH - RIGHT);
  const up = linearScale([...points.flatMap((p) => [p.low, p.high]), ...whole.map(([, miou]) => miou),
    ...grey.map((one) => one.miou)]);
  const chart = frame(`${view.title} over the MACs kept`, across, up, 'MACs kept, %', (value) => `${value}`, view.title);
  chart.append(...whole.map(([benchmark, y]) => densePoint({ benchmark, x: 100, y }, across, up)));
  const curves = {};
  for (const point of points) (curves[`${point.line.benchmark} ${point.line.name} ${point.line.kind}`] ??= []).push(point);
  const seen = {};
  for (const curve of Object.values(curves)) {
    const { line } = curve.sort((a, b) => a.x - b.x)[0];
    const look = board.looks[line.method];
    const hollow = (seen[line.method] = (seen[line.method] ?? 0) + 1) > 1;
    chart.append(polyline(curve.map((p) => [across(p.x), up(p.y)]), { class: 'curve', stroke: look.colour, 'stroke-dasharray': look.dash || null }));
    for (const point of curve) {
      const [x, y] = [across(point.x), up(point.y)];
      chart.append(draw('a', { href: cellAddress(point.line), 'data-cell': point.line.id, class: 'mark' },
        draw('line', { x1: x, x2: x, y1: up(point.low), y2: up(point.high), stroke: look.colour }),
        draw('path', { d: look.path, transform: `translate(${x},${y}) scale(9)`, fill: hollow ? 'white' : look.colour,
          stroke: look.colour, 'stroke-width': hollow ? 0.16 : 0.02 }),
        draw('title', {}, `${point.line.name} at ${targetText(point.line)}: ${withSpread(view.of(point.line), 2)} % with `
          + `${plain(point.x, 1)} % of the MACs`)));
    }
  }
  for (const one of grey) {
    const [x, y] = [across(one.macs_kept), up(one.miou)];
    chart.append(draw('g', { class: 'paper' }, draw('path', { d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10` }),
      draw('title', {}, `published: ${one.method}, ${one.network}, ${plain(one.miou, 2)} % with ${one.macs_kept} % of its own MACs; `
        + `${arena}; ${one.source}`)));
  }
  const notes = [];
  if (grey.length) notes.push(`Grey crosses: ${grey.length} published numbers of ${arena}. `);
  if (Object.values(seen).some((count) => count > 1)) notes.push('Hollow: a further curve of the same method. ');
  return figure(`${view.title} over the share of MACs kept`, chart, ...notes);
}

// Which line is whose, also where the buttons above are not seen.
function curveKeys(lines) {
  const names = new Map(lines.map((line) => [line.name, line]));
  return make('ul', { class: 'curve-keys' }, ...[...names].map(([name, { method }]) => {
    const look = board.looks[method];
    return make('li', {}, draw('svg', { viewBox: '0 -8 40 16', width: 40, height: 16, 'aria-hidden': 'true' },
      draw('line', { x1: 0, x2: 40, y1: 0, y2: 0, stroke: look.colour, 'stroke-width': 1.8, 'stroke-dasharray': look.dash || null }),
      draw('path', { d: look.path, transform: 'translate(20,0) scale(10)', fill: look.colour })), ` ${name}`);
  }));
}

// --- axes

const fixed = (value) => value.toFixed(1);

function logScale(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const pad = Math.max(0.06 * (high - low), 0.03);
  const [from, to] = [low - pad, high + pad];
  const scale = (value) => LEFT + ((Math.log10(value) - from) / (to - from)) * (WIDTH - LEFT - RIGHT);
  const inside = (steps) => {
    const found = [];
    for (let power = Math.floor(from); power <= to; power += 1) found.push(...steps.map((step) => step * 10 ** power));
    return found.filter((value) => Math.log10(value) >= from && Math.log10(value) <= to);
  };
  const few = [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]].map(inside).find((ticks) => ticks.length >= 4);
  scale.ticks = few ?? niceTicks(10 ** from, 10 ** to).filter((value) => Math.log10(value) >= from && Math.log10(value) <= to);
  return scale;
}

function linearScale(values, start = HEIGHT - BOTTOM, end = TOP) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = 0.06 * (high - low || 1);
  const scale = (value) => start + ((value - low + pad) / (high - low + 2 * pad)) * (end - start);
  scale.ticks = niceTicks(low - pad, high + pad).filter((value) => value >= low - pad && value <= high + pad);
  return scale;
}

function niceTicks(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 4));
  const step = [5, 2, 1].map((size) => size * power).find((size) => (high - low) / size >= 4) ?? power;
  const ticks = [];
  for (let number = Math.ceil(low / step); number * step <= high; number += 1) ticks.push(Number((number * step).toPrecision(12)));
  return ticks;
}

function frame(title, across, up, name, text, side = `mIoU ${board.stages[state.stage] ?? lastText()}`) {
  const bottom = HEIGHT - BOTTOM;
  const chart = draw('svg', { class: 'chart', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'group', 'aria-label': title });
  for (const tick of up.ticks) {
    chart.append(draw('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: up(tick), y2: up(tick) }),
      draw('text', { x: LEFT - 6, y: up(tick) + 4, 'text-anchor': 'end' }, `${tick}`));
  }
  let last = -Infinity;
  for (const tick of across.ticks) {
    const x = across(tick);
    chart.append(draw('line', { class: 'grid', x1: x, x2: x, y1: TOP, y2: bottom }));
    // Two numbers are not to run into each other.
    if (x - last < 52) continue;
    chart.append(draw('text', { x, y: bottom + 17, 'text-anchor': 'middle' }, text(tick)));
    last = x;
  }
  chart.append(draw('line', { class: 'axis', x1: LEFT, x2: WIDTH - RIGHT, y1: bottom, y2: bottom }),
    draw('text', { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, 'text-anchor': 'middle' }, name),
    draw('text', { transform: `translate(12,${(TOP + bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle' },
      `${side}, %`));
  return chart;
}

function polyline(points, attributes) {
  return draw('polyline', { points: points.map((point) => point.map(fixed)).join(' '), fill: 'none', ...attributes });
}
