// The section of a cell: its numbers seed by seed, what each class and each layer lost, its files, its cost, its origin.

let jobsOfCells = null;

async function cellsData() {
  jobsOfCells ??= JSON.parse(await (await unpacked('cells')).text());
  return jobsOfCells;
}

async function showCell() {
  const place = byId('cells').querySelector('div');
  const line = state.cell && lineOf(state.cell);
  if (!state.cell) {
    if (place.dataset.cell !== 'all') place.replaceChildren();
    return;
  }
  if (place.dataset.cell === state.cell && place.childElementCount) return;
  place.dataset.cell = state.cell;
  const asked = state.cell;
  const missing = make('p', { class: 'warning' }, `There is no cell ${state.cell} here.`);
  const content = line ? await sectionOf(line) : missing;
  // Another may have been asked for meanwhile.
  if (asked !== state.cell) return;
  place.replaceChildren(content);
  byId('cells').scrollIntoView();
}

async function sectionOf(line) {
  try {
    return section(line, await cellsData());
  } catch (error) {
    return make('p', { class: 'warning' }, error.message);
  }
}

async function showAllCells() {
  const place = byId('cells').querySelector('div');
  const data = await cellsData();
  place.dataset.cell = 'all';
  choose({ cell: '' });
  place.replaceChildren(...sorted(chosenLines()).map((line) => section(line, data)));
}

function section(line, data) {
  const jobs = data[line.id], dense = data[line.benchmark][0];
  return make('article', { id: `cell:${line.id}` },
    make('h3', {}, marker(line.method), `${line.name} at ${targetText(line)}, ${aboutText(line)}`),
    make('p', {}, make('a', { href: '#standings', onclick: leave }, 'back to the table')),
    verdict(line), make('h4', {}, 'Seed by seed'), seedTable(line, jobs), pairOf(classTable(jobs, dense), widthTable(jobs, dense)), worstImages(jobs), originTable(jobs));
}

// The images that lost the most, seed by seed: what the dense network labels rightly and this one does not is orange.
function worstImages(jobs) {
  const found = jobs.flatMap((job) => (job.worst ?? []).map((image) => [job.seed, ...image]));
  if (!found.length) return null;
  const figures = found.map(([seed, name, before, after, picture]) => {
    const text = `${name}, seed ${seed}: ${plain(before, 1)} to ${plain(after, 1)} % of the pixels right`;
    return make('figure', {}, picture ? make('img', { src: picture, alt: `${name}: where it is wrong now`, loading: 'lazy' }) : null, make('figcaption', {}, text));
  });
  return make('div', {}, make('h4', {}, 'Images that lost the most; in orange what the dense network had right'), make('div', { class: 'images' }, ...figures));
}

function leave(event) {
  event.preventDefault();
  byId('cells').querySelector('div').dataset.cell = '';
  choose({ cell: '' });
  byId('standings').scrollIntoView();
}

