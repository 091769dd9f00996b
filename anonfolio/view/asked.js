// Asks a question and judges the answer, by the sheet that Python made of it (anonfolio/lesson/sheet.py). What is
// said is said in the words of anonfolio/lesson/quiz.py: a test holds both equal.

// --- what is right, from the sheet ----------------------------------------------------------------------------------

// So that nobody reads the answer in passing; it hides nothing from who wants to know.
export async function unseal(sheet) {
  const bytes = Uint8Array.from(atob(sheet.sealed), (letter) => letter.charCodeAt(0));
  let state = 2166136261;
  for (const byte of new TextEncoder().encode(sheet.id)) state = Math.imul(state ^ byte, 16777619) >>> 0;
  for (let at = 0; at < bytes.length; at++) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5; state >>>= 0;
    bytes[at] ^= state & 255;
  }
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

// The keys of a mapping in the order that Python shows them in: a notebook stores them sorted.
const keysOf = (sheet, field) => sheet.keys?.[field] ?? Object.keys(sheet[field]);

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const helps = (sheet) => `\`${sheet.name}.hint()\` helps.`;

function runs(pages) {
  const found = [];
  for (const page of pages) {
    const last = found.at(-1);
    if (last && page === last[1] + 1) last[1] = page;
    else found.push([page, page]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}

const kinds = {
  number: {
    say: (sheet, answer) => `${answer.toLocaleString("en-US")} ${answer === 1 ? sheet.one : sheet.unit}`.trim(),
    miss: (sheet, answer, given) => [`${given > answer ? "Fewer" : "More"} than that; ${helps(sheet)}`],
  },
  choice: {
    say: (sheet, answer) => `${answer}, ${sheet.options[answer].replace(/\.+$/, "")}`,
    miss: () => [],
  },
  pages: {
    say: (sheet, answer) => (answer.length ? `page${answer.length === 1 ? "" : "s"} ${runs(answer)}` : "no page"),
    miss(sheet, answer, given) {
      const extra = given.filter((page) => !answer.includes(page)).length;
      const missing = answer.filter((page) => !given.includes(page)).length;
      const said = [extra && `${extra} too many`, missing && `${missing} missing`].filter(Boolean).join(" and ");
      return [`${said}; ${helps(sheet)}`];
    },
  },
  sizes: {
    say: (sheet, answer) => answer.join(", ") || "nothing",
    miss(sheet, answer, given) {
      let at = 0;
      while (at < Math.min(given.length, answer.length) && given[at] === answer[at]) at++;
      if (at < given.length) {
        return [`The first ${at} are right; look again at number ${at + 1}, where you say ${given[at]}.`];
      }
      return [`The ${at} you name are right, but there are more.`];
    },
  },
};

const known = (right, given) => right.mistakes.filter(([answer]) => same(answer, given)).slice(0, 1).map(([, says]) => says);

function judgeCases(sheet, right, given) {
  const letters = keysOf(sheet, "cases");
  const said = letters.filter((letter) => given[letter] !== undefined);
  const wrong = said.filter((letter) => given[letter] !== right.cases[letter].truth);
  const open = letters.filter((letter) => !said.includes(letter));
  const rest = open.length ? [`Still open: ${open.join(", ")}.`] : [];
  const head = `${said.length - wrong.length} of ${letters.length} right.`;
  if (!wrong.length) return { kind: "right", head, lines: rest };
  const { wrong: told, picture } = right.cases[wrong[0]];
  const answer = given[wrong[0]];
  const lines = [
    `${wrong[0]}: ${sheet.cases[wrong[0]]}`,
    `You say ${answer}. ${told[answer] ?? "Look at the picture: what was asked, and what decided?"}`,
  ];
  if (wrong.length > 1) lines.push(`Not right either: ${wrong.slice(1).join(", ")}.`);
  return { kind: "wrong", head, lines: [...lines, ...rest], code: picture };
}

function judgePairs(sheet, right, given) {
  const letters = keysOf(sheet, "cases");
  const said = letters.filter((letter) => given[letter] !== undefined);
  const told = Object.fromEntries(said.map((letter) => [letter, right.pairs[letter].said[given[letter].join(" ")]]));
  const correct = said.filter((letter) => !told[letter]).length;
  const half = said.filter((letter) => told[letter] && given[letter][0] === right.pairs[letter].best);
  const still = letters.filter((letter) => !said.includes(letter));
  const lines = said.filter((letter) => told[letter]).map((letter) => `- ${letter}: ${told[letter]}`);
  if (still.length) lines.push(`Still open: ${still.join(", ")}.`);
  if (correct === said.length) lines.push(...said.map((letter) => right.pairs[letter].why));
  const head = `${correct} of ${letters.length} right` + (half.length ? `; ${half.join(", ")}: size right, reason not.` : ".");
  return { kind: correct === said.length ? "right" : "wrong", head, lines };
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function judgeOrder(right, given) {
  const cannot = (why) => ({ kind: "wrong", head: "Nobody can do it in that order.", lines: [`${capital(why.toLowerCase())}.`] });
  for (const [at, step] of given.entries()) {
    for (const [earlier, why] of Object.entries(right.before[step] ?? {})) {
      if (given.indexOf(earlier) >= at) return cannot(`'${step}' comes before '${earlier}': ${why}`);
    }
  }
  const without = (steps) => steps.filter((step) => !given.includes(step));
  const needed = without(right.needed);
  if (needed.length) return cannot(`without ${needed.map((step) => `'${step}'`).join(", ")} the fault is never finished`);
  const missing = without(right.asked);
  if (missing.length) return { kind: "wrong", head: `Some steps are missing: ${missing.join(", ")}.`, lines: [] };
  const [kind, head, lines, code] = right.orders[given.join(" ")];
  return { kind, head, lines, code };
}

// An interleaving, walked through the table of its race (anonfolio/lesson/races.py): its moments, or why it ends.
function ran(race, events) {
  const { nodes, texts } = race;
  const steps = race.rows.flatMap(([, , names]) => names);
  let at = 0;
  const moments = [{ says: "Before the first step.", damage: [], node: nodes[0], held: nodes[0][2] }];
  const go = (which, event) => {
    const edge = nodes[at][3][which];
    if (!Array.isArray(edge)) return edge === null ? "the table ends here; Python goes further" : texts[edge];
    at = edge[0];
    moments.push({ event, says: texts[edge[1]], damage: edge[2], node: nodes[at], held: nodes[at][2] });
  };
  for (const event of events) {
    if (Array.isArray(event)) {
      const stopped = go(1 + race.accesses.findIndex((access) => same(access, event)), event);
      if (stopped) return { stopped };
      continue;
    }
    const left = steps.slice(nodes[at][0]);
    if (!left.includes(event)) {
      return { stopped: `CPU 0 has no step '${event}' left; it still has to do: ${left.join(", ") || "nothing"}` };
    }
    for (const step of left.slice(0, left.indexOf(event) + 1)) go(0, ["cpu0", step]);
  }
  for (const step of steps.slice(nodes[at][0])) go(0, ["cpu0", step]);
  const [says, damage, held] = race.ends[at];
  moments.push({ says: texts[says], damage, node: nodes[at], held });
  const found = [...new Set(moments.flatMap((moment) => moment.damage))].map((one) => race.damage[one]);
  const first = (kind) => moments.findIndex((moment) => moment.damage.some((one) => !kind || race.damage[one][0] === kind));
  return { found, drawn: (kind) => drawnText(race, moments, first(kind)) };
}

// As `MicroPicture.text` writes it.
function drawnText(race, moments, found) {
  const last = moments.length - 1;
  const at = found < 0 ? last : found;
  const { event, says, damage, node: [done, locked], held } = moments[at];
  const before = at ? moments[at - 1].node[0] : done;
  const known = moments.slice(0, at).flatMap((moment) => moment.damage);
  const step = (name, number) => (number >= done ? `(${name})` : number >= before ? `[${name}]` : name);
  return [
    [race.name, at ? `step ${at} of ${last}` : `start, ${last} steps`, ...(event ? [event.join(" ")] : [])].join(" · "),
    says,
    ...damage.filter((one) => !known.includes(one)).map((one) => `!! ${capital(race.damage[one][0])}: ${race.damage[one][1]}`),
    ...race.rows.map(([name, first, names]) =>
      `CPU 0, ${name}: ${names.map((each, number) => step(each, first + number)).join(" ")}${locked ? "  (page-table lock held)" : ""}`),
    ...race.held[held].map((line) => race.texts[line]),
  ].join("\n");
}

function judgeEvents(sheet, right, given) {
  const names = keysOf(sheet, "hunts");
  const said = names.filter((name) => given[name] !== undefined);
  const shown = [];
  const soFar = () => (shown.length ? ["Shown so far:", ...shown] : []);
  let code = "";
  for (const name of said) {
    const { kind, nearly, race } = right.hunts[name];
    const run = ran(race, given[name]);
    if (run.stopped) return { kind: "wrong", head: `${name}: this cannot happen.`, lines: [`${run.stopped}.`, ...soFar()] };
    const harm = run.found.find(([what]) => what === kind);
    if (!harm) {
      const told = run.found.length ? `It shows a ${run.found[0][0]}: ${run.found[0][1]}` : "Nobody is harmed by that.";
      return { kind: "wrong", head: `${name}: no ${kind} yet.`, lines: [told, nearly, ...soFar()], code: run.drawn() };
    }
    shown.push(`- ${name}: ${harm[1]}`);
    code = run.drawn(kind);
  }
  const rest = names.filter((name) => !said.includes(name));
  const lines = [...shown, ...(rest.length ? [`Still open: ${rest.join(", ")}.`] : [])];
  return { kind: "right", head: `${said.length} of ${names.length} shown.`, lines, code };
}

// What `predict`, `check` and `compare` of a question say: a kind, a head, lines, perhaps a picture as text.
export const says = {
  predict: (sheet, right, given) => ({
    kind: "kept", head: `Kept: you say ${kinds[sheet.kind].say(sheet, given)}.`,
    lines: ["Read on; the answer comes in a moment."],
  }),
  check(sheet, right, given) {
    if (sheet.kind === "cases") return judgeCases(sheet, right, given);
    if (sheet.kind === "pairs") return judgePairs(sheet, right, given);
    if (sheet.kind === "events") return judgeEvents(sheet, right, given);
    if (sheet.kind === "order") {
      const said = judgeOrder(right, given);
      return { ...said, lines: said.lines.length ? said.lines : [helps(sheet)] };
    }
    const { say, miss } = kinds[sheet.kind];
    if (same(given, right.answer)) return { kind: "right", head: `Right: ${say(sheet, given)}.`, lines: right.why };
    const lines = [known(right, given), miss(sheet, right.answer, given), [helps(sheet)]].find((told) => told.length);
    return { kind: "wrong", head: `Not ${say(sheet, given)}.`, lines };
  },
  compare(sheet, right, given) {
    const { say } = kinds[sheet.kind];
    const answer = say(sheet, right.answer);
    if (same(given, right.answer)) return { kind: "right", head: `As you said: ${answer}.`, lines: right.why };
    const head = `You said ${say(sheet, given)}; it is ${answer}.`;
    return { kind: "wrong", head, lines: [...known(right, given), ...right.why] };
  },
  solution: (sheet, right) => ({ kind: "tell", head: `Solution of \`${sheet.name}\``, lines: right.solution }),
};

// --- what a reader has answered, kept in the browser ----------------------------------------------------------------

const STORE = "anonfolio-answers";
const FORMAT = "anonfolio-answers/1";
const MOST = 20;

const answers = {
  all() {
    try {
      const stored = JSON.parse(localStorage.getItem(STORE));
      return stored?.format === FORMAT && typeof stored.answers === "object" ? stored.answers : {};
    } catch {
      return this.lost ?? {}; // a browser that keeps nothing, or something of another kind
    }
  },
  of(id) {
    const entry = this.all()[id];
    return Array.isArray(entry?.given) && Array.isArray(entry?.right) ? entry : { given: [], right: [] };
  },
  change(sheet, how) {
    const all = this.all();
    all[sheet.id] = { kind: sheet.kind, hints: 0, shown: false, ...this.of(sheet.id), ...how(this.of(sheet.id)) };
    this.keep(all);
    dispatchEvent(new CustomEvent(STORE, { detail: sheet.id }));
  },
  keep(all) {
    this.lost = all;
    try {
      localStorage.setItem(STORE, JSON.stringify({ format: FORMAT, answers: all }));
    } catch {
      // It is still known until the page is left.
    }
  },
  add(sheet, given, right) {
    this.change(sheet, (entry) => {
      const again = entry.given.length && same(entry.given.at(-1), given);
      const all = { given: [...entry.given], right: [...entry.right] };
      if (again) all.right[all.right.length - 1] = right ?? all.right.at(-1);
      else all.given.push(given), all.right.push(right);
      if (all.given.length > MOST) all.given.splice(1, 1), all.right.splice(1, 1);
      return all;
    });
  },
  last(id) {
    return this.of(id).given.at(-1);
  },
  count() {
    return Object.values(this.all()).filter((entry) => entry?.given?.length).length;
  },
  score() {
    const told = Object.values(this.all()).filter((entry) => entry?.given?.length);
    const own = told.filter((entry) => !entry.shown);
    const right = own.filter((entry) => entry.right.at(-1) === true).length;
    return `${right} right of ${told.length} answered`;
  },
  save() {
    const text = `${JSON.stringify({ format: FORMAT, answers: this.all() }, null, 1)}\n`;
    const link = element("a", { download: `${STORE}.json`, href: URL.createObjectURL(new Blob([text])) });
    link.click();
    URL.revokeObjectURL(link.href);
  },
};

// --- elements -------------------------------------------------------------------------------------------------------

let made = 0;

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Words in which backticks mark code; never HTML.
function marked(words) {
  const parts = String(words).split("`");
  const closed = parts.length % 2 ? parts : [...parts.slice(0, -2), parts.slice(-2).join("`")];
  return closed.map((part, at) => (at % 2 ? element("code", {}, part) : part));
}

function noteOf({ kind, head, lines, code }) {
  const body = [];
  for (const line of lines) {
    if (!line.startsWith("- ")) body.push(element("p", {}, ...marked(line)));
    else {
      if (body.at(-1)?.tagName !== "UL") body.push(element("ul"));
      body.at(-1).append(element("li", {}, ...marked(line.slice(2))));
    }
  }
  if (code) body.push(element("pre", { tabindex: "0", "aria-label": "picture as text" }, code));
  return element("div", { class: `afq-note afq-${kind}` }, element("p", {}, element("strong", {}, ...marked(head))), ...body);
}

// --- how each kind is answered: an element, what it holds (null while it is no answer), how to fill it ---------------

const inputs = {
  number(sheet) {
    const field = element("input", {
      type: "text", inputmode: "numeric", autocomplete: "off", size: "8", "aria-label": `Your answer, in ${sheet.unit || "numbers"}`,
    });
    const read = () => (/^[+-]?\d[\d,_ ]*$/.test(field.value.trim()) ? Number(field.value.replace(/[,_ ]/g, "")) : null);
    return {
      node: element("label", { class: "afq-number" }, field, ` ${sheet.unit}`),
      read: () => (Number.isSafeInteger(read()) ? read() : null),
      fill: (given) => { field.value = given; },
      wanted: "Type a whole number.",
    };
  },

  choice(sheet) {
    const { node, read, fill } = oneOf(keysOf(sheet, "options"), "Answers", (letter) =>
      [element("kbd", {}, letter), " ", ...marked(sheet.options[letter])]);
    node.classList.add("afq-options");
    return { node, read, fill, wanted: "Choose one." };
  },

  pages(sheet) {
    const strip = element("div", { class: "afq-strip", role: "group", "aria-label": "Pages; arrow keys go, space chooses, Shift for a range" });
    const chosen = new Set();
    let from = 0;
    const cells = Array.from({ length: sheet.pages }, (_, page) =>
      element("button", { type: "button", "aria-pressed": "false", "aria-label": `page ${page}`, tabindex: page ? "-1" : "0" }, `${page}`));
    const set = (page, on) => {
      on ? chosen.add(page) : chosen.delete(page);
      cells[page].setAttribute("aria-pressed", `${on}`);
    };
    const choose = (page, range) => {
      if (!range) set(page, !chosen.has(page));
      else for (let at = Math.min(from, page); at <= Math.max(from, page); at++) set(at, chosen.has(from));
      if (!range) from = page;
    };
    const go = (page) => {
      if (!cells[page]) return;
      for (const cell of cells) cell.tabIndex = cell === cells[page] ? 0 : -1;
      cells[page].focus();
    };
    cells.forEach((cell, page) => {
      cell.addEventListener("click", (event) => { go(page); choose(page, event.shiftKey); });
      cell.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && !event.shiftKey) drag = page; });
      cell.addEventListener("pointerenter", (event) => {
        if (drag === null || !(event.buttons & 1) || drag === page) return;
        if (!dragged) { from = drag; set(from, !chosen.has(from)); dragged = true; }
        choose(page, true);
      });
    });
    let drag = null, dragged = false;
    strip.addEventListener("click", (event) => {
      if (dragged) event.stopPropagation();
      drag = null, dragged = false;
    }, true);
    strip.addEventListener("pointerleave", () => { drag = null, dragged = false; });
    strip.addEventListener("keydown", (event) => {
      const at = cells.indexOf(event.target);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + 16, ArrowUp: at - 16, Home: 0, End: cells.length - 1 }[event.key];
      if (to === undefined || at < 0) return;
      event.preventDefault();
      go(to);
      if (event.shiftKey && cells[to]) choose(to, true);
    });
    strip.append(...cells);
    const none = element("input", { type: "checkbox" });
    none.addEventListener("change", () => cells.forEach((_, page) => set(page, false)));
    return {
      node: element("div", {}, strip, element("label", { class: "afq-none" }, none, " no page")),
      read: () => (chosen.size || none.checked ? [...chosen].sort((one, other) => one - other) : null),
      fill(given) { cells.forEach((_, page) => set(page, given.includes(page))); none.checked = !given.length; },
      wanted: "Click the pages.",
    };
  },

  sizes(sheet) {
    const { list, row, read, fill } = growing(sheet.offers, "", (size) => `${size}`);
    return { node: element("div", {}, list, row), read, fill, wanted: "Choose the numbers in order." };
  },

  order(sheet) {
    const steps = keysOf(sheet, "steps");
    const { list, row, read, fill } = growing(steps, "", (step) => step, (step, chosen) => !chosen.includes(step));
    const told = steps.map((step) => element("li", {}, element("code", {}, step), ": ", ...marked(sheet.steps[step])));
    return {
      node: element("div", {}, element("ul", {}, ...told), list, row),
      read: () => (read() ? [...read(), sheet.last] : null),
      fill: (given) => fill(given.filter((step) => step !== sheet.last)),
      wanted: "Choose the steps in order.",
    };
  },

  events(sheet) {
    const words = (event) => {
      if (!Array.isArray(event)) return `CPU 0 to ${event}`;
      const [cpu, op, page, byte] = event;
      return `${cpu.replace("cpu", "CPU ")} ${op}s ${op === "read" ? `page ${page}` : `${byte} to page ${page}`}`;
    };
    const rows = keysOf(sheet, "hunts").map((letter) => {
      const { story, steps, accesses } = sheet.hunts[letter];
      const name = element("span", { id: `afq${++made}` }, element("kbd", {}, letter), " ", ...marked(story));
      // A step stands for all of CPU 0's up to it: those before it are over.
      const over = (step, chosen) => chosen.some((each) => steps.indexOf(each) >= steps.indexOf(step));
      const may = (event, chosen) => (Array.isArray(event)
        ? chosen.filter(Array.isArray).length < sheet.most : !over(event, chosen));
      const { list, row, read, fill } = growing([...steps, ...accesses], `${letter}: `, words, may);
      // What the others do begins a line of its own.
      row.children[steps.length].before(element("span", { class: "afq-break" }));
      return { letter, node: element("div", { class: "afq-case" }, name, list, row), read, fill };
    });
    return rowsOf(rows);
  },

  cases(sheet) {
    const rows = keysOf(sheet, "cases").map((letter) => {
      const story = sheet.cases[letter];
      const name = element("span", { id: `afq${++made}` }, element("kbd", {}, letter), " ", ...marked(story));
      if (!sheet.answers.length) {
        const field = element("input", { type: "text", inputmode: "numeric", autocomplete: "off", size: "6", "aria-labelledby": name.id });
        const read = () => (/^\s*[+-]?\d+\s*$/.test(field.value) ? `${Number(field.value)}` : null);
        return { letter, node: element("div", { class: "afq-case" }, name, field), read, fill: (given) => { field.value = given; } };
      }
      const one = oneOf(sheet.answers, "", (answer) => [answer], name.id);
      one.node.classList.add("afq-row");
      return { letter, ...one, node: element("div", { class: "afq-case" }, name, one.node) };
    });
    return rowsOf(rows);
  },

  pairs(sheet) {
    const rows = keysOf(sheet, "cases").map((letter) => {
      const story = sheet.cases[letter];
      const name = element("span", { id: `afq${++made}` }, element("kbd", {}, letter), " ", ...marked(story));
      const lists = [["size", sheet.sizes], ["against the next larger", keysOf(sheet, "reasons")]].map(([what, values]) =>
        element("select", { "aria-label": `${letter}: ${what}` }, element("option", { value: "" }, what),
          ...values.map((value) => element("option", { value }, sheet.reasons[value] ?? value))));
      const read = () => (lists.every((list) => list.value) ? lists.map((list) => list.value) : null);
      const fill = (given) => given.forEach((value, at) => { lists[at].value = value; });
      return { letter, node: element("div", { class: "afq-case" }, name, element("div", { class: "afq-row" }, ...lists)), read, fill };
    });
    return rowsOf(rows);
  },
};

