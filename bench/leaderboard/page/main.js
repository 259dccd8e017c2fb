// Puts the page together, and again whenever what is chosen changes.

function options(select, values, every) {
  const found = every === null ? values : [['', every], ...values];
  byId(select).replaceChildren(...found.map(([value, text]) => make('option', { value }, text)));
  byId(select).addEventListener('change', () => choose({ [select]: byId(select).value }));
  byId(select).closest('label').hidden = found.length < (every === null ? 2 : 3);
}

function begin() {
  byId('title').textContent = board.title;
  byId('benchmarks').replaceChildren(...board.benchmarks.map((benchmark) => make('li', {},
    [benchmark.letter && `${benchmark.letter} = `, `${benchmark.path}: ${benchmark.title}; dense mIoU `
      + `${plain(benchmark.miou, 1)} %, ${benchmark.macs ? `${short(benchmark.macs)} MACs, ` : ''}`
      + `${benchmark.parameters ? `${short(benchmark.parameters)} parameters` : ''}`
      + `${benchmark.usual ? `; where a line does not say otherwise: ${benchmark.usual}` : ''}`].filter(Boolean))));
  const distinct = (values) => [...new Map(values.map((value) => [value[0], value])).values()];
  options('stage', [[LAST, lastText()], ...Object.entries(board.stages).filter(([key]) => key !== commonStage())], null);
  options('target', distinct(board.lines.map((line) => [line.target, targetText(line)])), 'every target');
  options('network', distinct(board.benchmarks.map((one) => [one.model, one.model])), 'every network');
  options('data', distinct(board.benchmarks.map((one) => [arenaOf(one), arenaOf(one)])), 'all data');
  byId('search').addEventListener('input', () => choose({ search: byId('search').value }));
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('reset').addEventListener('click', () => choose({ ...DEFAULTS, stage: state.stage, sort: state.sort }));
  byId('download-csv').addEventListener('click', () => download('csv', `${board.file}.csv`, 'text/csv'));
  byId('download-json').addEventListener('click', () => download('json', `${board.file}.json`, 'application/json'));
  byId('all-cells').addEventListener('click', showAllCells);
  const methods = [...new Set(board.lines.map((line) => line.method))];
  byId('methods').replaceChildren(...methods.map((method) => make('button', { type: 'button', 'data-method': method,
    onclick: () => toggle(method) }, marker(method), method)));
  showPublished();
  showOrigin();
  addEventListener('hashchange', () => { readAddress(); show(); });
  readAddress();
  show();
}

// The last stage, where it is the same for all.
function commonStage() {
  const stages = new Set(board.benchmarks.map((benchmark) => benchmark.stage));
  return stages.size === 1 ? [...stages][0] : null;
}

const lastText = () => board.stages[commonStage()] ?? 'at the last stage';

function toggle(method) {
  const hidden = hiddenMethods();
  if (!hidden.delete(method)) hidden.add(method);
  choose({ hidden: [...hidden].join(',') });
}

function show() {
  for (const key of ['search', 'stage', 'target', 'network', 'data']) byId(key).value = state[key];
  const hidden = hiddenMethods();
  for (const chip of byId('methods').children) chip.setAttribute('aria-pressed', !hidden.has(chip.dataset.method));
  const lines = chosenLines();
  showTable(lines);
  showGaps();
  showCharts(lines);
  showCell();
}

function showPublished() {
  const numbers = board.published;
  byId('published').hidden = !numbers.length && !board.published_elsewhere;
  const rows = numbers.map((one) => make('tr', {}, make('th', { class: 'words', scope: 'row' }, `${one.method}, ${one.network}`),
    make('td', {}, plain(one.miou, 1) + (one.sd ? ` ± ${plain(one.sd, 1)}` : '')),
    make('td', {}, one.dense ? plain(one.dense - one.miou, 1) : '–'), make('td', {}, plain(one.macs_kept, 0)),
    make('td', { class: 'words' }, `${one.dataset}, ${one.split}, ${one.input_size.join('x')}`),
    make('td', { class: 'words' }, one.source)));
  const heads = ['published', 'mIoU %', 'drop', 'MACs %', 'data', 'source'].map((name, place) =>
    make('th', { class: place === 0 || place > 3 ? 'words' : null, scope: 'col' }, name));
  byId('published').querySelector('div').replaceChildren(
    ...(rows.length ? [make('p', { class: 'faint' }, 'Numbers of papers, not measured here: grey crosses in the curves. MACs %: '
      + "of the source's own dense network. Recipes differ by more than methods: compare drops."),
    make('div', { class: 'scroll' }, make('table', {}, make('thead', {}, make('tr', {}, ...heads)), make('tbody', {}, ...rows)))]
      : []),
    ...(board.published_elsewhere ? [make('p', { class: 'faint' }, `${board.published_elsewhere} published numbers are of `
      + 'another data set, split or size, and are not shown.')] : []));
}

function showOrigin() {
  byId('origin').querySelector('div').replaceChildren(...board.benchmarks.map((benchmark) => {
    const told = { ...benchmark.origin, 'baseline SHA-256': benchmark.sha256, data: benchmark.data_fingerprint,
      scoring: benchmark.scoring };
    const rows = Object.entries(told).filter(([, value]) => value).map(([name, value]) =>
      make('tr', {}, make('th', { class: 'words', scope: 'row' }, name), make('td', { class: 'words' }, `${value}`)));
    const title = [benchmark.letter, benchmark.title].filter(Boolean).join(': ');
    return make('div', {}, make('h3', {}, title), make('div', { class: 'scroll' }, make('table', {}, make('tbody', {}, ...rows))));
  }));
}

begin();
