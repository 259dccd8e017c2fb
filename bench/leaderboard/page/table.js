// The table of standings: columns, sorting, hints.

const RANK_HINT = 'methods whose 95 % intervals overlap share a rank, within one benchmark, target and treatment';

function columns() {
  const several = (values) => new Set(values).size > 1;
  const some = (test) => board.lines.some(test);
  const found = [
    { key: 'rank', name: 'rank', value: (l) => scoreOf(l)?.rank, text: (l) => scoreOf(l)?.rank ?? '–',
      about: (l) => hint(RANK_HINT, scoreOf(l) && !scoreOf(l).rank && 'no rank: one seed has no interval, or no rival') },
    { key: 'method', name: 'method', words: true, value: (l) => l.name, text: (l) => l.name,
      about: (l) => `show the cell: ${l.name} at ${targetText(l)}` },
    { key: 'target', name: 'target', words: true, value: (l) => [l.kind, l.value], text: targetText,
      about: (l) => `asked for: ${targetText(l)}` },
  ];
  if (several(board.benchmarks.map((b) => b.model))) {
    found.push({ key: 'network', name: 'network', words: true, value: (l) => benchmarkOf(l).model,
      text: (l) => benchmarkOf(l).model, about: (l) => benchmarkOf(l).path });
  }
  if (several(board.benchmarks.map(arenaOf))) {
    found.push({ key: 'data', name: 'data', words: true, value: (l) => arenaOf(benchmarkOf(l)),
      text: (l) => arenaOf(benchmarkOf(l)), about: (l) => benchmarkOf(l).path });
  }
  if (board.benchmarks.length > 1) {
    found.push({ key: 'benchmark', name: '', words: true, value: (l) => benchmarkOf(l).letter,
      text: (l) => benchmarkOf(l).letter, about: (l) => benchmarkOf(l).path });
  }
  found.push(
    { key: 'miou', name: 'mIoU %', value: (l) => scoreOf(l)?.seeds[0],
      text: (l) => scoreOf(l) ? withSpread(scoreOf(l).seeds, 1) : (l.jobs ? '–' : 'failed'),
      about: (l) => scoreOf(l) && hint(`mIoU ${stageText(l)}`, spreadText(scoreOf(l).seeds, ' %'), aboutText(l),
        l.treatment) },
    { key: 'drop', name: 'drop', value: (l) => scoreOf(l)?.drop,
      text: (l) => scoreOf(l)?.drop === undefined ? '–' : plain(scoreOf(l).drop, 1),
      about: (l) => scoreOf(l) && hint('points lost against its own dense network, whose mIoU is '
        + `${plain(benchmarkOf(l).miou, 2)} %`, dropInterval(l), aboutText(l)) },
  );
  for (const control of board.controls) {
    found.push({ key: `gap:${control}`, name: `vs ${control}`, value: (l) => scoreOf(l)?.gaps[control]?.[0],
      text: (l) => gapCell(scoreOf(l)?.gaps[control]), className: (l) => gapClass(scoreOf(l)?.gaps[control]),
      about: (l) => scoreOf(l)?.gaps[control] && hint(gapText(scoreOf(l).gaps[control], control), aboutText(l)) });
  }
  if (board.corruptions.length) {
    found.push({ key: 'corrupted', name: 'corrupted', value: (l) => l.corrupted.corrupted?.[0],
      text: (l) => l.corrupted.corrupted ? withSpread(l.corrupted.corrupted, 1) : '–',
      about: (l) => l.corrupted.corrupted && hint('mIoU under six corruptions at three severities',
        spreadText(l.corrupted.corrupted, ' %'), aboutText(l)) });
  }
  for (const [key, name] of [['macs', 'MACs %'], ['parameters', 'params %']]) {
    found.push({ key, name, value: (l) => costOf(l, `${key}_kept`), text: (l) => share(costOf(l, `${key}_kept`)),
      about: (l) => l.cost[key] && hint(`${short(l.cost[key][0])}, ${share(costOf(l, `${key}_kept`))} % of the dense `
        + `network's, mean over ${seedsText(l.cost[key][3])}`, aboutText(l)) });
  }
  if (some((l) => l.sparse)) {
    found.push({ key: 'nonzero', name: 'non-zero %', value: (l) => costOf(l, 'nonzero_kept'),
      text: (l) => share(costOf(l, 'nonzero_kept')), about: (l) => `parameters that are not zero; ${aboutText(l)}` });
  }
  if (some((l) => l.ms)) {
    const timed = (l) => l.ms && hint(`${plain(l.ms[0], 3)} ms; speed-up ${plain(l.speedup[0], 2)}x, `
      + `${plain(l.speedup[1], 2)} to ${plain(l.speedup[2], 2)} over ${seedsText(l.jobs)}`, deviceText(l), aboutText(l));
    found.push({ key: 'ms', name: 'ms', value: (l) => l.ms?.[0], text: (l) => plain(l.ms?.[0], 2), about: timed },
      { key: 'speedup', name: 'speed-up', value: (l) => l.speedup?.[0],
        text: (l) => l.speedup ? `${plain(l.speedup[0], 2)}x` : '–', about: timed });
  }
  found.push({ key: 'seeds', name: 'seeds', value: (l) => l.jobs,
    text: (l) => l.failed ? `${l.jobs} of ${l.jobs + l.failed}` : `${l.jobs}`,
    about: (l) => l.failed ? `${l.failed} failed; the cell says why` : `${seedsText(l.jobs)}` },
  { key: 'seconds', name: 'seconds', value: (l) => l.seconds, text: (l) => plain(l.seconds, 0),
    about: () => 'seconds that all its seeds took, as their cells say; where they do not, what the last run of the command spent' });
  return found;
}