// A list that a button for each value makes longer, and "Take back" shorter; `may` says which values can come next.
function growing(offers, about, say, may = () => true) {
  const values = [];
  const list = element("ol", { class: "afq-list", "aria-label": `${about}Your answer so far` });
  const button = (words, label, act) => {
    const node = element("button", { type: "button", "aria-label": `${about}${label}` }, words);
    node.addEventListener("click", () => { act(); show(); });
    return node;
  };
  const buttons = offers.map((value) => button(say(value), `then ${say(value)}`, () => { if (may(value, values)) values.push(value); }));
  const back = button("Take back", "Take back", () => values.pop());
  const show = () => {
    list.replaceChildren(...values.map((value) => element("li", {}, say(value))));
    // Not `disabled`: who goes by keyboard would lose her place.
    buttons.forEach((node, at) => node.setAttribute("aria-disabled", `${!may(offers[at], values)}`));
    back.setAttribute("aria-disabled", `${!values.length}`);
  };
  show();
  return {
    list,
    row: element("div", { class: "afq-row", role: "group", "aria-label": `${about}What comes next` }, ...buttons, back),
    read: () => (values.length ? [...values] : null),
    fill(given) { values.splice(0, values.length, ...given); show(); },
  };
}

function oneOf(values, label, words, labelledby = "") {
  const group = `afq${++made}`;
  const radios = values.map((value) => element("input", { type: "radio", name: group, value }));
  const labels = radios.map((radio, at) => element("label", {}, radio, element("span", {}, ...words(values[at]))));
  return {
    node: element("div", { role: "radiogroup", ...(labelledby ? { "aria-labelledby": labelledby } : { "aria-label": label }) }, ...labels),
    read: () => radios.find((radio) => radio.checked)?.value ?? null,
    fill: (given) => radios.forEach((radio) => { radio.checked = radio.value === given; }),
  };
}

