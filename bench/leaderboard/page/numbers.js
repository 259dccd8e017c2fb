// Numbers in words, and what each says when it is pointed at.

function plain(value, digits) {
  if (value === null || value === undefined) return '–';
  // Rounded, a small number below zero is none.
  return value.toFixed(digits).replace(/^-(?=[0.]*$)/, '').replace('-', '−');
}

const signed = (value, digits) => (value >= 0 ? '+' : '') + plain(value, digits);

function short(value) {
  for (const [unit, size] of [['G', 1e9], ['M', 1e6], ['k', 1e3]]) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return value.toPrecision(3);
}

// "macs 0.5"; of channels the share that goes, which has no name of its own elsewhere.
function targetText(line) {
  return line.kind === 'channels' ? `channels −${line.target}` : line.target;
}

const scoreOf = (line) => line.miou[stageOf(line.benchmark)];
const costOf = (line, key) => line.cost[key]?.[0];

function seedsText(count) {
  return `${count} ${count === 1 ? 'seed' : 'seeds'}`;
}

// What a number is about: network, data, split, size.
function aboutText(line) {
  const benchmark = benchmarkOf(line);
  return `${benchmark.model} on ${arenaOf(benchmark)}`;
}

function deviceText(line) {
  const timed = line.timed;
  const parts = [timed.latency_device, timed.latency_threads && `${timed.latency_threads} threads`,
    timed.latency_precision, timed.latency_format, timed.latency_compiled && 'compiled'];
  return parts.filter(Boolean).join(', ');
}

function spreadText([mean, deviation, margin, count], unit, digits = 2) {
  if (deviation === null) return `${plain(mean, digits)}${unit}, one seed: no deviation, no interval`;
  return hint(`mean ${plain(mean, digits)}${unit}, sd ${plain(deviation, digits)} over ${seedsText(count)}`,
    `95 % interval of the mean: ${plain(mean - margin, digits)} to ${plain(mean + margin, digits)}${unit}`);
}

function gapText([points, margin, count], control) {
  const half = margin === null ? 'one shared seed: no interval'
    : `95 % interval ${signed(points - margin, 2)} to ${signed(points + margin, 2)}, paired over ${seedsText(count)}`;
  const verdict = isTold([points, margin]) ? (points > 0 ? 'ahead' : 'behind') : 'not told apart';
  return `against ${control}: ${signed(points, 2)} points (${half}): ${verdict}`;
}

const isTold = ([points, margin]) => margin !== null && Math.abs(points) > margin;
