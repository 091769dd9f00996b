// The toy: a mapping of four pages and two processes, under several policies at once. What every step does was computed
// beforehand with the library (tools/toy.py, which says how the table is laid out); here it is looked up and drawn.
const PAGES = 4, FOLIOS = 8, STEPS = 9, MIRROR = 128, SVG = "http://www.w3.org/2000/svg";
const CELL = 60, LEFT = 26, WIDTH = 272, UPPER = 20, LOWER = 208, MEMORY = 108, HIGH = 44;
const ROLE_WORDS = { mine: "exclusive: the process's alone", shared: "maybe shared", zero: "the zero page", held: "held, mapped by nobody" };

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One policy's graph. A place in it is [state, mirrored, letters]: whether the state's first process stands below, and
// what the reader calls each of its folios.
class Graph {
  constructor(policy, bytes) {
    const count = policy.states;
    Object.assign(this, { name: policy.name, title: policy.title, sentences: policy.sentences, count });
    let at = 0;
    this.renames = policy.renames;
    const part = (rows, size) => { const from = at; at += rows * count * size; return bytes.subarray(from, at); };
    this.cells = part(2 * PAGES, 1);
    this.folios = part(FOLIOS, 1);
    this.low = part(2 * STEPS, 1);
    this.high = part(2 * STEPS, 1);
    this.says = part(2 * STEPS, 1);
    this.renamed = new Uint16Array(part(2 * STEPS, 2).slice().buffer);
  }

  alive([state, mirrored], side) {
    // Where there is one process, the second one's steps say nothing.
    return (side ^ mirrored) === 0 || this.sentences[this.says[STEPS * this.count + state] & ~MIRROR] !== "";
  }

  row([state, mirrored], side) {
    const first = (side ^ mirrored) * PAGES;
    return Array.from({ length: PAGES }, (_, page) => this.cells[(first + page) * this.count + state]);
  }

  orders([state]) {
    return Array.from({ length: FOLIOS }, (_, folio) => this.folios[folio * this.count + state]).filter((found) => found);
  }

  step(place, side, step) {
    const [state, mirrored] = place, others = this.alive(place, 1 - side);
    const row = (side ^ mirrored) * STEPS + step, at = row * this.count + state, said = this.says[at];
    const target = (state + this.low[at] + (this.high[at] << 8)) & 0xffff, swapped = said & MIRROR ? 1 : 0;
    const ends = step === STEPS - 1 && others;
    const letters = this.renames[this.renamed[state * 2 * STEPS + row]].map((before) => before < 0 ? "" : place[2][before]);
    const free = [..."ABCDEFGHIJKLMNOP"].filter((name) => !letters.includes(name));
    const words = this.sentences[said & ~MIRROR].replaceAll("{page}", step % PAGES)
      .replaceAll("{who}", `P${side}`).replaceAll("{other}", `P${1 - side}`);
    return { place: [target, ends ? 1 - side : mirrored ^ swapped, letters.map((name) => name || free.shift())], words };
  }
}

const parsed = (cell) => cell < 128 ? { kind: cell ? "zero" : "none" } : {
  kind: "folio", folio: (cell >> 4) & 7, at: (cell >> 2) & 3, writable: (cell >> 1) & 1, exclusive: cell & 1,
};