function rowsOf(rows) {
  return {
    node: element("div", { class: "afq-cases" }, ...rows.map((row) => row.node)),
    read() {
      const said = rows.filter((row) => row.read() !== null).map((row) => [row.letter, row.read()]);
      return said.length ? Object.fromEntries(said) : null;
    },
    fill: (given) => rows.forEach((row) => { if (given[row.letter] !== undefined) row.fill(given[row.letter]); }),
    wanted: "Answer at least one.",
  };
}

// --- the card -------------------------------------------------------------------------------------------------------

async function render({ model, el, signal }) {
  const sheet = model.get("sheet");
  const mode = model.get("mode");
  const right = await unseal(sheet);
  const root = element("div", {
    class: "afq", role: "group", "aria-label": mode === "compare" ? `Answer of ${sheet.name}` : `Question ${sheet.name}`,
    "data-question": sheet.id, "data-lm-suppress-shortcuts": "true",
  });
  // JupyterLab must not take our keys for shortcuts of its own.
  root.addEventListener("keydown", (event) => { if (event.key !== "Escape") event.stopPropagation(); });
  const verdict = element("div", { class: "afq-verdict", "aria-live": "polite" });
  const foot = element("div", { class: "afq-foot" });
  const button = (words, act) => {
    const node = element("button", { type: "button" }, words);
    node.addEventListener("click", act);
    return node;
  };
  const tell = (...notes) => verdict.replaceChildren(...notes.map(noteOf));
  const send = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };
  const score = () => {
    const { shown } = answers.of(sheet.id);
    root.dataset.answered = `${Boolean(shown) || answers.last(sheet.id) !== undefined}`;
    foot.hidden = answers.last(sheet.id) === undefined;
    // How many are right would give away a prediction whose comparison is still to come.
    const told = mode === "predict" ? `${answers.count()} answered` : answers.score();
    foot.replaceChildren(element("span", {}, `${told} in this browser`), button("Save as JSON", () => answers.save()),
      button("Forget this one", () => {
        const all = answers.all();
        delete all[sheet.id];
        answers.keep(all);
        dispatchEvent(new CustomEvent(STORE, { detail: sheet.id }));
      }));
  };
  const showMe = () => {
    answers.change(sheet, () => ({ shown: true }));
    send({ shown: true });
  };

  if (mode === "compare") {
    const ask = button("Show me", showMe);
    const update = () => {
      const entry = answers.of(sheet.id);
      const given = entry.given.at(-1);
      if (given !== undefined) {
        const said = says.compare(sheet, right, given);
        if (entry.right.at(-1) === null) answers.add(sheet, given, said.kind === "right");
        tell(said);
      } else if (entry.shown) {
        tell({ ...says.solution(sheet, right), head: "You made no prediction: the next one teaches more if you do." });
      } else {
        tell({ kind: "ask", head: `You have not answered ${sheet.name} yet.`, lines: ["Answer above, or:"] });
        verdict.append(ask);
      }
      score();
    };
    root.append(verdict, foot);
    listen(update);
    update();
    el.append(root);
    return;
  }

  const input = inputs[sheet.kind](sheet);
  const form = element("form", { class: "afq-form" }, input.node);
  const hints = element("div", { class: "afq-hints", "aria-live": "polite" });
  const hint = button("Hint", () => {
    const number = Math.min(hints.childElementCount + 1, right.hints.length);
    if (hints.childElementCount < right.hints.length) {
      hints.append(element("p", {}, element("strong", {}, `Hint ${number} of ${right.hints.length}. `), ...marked(right.hints[number - 1])));
    }
    hint.hidden = number === right.hints.length;
    answers.change(sheet, (entry) => ({ hints: Math.max(entry.hints ?? 0, number) }));
    send({ hinted: Math.max(model.get("hinted"), number) });
  });
  const solve = button("Show me", () => { showMe(); tell(says.solution(sheet, right)); });
  form.append(element("div", { class: "afq-row afq-do" }, element("button", { type: "submit" }, "Answer"), ...(right.hints.length ? [hint] : []),
    ...(mode === "check" ? [solve] : [])));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (compared()) return;
    const given = input.read();
    if (given === null) return tell({ kind: "ask", head: input.wanted, lines: [] });
    const said = says[mode](sheet, right, given);
    answers.add(sheet, given, { right: true, wrong: false }[said.kind] ?? null);
    send({ given });
    tell(said);
  });
  // A prediction that was compared is none any more: what the reader had said stays, until she asks anew.
  const compared = () => mode === "predict" && typeof answers.of(sheet.id).right.at(-1) === "boolean";
  const fix = () => {
    const is = compared();
    for (const control of form.querySelectorAll("button, input, select")) control.disabled = is && control !== hint;
    if (is) tell({ ...says.predict(sheet, right, answers.last(sheet.id)), lines: ["It was compared, and stays; “Forget this one” asks anew."] });
  };
  const update = () => {
    const given = answers.last(sheet.id);
    if (given === undefined) {
      tell();
      if (model.get("given") !== null) send({ given: null });
    }
    fix();
    score();
  };
  listen(update);
  const before = answers.last(sheet.id);
  if (before !== undefined) {
    input.fill(before);
    tell(says[mode](sheet, right, before));
    if (model.get("given") === null) send({ given: before });
  }
  const unkept = element("p", { class: "afq-unkept" });
  const file = () => unkept.replaceChildren(model.get("unkept") ?? "");
  model.on("change:unkept", file);
  file();
  root.append(element("p", { class: "afq-prompt" }, ...marked(sheet.prompt)), form, hints, verdict, unkept, foot);
  fix();
  score();
  el.append(root);

  function listen(act) {
    addEventListener(STORE, (event) => { if (event.detail === sheet.id) act(); else score(); }, { signal });
    addEventListener("storage", (event) => { if (event.key === STORE) act(); }, { signal });
  }
}

export default { render };
