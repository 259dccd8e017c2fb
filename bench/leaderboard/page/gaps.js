// The box that says which gaps the seeds cannot tell apart.

function showGaps() {
  const notes = board.notes.filter((note) => note.stage === stageOf(note.benchmark) && chosenBenchmark(board.benchmarks[note.benchmark])
    && (!state.target || note.target === state.target));
  const items = notes.map(noteOf);
  const empty = make('p', {}, 'No two methods share a target here.');
  byId('gaps').querySelector('.box').replaceChildren(...(items.length ? items : [empty]));
}

function noteOf(note) {
  const benchmark = board.benchmarks[note.benchmark];
  const where = [benchmark.letter, targetText({ kind: kindOf(note), target: note.target }), note.treatment];
  const name = where.filter(Boolean).join(', ');
  if (note.margin === null) {
    return make('p', { class: 'warning' }, make('b', {}, `${name}: `), `${note.methods} methods, one seed each. No gap here `
      + 'can be told from chance; run with --seeds 0,1,2 or more.');
  }
  const few = note.told < note.pairs / 2 ? 'The seeds are too few for most pairs. ' : '';
  const summary = `${note.methods} methods, ${seedsText(note.seeds)}: ${note.told} of ${note.pairs} pairs are told apart. `
    + `${few}Gaps under about ${plain(note.margin, note.margin < 1 ? 2 : 1)} points mean nothing here.`;
  const neighbours = note.close.map(([better, worse, gap, margin, count, needed]) => {
    const seeds = needed ? `about ${needed} seeds would` : `${board.most_seeds} seeds would not`;
    const half = margin === null ? 'one shared seed' : `± ${plain(margin, 2)}; ${seeds} tell them apart`;
    return make('li', {}, `${better} over ${worse}: ${plain(gap, 2)} points (${half})`);
  });
  return make('details', { class: few ? 'warning' : null }, make('summary', {}, make('b', {}, `${name}: `), summary),
    make('p', { class: 'faint' }, 'Neighbours in the order of means that the seeds do not tell apart, with the 95 % interval '
      + 'of their paired difference:'), make('ul', {}, ...neighbours));
}

function kindOf(note) {
  return board.lines.find((line) => line.benchmark === note.benchmark && line.target === note.target)?.kind;
}
