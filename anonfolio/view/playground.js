// Sends what was clicked to Python, which runs the program and draws it, and shows what comes back.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
const GROUPS = {
  access: "access", mapping: "change the mapping", memory: "memory", device: "device", reference: "plain reference",
  fork: "fork",
};
const WAIT = 4000;

function render({ model, el }) {
  const fixed = model.get("fixed");
  // Every widget is a module of its own, so no counter tells two apart.
  const id = `afg-${Math.random().toString(36).slice(2)}`;
  const stop = new AbortController();
  const on = (target, type, act, more = {}) => target.addEventListener(type, act, { signal: stop.signal, ...more });
  const now = () => model.get("view");

  // What only the browser knows: who is asked next, and what is marked. Pages are numbered as in the program.
  let process = 0, first = 0, last = 0, moving = null, answered = null, waiting = 0;

  // --- controls ---------------------------------------------------------------------------------------------------

  const root = element("section", {
    class: "afg", "aria-label": fixed.title,
    // JupyterLab must not take our keys for shortcuts of its own.
    "data-lm-suppress-shortcuts": "true",
  });
  const button = (label, act, attributes = {}) => {
    const made = element("button", { type: "button", ...attributes }, label);
    on(made, "click", () => made.getAttribute("aria-disabled") !== "true" && act());
    return made;
  };
  const labelled = (words, control) => element("label", { class: "afg-field" }, words, control);
  const number = (attributes) => element("input", { type: "number", ...attributes });

  const kernel = element("select", { class: "afg-policy" });
  const pages = number({ min: 1, max: fixed.most, class: "afg-pages" });
  const skew = number({ min: 0, max: 511, class: "afg-skew", title: "the mapping starts so many pages after a 2 MiB boundary" });
  const sizes = element("fieldset", { class: "afg-set" }, element("legend", {}, "sizes"));
  const about = element("p", { class: "afg-about" });
  // Said where it was asked for: Python names the place.
  const notes = Object.fromEntries(["use", "do", "change", "save", "search"].map((place) =>
    [place, element("p", { class: "afg-note", "data-for": place })]));
  const setup = element("div", { class: "afg-row" }, element("strong", { class: "afg-title" }, fixed.title), labelled("kernel", kernel));

  const tools = element("div", { class: "afg-row afg-tools", role: "radiogroup", "aria-label": "what a click does" });
  const choice = element("select", { class: "afg-choice", "aria-label": "which" });
  const radios = {};
  const radio = (tool) => {
    const made = radios[tool.name] = element("input", { type: "radio", name: `${id}-tool`, value: tool.name });
    on(made, "change", () => { moving = null; offer(); mark(); });
    return element("label", { class: "afg-tool", title: tool.help }, made, element("span", {}, tool.label));
  };
  const more = element("summary", {}, "More");
  const rest = element("details", { class: "afg-more" }, more);
  for (const [group, words] of Object.entries(GROUPS)) {
    rest.append(element("fieldset", { class: "afg-set" }, element("legend", {}, words),
      ...fixed.tools.filter((tool) => tool.group === group).map(radio)));
  }
  tools.append(...fixed.tools.filter((tool) => !tool.group).map(radio), choice, rest);
  radios.write.checked = true;
  on(choice, "change", () => mark());
  const tool = () => fixed.tools.find((tool) => radios[tool.name].checked);

  function offer() {
    const { group, label, choices } = tool();
    choice.hidden = !choices.length;
    choice.replaceChildren(...choices.map((name) => element("option", {}, name)));
    more.textContent = group ? `More: ${label}` : "More";
  }

  const people = element("div", { class: "afg-people" });
  const undo = button("Undo", () => ask({ verb: "undo" }), { title: "Ctrl+Z" });
  const redo = button("Redo", () => ask({ verb: "redo" }), { title: "Ctrl+Shift+Z" });
  const reset = button("Start over", () => ask({ verb: "reset" }));
  const from = number({ class: "afg-from", "aria-label": "first page" });
  const to = number({ class: "afg-to", "aria-label": "last page" });
  const act = button("", () => use(), { class: "afg-do" });
  const chosen = element("span", { class: "afg-chosen" }, "pages ", from, " to ", to, " ", act);
  const doing = element("div", { class: "afg-row" }, people, element("span", { class: "afg-gap" }), undo, redo, reset);
  const select = element("div", { class: "afg-row" }, chosen);

  const offline = element("p", { class: "afg-offline", hidden: "" },
    "This is a stored picture. To play, it needs a running notebook: open it in JupyterLab and run this cell.");
  const broken = element("div", { class: "afg-broken", role: "alert" });
  const live = element("p", { class: "afg-live", "aria-live": "polite" });
  const view = element("div", {
    class: "afg-view", tabindex: "0", role: "application",
    "aria-label": "page tables: arrow keys choose a page, Shift with them more pages, Enter or Space does what is " +
      "chosen above, Ctrl+Z undoes",
  });
  const typed = element("input", { type: "text", class: "afg-typed", placeholder: "write 0 0..15", spellcheck: "false" });
  const name = element("input", { type: "text", class: "afg-name", value: "my-program", spellcheck: "false" });
  const text = element("textarea", { class: "afg-text", readonly: "", rows: "8", spellcheck: "false", "aria-label": "the program" });
  const copied = element("span", { class: "afg-copied", "aria-live": "polite" });
  const download = element("a", { class: "afg-link", href: "#" }, "Download");
  const howMany = number({ min: 1, max: 6, value: 3, class: "afg-depth" });
  const seconds = number({ min: 1, max: 120, value: 20, class: "afg-seconds" });
  const whence = element("select", { class: "afg-whence", "aria-label": "where the search begins" },
    element("option", { value: "here" }, "after this program"), element("option", { value: "nothing" }, "from nothing, on 4 pages"));
  const hand = button("Search", () => (now().searching ? ask({ verb: "cancel" }) : search()), { class: "afg-search" });
  const size = element("summary");
  const mapping = element("details", { class: "afg-fold" }, size,
    element("div", { class: "afg-row" }, labelled("pages", pages), labelled("begins so many pages past 2 MiB", skew), sizes), about, notes.change);
  const summary = element("summary");
  const program = element("details", { class: "afg-fold afg-program" }, summary,
    element("div", { class: "afg-row" }, labelled("type a step", typed), button("Do it", () => type())), notes.do,
    text,
    element("div", { class: "afg-row" },
      button("Copy scenario", () => copy(now().text, "scenario")), button("Copy as code", () => copy(now().code, "code")),
      download, labelled("name", name), button("Save", () => ask({ verb: "save", name: name.value.trim() })), copied), notes.save,
    element("div", { class: "afg-row" },
      hand, labelled("for at most", howMany), "steps that break a promise,", whence, labelled("within", seconds), "seconds"),
    notes.search);

  // Python has it, and is asked when one opens it.
  const meanings = element("div", { class: "afg-legend" });
  const legend = element("details", { class: "afg-fold" }, element("summary", {}, "Legend"), meanings);
  on(legend, "toggle", () => { if (legend.open && !meanings.firstChild) ask({ verb: "legend" }); });
  root.append(setup, tools, offline, view, notes.use, broken, live, doing, select, mapping, program, legend);
  el.append(root);

  // --- asking Python ----------------------------------------------------------------------------------------------

  let asked = "use";

  function ask(message) {
    asked = message.verb in notes ? message.verb : "use";
    clearTimeout(waiting);
    try {
      model.send(message);
    } catch {
      return silent();
    }
    waiting = setTimeout(silent, WAIT);
    return undefined;
  }

  function silent() {
    offline.hidden = false;
    root.dataset.kernel = "none";
    if (answered) say("wrong", "No answer. Is the kernel busy with another cell, or has it stopped?", asked);
  }

  function heard(message) {
    if (message?.searched) say("ask", message.searched, "search");
    if (message?.legend) meanings.innerHTML = message.legend;
    clearTimeout(waiting);
    answered = true;
    offline.hidden = true;
    root.dataset.kernel = "there";
  }

  function say(kind, words, place = "use") {
    for (const [where, note] of Object.entries(notes)) {
      note.textContent = where === place ? words : "";
      note.dataset.kind = kind;
    }
    live.textContent = words;
  }

  function use() {
    const chosen = tool().name;
    const message = { verb: "use", tool: chosen, process, first, last, choice: choice.value };
    if (chosen === "mremap") {
      if (!moving) {
        moving = { process, first, last };
        mark();
        return say("ask", `Moving ${these(first, last)} of process ${process}: now choose the page where they are to begin. Escape gives up.`);
      }
      Object.assign(message, moving, { to: first });
      moving = null;
    }
    return ask(message);
  }

  function type() {
    const step = typed.value.trim();
    if (!step) return;
    typed.value = "";
    ask({ verb: "do", step });
  }

  function search() {
    const patience = Math.min(Math.max(Number(seconds.value) || 20, 1), 120);
    ask({ verb: "search", steps: Math.max(Number(howMany.value) || 1, 1), seconds: patience, here: whence.value === "here" });
  }

  async function copy(words, what) {
    text.value = words;
    text.rows = Math.min(14, words.split("\n").length);
    try {
      await navigator.clipboard.writeText(words);
      copied.textContent = `Copied the ${what}.`;
    } catch {
      // No clipboard without a secure context: leave it marked, ready for Ctrl+C.
      text.focus();
      text.select();
      copied.textContent = `The ${what} is marked: copy it with Ctrl+C.`;
    }
  }

  on(download, "click", (event) => {
    event.preventDefault();
    const link = element("a", {
      href: URL.createObjectURL(new Blob([now().text], { type: "text/plain" })),
      download: `${name.value.trim() || "program"}.scenario`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  // --- the picture ------------------------------------------------------------------------------------------------

  const base = () => now().skew;
  const clamp = (page) => Math.min(Math.max(page, 0), now().pages - 1);
  const these = (lo, hi) => lo === hi ? `page ${lo + base()}` : `pages ${lo + base()}–${hi + base()}`;

  // A cell of many pages has all of them, from its left to its right.
  const cells = (who) => [...view.querySelectorAll(`[data-process="${who}"][data-page]`)];
  const spanOf = (cell) => [Number(cell.dataset.page), Number(cell.dataset.last ?? cell.dataset.page)];
  const cellAt = (who, vpn) => cells(who).find((cell) => spanOf(cell)[0] <= vpn && vpn <= spanOf(cell)[1]);
  const boxOf = (cell) => Object.fromEntries(["x", "y", "width", "height"].map((key) => [key, Number(cell.querySelector("rect").getAttribute(key))]));

  // Pages that are not mapped have no cell; here they get a place to click.
  function fillHoles(who) {
    const { columns, pitch, left } = now(), there = new Set(), rows = new Map();
    for (const cell of cells(who)) {
      const [lo, hi] = spanOf(cell);
      for (let vpn = lo; vpn <= hi; vpn++) there.add(vpn);
      if (lo === hi) rows.set(Math.floor(lo / columns), boxOf(cell));
    }
    for (let vpn = base(); vpn < base() + now().pages; vpn++) {
      const row = rows.get(Math.floor(vpn / columns));
      if (there.has(vpn) || !row) continue;
      const hole = document.createElementNS(SVG, "g");
      hole.dataset.process = who;
      hole.dataset.page = vpn;
      hole.setAttribute("class", "afg-hole");
      const x = left + (vpn % columns) * pitch;
      hole.innerHTML = `<title>page ${vpn}: not mapped</title>` +
        `<rect x="${x}" y="${row.y}" width="${pitch - 2}" height="${row.height}" rx="3"/>`;
      view.firstChild.append(hole);
    }
  }

  function ring(cell, lo, hi, source) {
    const [begin, end] = spanOf(cell), box = boxOf(cell), wide = box.width / (end - begin + 1);
    const x = box.x + wide * (Math.max(lo, begin) - begin), right = box.x + wide * (Math.min(hi, end) - begin + 1);
    const made = document.createElementNS(SVG, "rect");
    const size = { x: x - 2, y: box.y - 2, width: right - x + 4, height: box.height + 4, rx: 5 };
    for (const [key, value] of Object.entries(size)) made.setAttribute(key, value);
    made.setAttribute("class", `afg-mark${source ? " afg-source" : ""}`);
    view.firstChild.append(made);
  }

  function mark() {
    for (const old of view.querySelectorAll(".afg-mark")) old.remove();
    for (const [source, one] of [[true, moving], [false, { process, first, last }]]) {
      if (!one) continue;
      const lo = one.first + base(), hi = one.last + base();
      for (const cell of cells(one.process)) {
        const [begin, end] = spanOf(cell);
        if (begin <= hi && lo <= end) ring(cell, lo, hi, source);
      }
    }
    from.min = to.min = base();
    from.max = to.max = base() + now().pages - 1;
    from.value = first + base();
    to.value = last + base();
    const to_ = moving ? `to page ${first + base()}` : these(first, last);
    const what = choice.hidden ? tool().label : `${tool().label} ${choice.value}`;
    act.textContent = `${what}: P${process}, ${to_}`;
    root.dataset.chosen = `${process} ${first} ${last}`;
  }

  function choose(who, lo, hi) {
    process = who;
    [first, last] = [clamp(Math.min(lo, hi)), clamp(Math.max(lo, hi))];
    mark();
  }

  function describe() {
    const cell = cellAt(process, head + base());
    const what = cell?.querySelector("title")?.textContent ?? `page ${head + base()}: not mapped`;
    live.textContent = `Process ${process}, ${what}${first === last ? "" : `; ${these(first, last)} chosen`}.`;
  }

  const under = (event) => {
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest?.("[data-process][data-page]");
    if (!cell || !view.contains(cell)) return null;
    const [lo, hi] = spanOf(cell), box = cell.querySelector("rect").getBoundingClientRect();
    const into = Math.floor((event.clientX - box.left) / box.width * (hi - lo + 1));
    return [Number(cell.dataset.process), Math.min(Math.max(lo + into, lo), hi) - base()];
  };

  // Why a click did nothing.
  function beside(target) {
    const frame = target.closest?.("[data-frame]:not([data-process])");
    if (frame) return `That is memory, ${frame.dataset.frame}: a process reads and writes it through a page in its own row, above or below.`;
    return "There is no page. Click one in the row of a process, P0 or another.";
  }
  // The end that stays, and the one that moves, of what is being chosen.
  let anchor = 0, head = 0, dragging = false;

  on(view, "pointerdown", (event) => {
    if (event.button !== 0) return;
    const hit = under(event);
    if (!hit) return void say("ask", beside(event.target));
    event.preventDefault();
    view.focus({ preventScroll: true });
    const [who, page] = hit;
    if (!(event.shiftKey && who === process)) anchor = page;
    head = page;
    dragging = true;
    choose(who, anchor, page);
  });
  on(view, "pointermove", (event) => {
    const hit = dragging && under(event);
    if (!hit || hit[0] !== process || hit[1] === head) return;
    head = hit[1];
    choose(process, anchor, head);
  });
  on(window, "pointerup", () => {
    if (!dragging) return;
    dragging = false;
    use();
  });
  on(window, "pointercancel", () => { dragging = false; });

  const alive = () => now().processes.flatMap((lives, number) => lives ? [number] : []);

  function step(key, extend) {
    const columns = now().columns;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity }[key];
    let page = head + by, who = process;
    if (Math.abs(by) === columns && page !== clamp(page) && !extend) {
      // Beyond the last row of a process comes the next process.
      const others = alive().filter((other) => by > 0 ? other > process : other < process);
      if (!others.length) return;
      who = by > 0 ? others[0] : others[others.length - 1];
      page = head;
    }
    head = clamp(page);
    if (!extend || who !== process) anchor = head;
    choose(who, anchor, head);
    describe();
  }

  on(view, "keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") step(event.key, event.shiftKey);
    else if (event.key === "Enter" || event.key === " ") use();
    else return;
    event.preventDefault();
  });

  // --- keys and fields ------------------------------------------------------------------------------------------

  on(root, "keydown", (event) => {
    if (event.key === "Escape" && (moving || dragging)) {
      moving = null;
      dragging = false;
      mark();
      say("did", "Nothing is moved.");
      event.stopPropagation();
      return;
    }
    const inText = event.target.matches("input[type=text], input[type=number], textarea");
    if ((event.ctrlKey || event.metaKey) && !event.altKey && !inText && "zy".includes(event.key.toLowerCase())) {
      ask({ verb: event.key.toLowerCase() === "y" || event.shiftKey ? "redo" : "undo" });
      event.preventDefault();
      event.stopPropagation();
    } else if (!event.ctrlKey && !event.metaKey && !event.altKey && event.key !== "Tab" && event.key !== "Escape") {
      event.stopPropagation();
    }
  });
  on(typed, "keydown", (event) => { if (event.key === "Enter") type(); });
  on(name, "keydown", (event) => { if (event.key === "Enter") ask({ verb: "save", name: name.value.trim() }); });
  on(kernel, "change", () => ask({ verb: "change", policy: kernel.value }));
  on(pages, "change", () => ask({ verb: "change", pages: Number(pages.value) }));
  on(skew, "change", () => ask({ verb: "change", skew: Number(skew.value) }));
  on(sizes, "change", () =>
    ask({ verb: "change", orders: [...sizes.querySelectorAll("input:checked")].map((box) => Number(box.value)) }));
  on(from, "change", () => { anchor = head = Number(from.value) - base(); choose(process, anchor, Math.max(anchor, last)); });
  on(to, "change", () => { head = Number(to.value) - base(); choose(process, Math.min(first, head), head); });

  // --- showing ----------------------------------------------------------------------------------------------------

  function showSizes(orders) {
    const boxes = fixed.sizes.map(([order, words]) => {
      const box = element("input", { type: "checkbox", value: order });
      box.checked = orders.includes(order);
      return element("label", { class: "afg-size" }, box, words);
    });
    const focused = [...sizes.querySelectorAll("input")].find((box) => box === document.activeElement)?.value;
    sizes.replaceChildren(sizes.firstChild, ...boxes);
    if (focused) sizes.querySelector(`input[value="${focused}"]`)?.focus();
  }

  function showPeople(processes) {
    const focused = people.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    people.replaceChildren(...processes.map((lives, number) => {
      const who = element("span", { class: "afg-person", "data-who": number }, element("strong", {}, `P${number}`));
      if (!lives) who.append(" exited");
      else {
        who.append(
          button("Fork", () => ask({ verb: "fork", process: number }), { "aria-label": `Fork process ${number}`, "data-key": `fork${number}` }),
          button("Exit", () => ask({ verb: "exit", process: number }), { "aria-label": `Exit process ${number}`, "data-key": `exit${number}` }));
      }
      return who;
    }));
    // The buttons are new ones: the focus stays where it was, or goes to the page tables when its process is gone.
    if (focused) (people.querySelector(`[data-key="${focused}"]`) ?? view).focus();
  }

  const sizeWords = (orders) => fixed.sizes.filter(([order]) => orders.includes(order)).map(([, words]) => words).join(", ");

  function draw() {
    const state = now();
    kernel.replaceChildren(...state.policies.map((name) => element("option", {}, name)));
    kernel.value = state.policy;
    about.textContent = state.about;
    pages.value = state.pages;
    skew.value = state.skew;
    showSizes(state.orders);
    showPeople(state.processes);
    if (!state.processes[process]) process = Math.max(0, state.processes.findIndex(Boolean));
    if (moving && !state.processes[moving.process]) moving = null;
    [first, last, anchor, head] = [first, last, anchor, head].map(clamp);
    undo.setAttribute("aria-disabled", state.undo === 0);
    redo.setAttribute("aria-disabled", state.redo === 0);
    reset.setAttribute("aria-disabled", state.steps === 0);
    undo.textContent = state.undo ? `Undo (${state.undo})` : "Undo";
    redo.textContent = state.redo ? `Redo (${state.redo})` : "Redo";

    const begin = "Click a page and process 0 writes it. Drag, or click with Shift, for several pages.";
    const [kind, words, place] = state.steps || state.note[1] ? state.note : ["did", begin, "use"];
    say(kind, words, place);
    // An alert is read out whenever it changes: once is enough.
    if (broken.dataset.said !== state.broken) {
      broken.dataset.said = state.broken;
      broken.replaceChildren(...(state.broken ? [element("strong", {}, `Broken promise: ${state.broken}.`), " ", state.why] : []));
    }
    live.textContent = [kind === "wrong" ? words : "", state.sentence, kind === "wrong" ? "" : words].filter(Boolean).join(" ");
    view.innerHTML = state.svg;
    view.classList.toggle("afg-refused", state.refused);
    state.processes.forEach((lives, who) => lives && fillHoles(who));
    hand.textContent = state.searching ? "Cancel" : "Search";
    size.textContent = `Mapping: ${state.pages} pages, ${state.orders.length ? `sizes ${sizeWords(state.orders)}` : "4 KiB only"}`;
    summary.textContent = `Program: ${state.steps} step${state.steps === 1 ? "" : "s"} (type, save, copy, search)`;
    text.value = state.text;
    text.rows = Math.min(14, state.text.split("\n").length);
    copied.textContent = "";
    root.dataset.turn = state.turn;
    root.dataset.steps = state.steps;
    mark();
  }

  const changed = () => { heard(); draw(); };
  model.on("change:view", changed);
  model.on("msg:custom", heard);
  offer();
  draw();
  // A stored widget looks as if it could be played with: ask whether somebody is there.
  ask({ verb: "hello" });
  return () => {
    stop.abort();
    clearTimeout(waiting);
    model.off("change:view", changed);
    model.off("msg:custom", heard);
  };
}

export default { render };