function element(parent, name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

// What a reader sees of a page in words; also what the browser test reads.
function cellWords(side, page, cell, letters) {
  const found = parsed(cell), where = `P${side}, page ${page}: `;
  if (found.kind === "none") return where + "nothing mapped";
  if (found.kind === "zero") return where + "zero page, read-only";
  return where + `folio ${letters[found.folio]}, its page ${found.at}, ${found.writable ? "writable" : "read-only"}, ` +
    (found.exclusive ? "exclusive" : "not exclusive");
}

function draw(svg, graph, place, fresh) {
  svg.replaceChildren();
  const rows = [0, 1].map((side) => graph.alive(place, side) ? graph.row(place, side).map(parsed) : null);
  const cells = rows.flatMap((row) => row ?? []), zero = cells.some((cell) => cell.kind === "zero");
  const sizes = graph.orders(place).map((found) => 1 << ((found & 15) - 1));
  const room = sizes.reduce((sum, size) => sum + size, 0) + sizes.length * .25 + (zero ? 1.6 : 0);
  const wide = Math.min(34, (WIDTH - LEFT) / Math.max(1, room));
  const left = [], byLetter = sizes.map((_, folio) => folio).sort((one, two) => place[2][one] < place[2][two] ? -1 : 1);
  byLetter.reduce((x, folio) => { left[folio] = x; return x + (sizes[folio] + .25) * wide; }, LEFT);
  const zeroAt = WIDTH - 1.4 * wide;
  const spot = (cell) => cell.kind === "zero" ? [zeroAt, 1.3 * wide] : [left[cell.folio] + cell.at * wide, wide];

  const ribbons = element(svg, "g", { class: "ribbons" });
  rows.forEach((row, side) => row?.forEach((cell, page) => {
    if (cell.kind === "none") return;
    const [x, width] = spot(cell), near = side ? LOWER : UPPER + HIGH, far = side ? MEMORY + HIGH : MEMORY;
    const from = LEFT + page * CELL + 3, to = from + CELL - 6;
    const role = cell.kind === "zero" ? "zero" : cell.exclusive ? "mine" : "shared", bend = (near + far) / 2;
    element(ribbons, "path", { class: role, d: `M${from} ${near}C${from} ${bend} ${x} ${bend} ${x} ${far}H${x + width - 1}C${x + width - 1} ${bend} ${to} ${bend} ${to} ${near}Z` });
  }));

  sizes.forEach((size, folio) => {
    const block = element(svg, "g", { class: "folio" });
    for (let at = 0; at < size; at++) {
      const mapped = cells.filter((cell) => cell.kind === "folio" && cell.folio === folio && cell.at === at);
      const role = !mapped.length ? "held" : mapped.some((cell) => cell.exclusive) ? "mine" : "shared";
      element(block, "rect", { class: role, x: left[folio] + at * wide, y: MEMORY, width: wide - 1, height: HIGH });
    }
    element(block, "rect", { class: "edge", x: left[folio] - 1, y: MEMORY - 1, width: size * wide + 1, height: HIGH + 2, rx: 3 });
    element(block, "text", { x: left[folio] + size * wide / 2, y: MEMORY + HIGH / 2 + 5 }, place[2][folio]);
  });
  if (zero) {
    element(svg, "rect", { class: "zero", x: zeroAt, y: MEMORY, width: 1.3 * wide, height: HIGH, rx: 3 });
    element(svg, "text", { x: zeroAt + .65 * wide, y: MEMORY + HIGH / 2 + 5 }, "0");
  }
  if (!sizes.length && !zero) element(svg, "text", { class: "quiet", x: WIDTH / 2, y: MEMORY + HIGH / 2 + 5 }, "no memory yet");

  for (let page = 0; page < PAGES; page++) element(svg, "text", { class: "small", x: LEFT + (page + .5) * CELL, y: UPPER - 6 }, page);
  rows.forEach((row, side) => {
    const y = side ? LOWER : UPPER;
    element(svg, "text", { class: "who", x: 0, y: y + HIGH / 2 + 5 }, row ? `P${side}` : "");
    row?.forEach((cell, page) => {
      const button = element(svg, "g", { class: `cell ${cell.kind}${fresh.has(`${side} ${page}`) ? " fresh" : ""}`, role: "button", tabindex: 0 });
      button.dataset.side = side;
      button.dataset.page = page;
      button.setAttribute("aria-label", cellWords(side, page, graph.row(place, side)[page], place[2]));
      const x = LEFT + page * CELL + 3;
      element(button, "rect", { x, y, width: CELL - 6, height: HIGH, rx: 4 });
      const name = cell.kind === "none" ? "·" : cell.kind === "zero" ? "0" : place[2][cell.folio] + cell.at;
      element(button, "text", { x: x + (CELL - 6) / 2, y: y + 20 }, name);
      element(button, "text", { class: "small", x: x + (CELL - 6) / 2, y: y + 37 }, cell.kind === "none" ? "nothing" : cell.writable ? "write" : "read");
    });
  });
}

// What a step changed, so that it can be marked.
function changed(graph, before, after) {
  const words = (place, side, page) => graph.alive(place, side) ? cellWords(side, page, graph.row(place, side)[page], place[2]) : "";
  return new Set([0, 1].flatMap((side) => Array.from({ length: PAGES }, (_, page) => [side, page]))
    .filter(([side, page]) => graph.alive(after, side) && words(before, side, page) !== words(after, side, page))
    .map((where) => where.join(" ")));
}

export async function toy(root, data) {
  const graphs = await Promise.all(data.policies.map(async (policy) => new Graph(policy, await unpack(policy.table))));
  const start = { places: graphs.map(() => [0, 0, []]), words: graphs.map(() => "Nothing is mapped yet. Click a page."), did: "" };
  let past = [start], tool = 0;
  root.innerHTML = `<div class="toy-bar" role="toolbar" aria-label="What a click does">
    <label><input type="radio" name="toy-tool" value="0" checked> write</label>
    <label><input type="radio" name="toy-tool" value="${PAGES}"> read</label>
    <span class="toy-gap"></span>
    <button data-does="fork">fork</button><button data-does="exit 0">P0 exits</button><button data-does="exit 1">P1 exits</button>
    <button data-does="undo">undo</button><button data-does="again">start over</button></div>
    <p class="toy-did" aria-live="polite"></p><div class="toy-panes"></div>
    <p class="toy-legend">${Object.entries(ROLE_WORDS).map(([role, words]) => `<span class="toy-${role}">${words}</span>`).join(" ")}</p>`;
  const panes = graphs.map((graph) => {
    const pane = document.createElement("section");
    pane.innerHTML = `<h3></h3><svg viewBox="0 0 ${WIDTH} 260" role="group"></svg><p></p>`;
    pane.querySelector("h3").textContent = graph.title;
    pane.querySelector("svg").setAttribute("aria-label", graph.title);
    root.querySelector(".toy-panes").append(pane);
    return pane;
  });

  const now = () => past[past.length - 1];
  const living = () => [0, 1].filter((side) => graphs[0].alive(now().places[0], side));

  function show() {
    const focus = root.contains(document.activeElement) ? document.activeElement : null;
    const back = focus?.dataset?.page === undefined ? null : [panes.findIndex((pane) => pane.contains(focus)), focus.dataset.side, focus.dataset.page];
    const state = now(), before = past[past.length - 2];
    graphs.forEach((graph, at) => {
      const fresh = before ? changed(graph, before.places[at], state.places[at]) : new Set();
      draw(panes[at].querySelector("svg"), graph, state.places[at], fresh);
      panes[at].querySelector("p").textContent = state.words[at];
    });
    const alive = living();
    root.querySelector('[data-does="fork"]').disabled = alive.length > 1;
    for (const side of [0, 1]) root.querySelector(`[data-does="exit ${side}"]`).disabled = alive.length < 2;
    root.querySelector('[data-does="undo"]').disabled = root.querySelector('[data-does="again"]').disabled = past.length < 2;
    root.querySelector(".toy-did").textContent = state.did;
    if (back) panes[back[0]].querySelector(`[data-side="${back[1]}"][data-page="${back[2]}"]`)?.focus();
  }

  function step(side, number, did) {
    const taken = graphs.map((graph, at) => graph.step(now().places[at], side, number));
    past.push({ places: taken.map(({ place }) => place), words: taken.map(({ words }) => words), did });
    show();
  }

  function use(cell) {
    const side = Number(cell.dataset.side), page = Number(cell.dataset.page);
    step(side, tool + page, `P${side} ${tool ? "reads" : "writes"} page ${page}.`);
  }

  root.addEventListener("change", (event) => { if (event.target.name === "toy-tool") tool = Number(event.target.value); });
  root.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell"), button = event.target.closest("[data-does]");
    if (cell) return use(cell);
    if (!button) return;
    const [does, side] = button.dataset.does.split(" ");
    if (does === "undo") { past.pop(); show(); }
    else if (does === "again") { past = [start]; show(); }
    else if (does === "fork") step(living()[0], STEPS - 1, `P${living()[0]} forks.`);
    else step(Number(side), STEPS - 1, `P${side} exits.`);
  });
  root.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.(".cell");
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); return use(cell); }
    const page = Number(cell.dataset.page) + { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const side = { ArrowUp: 0, ArrowDown: 1 }[event.key];
    const next = cell.ownerSVGElement.querySelector(side === undefined
      ? `[data-side="${cell.dataset.side}"][data-page="${page}"]` : `[data-side="${side}"][data-page="${cell.dataset.page}"]`);
    if (next) { event.preventDefault(); next.focus(); }
  });
  show();
}