function verdict(line) {
  const score = scoreOf(line);
  if (!score) return make('p', { class: 'warning' }, line.jobs ? `Not scored ${stageText(line)}.` : 'No seed was finished.');
  const told = [`mIoU ${stageText(line)}: ${withSpread(score.seeds, 2)} %`];
  if (score.drop !== undefined) told.push(`${plain(score.drop, 2)} points below its own dense network`);
  const gaps = board.controls.filter((control) => score.gaps[control])
    .map((control) => make('li', {}, gapText(score.gaps[control], control)));
  const corrupted = board.corruptions.filter((kind) => line.corrupted[kind]).map((kind) =>
    [kind === 'corrupted' ? 'all six' : kind, plain(benchmarkOf(line).corrupted[kind], 1), withSpread(line.corrupted[kind], 1)]);
  return make('div', {}, make('p', {}, `${told.join(', ')}.`), make('ul', {}, ...gaps), corrupted.length
    ? make('div', {}, make('h4', {}, 'mIoU under corruptions, %'), tableOf(['kind', 'dense', 'now'], corrupted)) : null);
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const known = (values) => values.filter((value) => value !== null && value !== undefined);

function tableOf(heads, rows, words = 1) {
  const kind = (place) => (place < words ? 'words' : null);
  return make('div', { class: 'scroll' }, make('table', {},
    make('thead', {}, make('tr', {}, ...heads.map((name, place) => make('th', { scope: 'col', class: kind(place) }, name)))),
    make('tbody', {}, ...rows.map((row) => make('tr', {}, ...row.map((cell, place) =>
      make(place ? 'td' : 'th', { class: kind(place), scope: place ? null : 'row' }, cell)))))));
}

function seedTable(line, jobs) {
  const stages = Object.entries(board.stages).filter(([key]) => key in line.miou);
  const rows = jobs.map((job) => [`${job.seed}`, ...stages.map(([key]) => plain(job.miou[key], 2)),
    secondsText(job), job.error ? make('span', { class: 'warning' }, `failed: ${job.error}`) : (job.folder ?? '–')]);
  return tableOf(['seed', ...stages.map(([, text]) => `mIoU ${text}`), 'seconds', 'folder'], rows, 0);
}

function secondsText(job) {
  const parts = Object.entries(job.seconds ?? {});
  if (!parts.length) return plain(job.all_seconds, 1);
  if (job.all_seconds) parts.push(['all of it', job.all_seconds]);
  const about = parts.map(([name, value]) => `${name} ${plain(value, 2)} s`).join('\n');
  return make('span', { title: about }, plain(job.all_seconds || parts.reduce((sum, [, value]) => sum + value, 0), 1));
}

// Two tables beside each other where there is room.
function pairOf(...tables) {
  return make('div', { class: 'pair' }, ...tables.filter(Boolean));
}

function classTable(jobs, dense) {
  const measured = jobs.filter((job) => job.iou);
  if (!measured.length) return null;
  const stage = Object.keys(measured[0].iou).pop();
  const changes = dense.classes.map((name, place) => {
    const after = known(measured.map((job) => job.iou[stage]?.[place]));
    return { name, before: dense.dense_iou[place], after: after.length ? mean(after) : null };
  });
  const rows = changes.map(({ name, before, after }) => {
    const change = before === null || after === null ? null : after - before;
    return [name, plain(before, 1), plain(after, 1), change === null ? '–' : signed(change, 1), bar(change)];
  });
  const about = board.stages[`miou_${stage}`] ?? stage;
  return make('div', {}, make('h4', {}, `IoU of each class, dense and ${about}, %`), tableOf(['class', 'dense', 'now', 'change', ''], rows));
}

// A change in points, from the middle to either side; 50 points and more fill it.
function bar(change) {
  const length = Math.min(50, Math.abs(change ?? 0));
  return draw('svg', { class: 'bar', viewBox: '0 0 100 10', width: 100, height: 10, 'aria-hidden': 'true' },
    draw('line', { x1: 50, x2: 50, y1: 0, y2: 10 }),
    draw('rect', { x: change < 0 ? 50 - length : 50, y: 1, width: length, height: 8, class: change < 0 ? 'less' : 'more' }));
}

function widthTable(jobs, dense) {
  const measured = jobs.filter((job) => job.widths);
  if (!measured.length) return null;
  const rows = dense.layers.map((layer, place) => {
    const after = known(measured.map((job) => job.widths[place]));
    const [low, high] = [Math.min(...after), Math.max(...after)];
    const before = dense.dense_widths[place];
    const left = draw('svg', { class: 'bar', viewBox: '0 0 100 10', width: 100, height: 10, 'aria-hidden': 'true' },
      draw('rect', { x: 0, y: 1, width: 100, height: 8, class: 'gone' }),
      draw('rect', { x: 0, y: 1, width: (100 * mean(after)) / before, height: 8, class: 'kept' }));
    return [layer, `${before}`, low === high ? `${low}` : `${low} to ${high}`, left];
  });
  return make('div', {}, make('h4', {}, 'Channels of each layer'), tableOf(['layer', 'dense', 'now', 'kept'], rows));
}

function originTable(jobs) {
  const parts = jobs.map((job) => {
    const told = { 'this job alone': job.alone?.command, ...job.origin, 'options of the method': job.method_options, 'pruning options': job.pruning_options,
      'epochs of fine-tuning': job.finetune_epochs };
    for (const [name, sha] of Object.entries(job.files ?? {})) told[`SHA-256, ${name}`] = sha;
    const rows = Object.entries(told).filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => [name, typeof value === 'object' ? JSON.stringify(value) : `${value}`]);
    const page = job.page && make('p', {}, make('a', { href: job.page }, 'its images, where it is wrong most'));
    return make('details', {}, make('summary', {}, `seed ${job.seed}: command, versions, files`), page, tableOf(['', ''], rows, 2));
  });
  return make('div', {}, ...parts);
}
