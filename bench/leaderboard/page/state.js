// What is chosen, kept in the address behind '#': a link leads to the same view.

const DEFAULTS = { search: '', stage: '', target: '', network: '', data: '', hidden: '', sort: '', cell: '' };
const state = { ...DEFAULTS };

// The latest stage that the networks of a benchmark were scored at; which it is may differ between benchmarks.
const LAST = 'last';

function stageOf(number) {
  return state.stage === LAST ? board.benchmarks[number].stage : state.stage;
}

const stageText = (line) => board.stages[stageOf(line.benchmark)];

function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = found.get(key) ?? DEFAULTS[key];
  if (!(state.stage in board.stages)) state.stage = LAST;
}

function addressOf(changes = {}) {
  const kept = Object.entries({ ...state, ...changes }).filter(
    ([key, value]) => value !== DEFAULTS[key] && !(key === 'stage' && value === LAST),
  );
  return `#${new URLSearchParams(kept)}`;
}

// A filter changes the address in place; a cell is a step that 'back' undoes.
function choose(changes) {
  Object.assign(state, changes);
  history.replaceState(null, '', addressOf());
  show();
}

// Only the order of the table changes.
function resort(sort) {
  state.sort = sort;
  history.replaceState(null, '', addressOf());
  showTable(chosenLines());
}

// Where a link to a cell leads by itself; followed within the page it keeps what is chosen.
const cellAddress = (line) => `#${new URLSearchParams({ cell: line.id })}`;

addEventListener('click', (event) => {
  const link = event.target.closest?.('a[data-cell]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  location.hash = addressOf({ cell: link.dataset.cell });
});

function hiddenMethods() {
  return new Set(state.hidden.split(',').filter(Boolean));
}

const benchmarkOf = (line) => board.benchmarks[line.benchmark];

// Numbers compare within one data set, split and size.
function arenaOf(benchmark) {
  const size = benchmark.input_size ? benchmark.input_size.join('x') : null;
  return [benchmark.dataset, benchmark.split, size].filter(Boolean).join(', ');
}

function chosenBenchmark(benchmark) {
  return (!state.network || benchmark.model === state.network) && (!state.data || arenaOf(benchmark) === state.data);
}

function chosenLines() {
  const hidden = hiddenMethods();
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  return board.lines.filter((line) => {
    const benchmark = benchmarkOf(line);
    if (hidden.has(line.method) || !chosenBenchmark(benchmark)) return false;
    if (state.target && line.target !== state.target) return false;
    const text = `${line.name} ${targetText(line)} ${benchmark.model} ${benchmark.letter}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}