const share = (kept) => (kept === undefined ? '–' : plain(100 * kept, 1));
const withSpread = ([mean, deviation], digits) =>
  plain(mean, digits) + (deviation === null ? '' : ` ± ${plain(deviation, digits)}`);

function dropInterval(line) {
  const { drop, seeds: [, , margin] } = scoreOf(line);
  return margin === null || drop === undefined ? null
    : `95 % interval of the drop over seeds: ${plain(drop - margin, 2)} to ${plain(drop + margin, 2)}`;
}

const gapCell = (gap) => (gap ? signed(gap[0], 1) + (gap[1] === null ? '' : ` ± ${plain(gap[1], 1)}`) : '–');
const gapClass = (gap) => (!gap || !isTold(gap) ? 'untold' : gap[0] > 0 ? 'ahead' : 'behind');

let shownColumns = [];

function compare(first, second) {
  if (Array.isArray(first)) return compare(first[0], second[0]) || compare(first[1], second[1]);
  return typeof first === 'string' ? first.localeCompare(second) : first - second;
}

// Without a column: by benchmark and target, and there the best first.
function standing(a, b) {
  return a.benchmark - b.benchmark || compare([a.kind, a.value], [b.kind, b.value])
    || a.treatment.localeCompare(b.treatment) || (scoreOf(b)?.seeds[0] ?? -1) - (scoreOf(a)?.seeds[0] ?? -1);
}

// '-miou' is mIoU from the largest down; what is not known comes last either way.
function sorted(lines) {
  const down = state.sort.startsWith('-');
  const column = shownColumns.find((one) => one.key === state.sort.replace(/^-/, ''));
  if (!column) return [...lines].sort(standing);
  const known = (line) => column.value(line) !== undefined && column.value(line) !== null;
  return [...lines].sort((a, b) => {
    if (known(a) !== known(b)) return known(a) ? -1 : 1;
    return known(a) ? (down ? -1 : 1) * compare(column.value(a), column.value(b)) : 0;
  });
}

const rowsOfStage = {};

