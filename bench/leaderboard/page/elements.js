// Small helpers: elements, data of the page, files to be saved.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// An element of HTML; children are elements and texts.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// An element of SVG.
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

const board = JSON.parse(byId('board').textContent);

// A piece of data that is packed in the page, as a Blob.
async function unpacked(name) {
  if (typeof DecompressionStream === 'undefined') {
    throw new Error('this browser cannot unpack the data of the page; use one of 2023 or later');
  }
  const bytes = Uint8Array.from(atob(byId(`packed-${name}`).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).blob();
}

async function download(data, file, type) {
  const address = URL.createObjectURL(new Blob([await unpacked(data)], { type }));
  make('a', { href: address, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// Several lines of a hint; what is empty is left out.
function hint(...parts) {
  return parts.filter(Boolean).join('\n');
}