function rowOf(line) {
  const rows = (rowsOfStage[state.stage] ??= new Map());
  if (!rows.has(line.id)) {
    const cells = shownColumns.map((column) => {
      const text = column.text(line);
      const content = column.key === 'method' ? [marker(line.method), make('a', { href: cellAddress(line), 'data-cell': line.id }, text)] : [`${text}`];
      return make(column.key === 'method' ? 'th' : 'td',
        { class: [column.words ? 'words' : '', column.className?.(line) ?? ''].join(' ').trim() || null,
          scope: column.key === 'method' ? 'row' : null }, ...content);
    });
    rows.set(line.id, make('tr', { class: BANDS.includes(line.method) ? 'control' : null }, ...cells));
  }
  return rows.get(line.id);
}

function denseRow(benchmark) {
  const texts = { method: 'dense', target: '–', network: benchmark.model, data: arenaOf(benchmark),
    benchmark: benchmark.letter, miou: plain(benchmark.miou, 1), drop: '0.0', corrupted: plain(benchmark.corrupted.corrupted, 1), macs: '100.0', parameters: '100.0',
    nonzero: '100.0', ms: benchmark.ms ? plain(benchmark.ms, 2) : '–' };
  const about = hint(benchmark.title, benchmark.interval && `mIoU ${plain(benchmark.miou, 2)} %; over resampled images, 95 %: `
    + `${plain(benchmark.interval[0], 2)} to ${plain(benchmark.interval[1], 2)}`,
  benchmark.macs && `${short(benchmark.macs)} MACs`, benchmark.parameters && `${short(benchmark.parameters)} parameters`);
  const cells = shownColumns.map(({ key, words }) => make(key === 'method' ? 'th' : 'td',
    { class: words ? 'words' : null, title: about }, texts[key] ?? '–'));
  return make('tr', { class: 'dense' }, ...cells);
}

function showTable(lines) {
  shownColumns = columns();
  const heads = shownColumns.map((column) => {
    const [up, down] = [column.key, `-${column.key}`];
    const order = state.sort === up ? 'ascending' : state.sort === down ? 'descending' : null;
    // Of numbers the largest are wanted first.
    const next = column.words || column.key === 'rank' ? (state.sort === up ? down : up) : (state.sort === down ? up : down);
    return make('th', { scope: 'col', class: column.words ? 'words' : null, 'aria-sort': order },
      make('button', { type: 'button', 'data-sort': column.key, onclick: () => resort(next) }, column.name || 'set'));
  });
  byId('table').tHead.replaceChildren(make('tr', {}, ...heads));
  const dense = board.benchmarks.filter(chosenBenchmark).map(denseRow);
  const order = sorted(lines);
  const rows = order.map(rowOf);
  // A line between targets, as long as they are apart.
  const group = (line) => `${line.benchmark} ${line.target} ${line.treatment}`;
  rows.forEach((row, place) => row.classList.toggle('first', !state.sort && (!place || group(order[place]) !== group(order[place - 1]))));
  byId('table').tBodies[0].replaceChildren(...dense, ...rows);
  byId('count').textContent = `${lines.length} of ${board.lines.length} lines.`;
  const control = board.controls.length ? `paired differences to ${board.controls.join(', ')} in points, ± half the 95 % `
    + 'interval; bold where it leaves 0 out' : '';
  byId('legend').textContent = hint('mIoU: mean ± sd over seeds. Drop: points below its own dense network.',
    control && `${control[0].toUpperCase()}${control.slice(1)}.`, 'Point at a number to see seeds, interval, data, device.');
}

// Hints are made when they are asked for: a large table has many.
byId('table').addEventListener('mouseover', (event) => {
  const cell = event.target.closest('td, th');
  const row = cell?.closest('tbody tr');
  if (!row || cell.title || row.classList.contains('dense')) return;
  const line = lineOf(row.querySelector('a').dataset.cell);
  cell.title = shownColumns[cell.cellIndex].about(line) || '';
});

const linesById = new Map(board.lines.map((line) => [line.id, line]));
const lineOf = (id) => linesById.get(id);

function marker(method) {
  const look = board.looks[method];
  return draw('svg', { class: 'marker', viewBox: '-8 -8 16 16', width: 14, height: 14, 'aria-hidden': 'true' },
    draw('path', { d: look.path, transform: 'scale(10)', fill: look.colour }));
}
