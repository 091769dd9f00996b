// Shows one moment of a timeline, and moves to the next. Python drew every piece; here they are only put in their place.

const SPEEDS = { slow: 2000, medium: 1000, fast: 400 }; // milliseconds a step
const MOTION = 250; // milliseconds
// Each shape that moves is an animation of its own (0.1 ms and more to begin it). Where a step changes more of them than
// this, it is a jump to the same end: a fork of 512 pages would hold the page up for a third of a second. Below it are
// all steps of the notebooks.
const MOST_MOVING = 160;
const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  First: "M3 3v10M12.5 3.5L6 8l6.5 4.5z", Back: "M11 3.5L4.500 8l6.5 4.5z", Play: "M4.500 3l8 5-8 5z",
  Pause: "M5 3.5v9M11 3.5v9", Next: "M5 3.5L11.5 8 5 12.5z", Last: "M13 3v10M3.5 3.5L10 8l-6.5 4.5z",
};

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function icon(name) {
  const made = drawn("svg", { viewBox: "0 0 16 16", class: "afs-icon", "aria-hidden": "true" });
  made.append(drawn("path", { d: ICONS[name] }));
  return made;
}

const ascending = (steps) => [...new Set(steps)].map(Number).sort((a, b) => a - b);

// --- a picture ---

/**
 * A picture that goes from moment to moment. What it holds has keys, the same at all moments: a step changes a few pieces
 * of hundreds, and those alone are touched. Motion is shown on top; what is in the picture is at its end at once.
 */
function painter(into, { width, height, shown_px: shownPx, moments }, pieces) {
  const svg = into.appendChild(drawn("svg", {
    viewBox: `0 0 ${width} ${height}`, class: "afp", role: "img", style: `max-width:${shownPx}px`,
  }));
  const still = svg.appendChild(drawn("g"));
  const moving = svg.appendChild(drawn("g", { class: "afs-moving", "aria-hidden": "true" }));
  const parsed = new Map();
  const nodes = []; // key -> the element shown
  let shown = []; // key -> its piece, or undefined
  let running = [];
  const states = []; // moment -> what every key holds
  for (const changes of moments) {
    const state = states.length ? states[states.length - 1].slice() : [];
    for (let at = 0; at < changes.length; at += 2) state[changes[at]] = changes[at + 1] < 0 ? undefined : changes[at + 1];
    states.push(state);
  }

  // What is new is parsed in one go: one by one, a thousand pages take three times as long.
  function parse(numbers) {
    const template = document.createElement("template");
    template.innerHTML = `<svg>${numbers.map((number) => pieces[number]).join("")}</svg>`;
    const made = template.content.firstChild.children;
    numbers.forEach((number, at) => parsed.set(number, made[at]));
  }

  const make = (number) => document.importNode(parsed.get(number), true);

  function stop() {
    for (const one of running) one.cancel();
    running = [];
    moving.replaceChildren();
  }

  function put(wanted) {
    const came = [], went = [];
    let next = null;
    const fresh = new Set(wanted.filter((number, key) => number !== undefined && shown[key] !== number && !parsed.has(number)));
    if (fresh.size) parse([...fresh]);
    for (let key = Math.max(wanted.length, shown.length) - 1; key >= 0; key--) {
      if (shown[key] !== wanted[key]) {
        const old = nodes[key];
        if (old) old.remove();
        nodes[key] = wanted[key] === undefined ? undefined : make(wanted[key]);
        if (nodes[key]) still.insertBefore(nodes[key], next);
        if (old && (!nodes[key] || old.dataset.ribbon)) went.push(old);
        if (nodes[key] && !old) came.push(nodes[key]);
      }
      if (nodes[key]) next = nodes[key];
    }
    shown = wanted;
    return [came, went];
  }

  const end = (ribbon) => ({ transformBox: "fill-box", transformOrigin: ribbon.dataset.ribbon === "0" ? "bottom" : "top" });

  function animate(node, frames, options = {}) {
    running.push(node.animate(frames, { duration: MOTION, easing: "ease-out", ...options }));
  }

  function move(came, went) {
    const of = (nodes) => new Set([...nodes].map((node) => node.dataset.of).filter(Boolean));
    const were = of(went), are = of(still.querySelectorAll("[data-ribbon]"));
    for (const node of went) {
      moving.append(node);
      // A ribbon lets go of its pages and goes back into the folio; one that only became narrower fades where it was.
      const leaves = node.dataset.ribbon && !are.has(node.dataset.of);
      if (leaves) Object.assign(node.style, end(node));
      animate(node, [{ opacity: 1 }, leaves ? { opacity: 0, transform: "scaleY(0.3)" } : { opacity: 0 }], { fill: "forwards" });
    }
    const travel = new Map();
    for (const node of came) {
      if (node.dataset.copy) for (const name of node.dataset.to.split(" ")) travel.set(name, node.dataset.copy.split(" "));
    }
    for (const node of came) {
      const from = node.dataset.process === undefined && travel.get(node.dataset.frame);
      if (from) animate(node, [{ transform: `translate(${from[0]}px, ${from[1]}px)` }, { transform: "none" }]);
      else if (node.dataset.ribbon && were.has(node.dataset.of)) continue;
      else if (node.dataset.ribbon) {
        animate(node, [{ opacity: 0, transform: "scaleY(0.3)", ...end(node) }, { opacity: 1, transform: "none", ...end(node) }]);
      } else if (node.matches(".afp-pen")) {
        const place = { transformBox: "fill-box", transformOrigin: "center" };
        animate(node, [{ transform: "scaleX(0)", ...place }, { transform: "none", ...place }]);
      } else animate(node, [{ opacity: 0 }, { opacity: 1 }]);
    }
    Promise.allSettled(running.map((one) => one.finished)).then((ends) => {
      if (ends.every(({ status }) => status === "fulfilled")) stop();
    });
  }

  return {
    svg,
    moving,
    stop,
    show(moment, sentence, moves) {
      stop();
      svg.setAttribute("aria-label", sentence);
      const [came, went] = put(states[moment]);
      if (moves && came.length + went.length <= MOST_MOVING) move(came, went);
    },
  };
}

// --- what a page is: lit up under the mouse, a finger or the keyboard ---

function pointer(pane, at, view, { since, tell }) {
  const { svg } = pane;
  const marks = svg.appendChild(drawn("g", { class: "afs-lit", "aria-hidden": "true" }));
  const lines = marks.appendChild(drawn("path", { class: "afs-lines" }));
  let held = null; // [process, page] or [null, frame]: where one points

  const cells = () => [...svg.querySelectorAll("[data-process][data-page]")];
  const box = (node) => node.querySelector("rect").getBBox();
  const find = () => held && (held.length === 1 ? svg.querySelector(`[data-folio="${held[0]}"]`) : held[0] === null
    ? [...svg.querySelectorAll("[data-frame]:not([data-process])")].find((one) => one.dataset.frame === held[1])
    : cells().find((one) => Number(one.dataset.process) === held[0] && Number(one.dataset.page) === held[1]));

  function draw() {
    for (const old of marks.querySelectorAll("rect")) old.remove();
    lines.removeAttribute("d");
    const node = find();
    svg.classList.toggle("afs-why", false);
    if (!node) return tell(at, "");
    if (node.dataset.folio) return tell(at, `${node.querySelector("title").textContent}.`);
    const name = node.dataset.frame;
    const same = name ? [...svg.querySelectorAll("[data-frame]")].filter((one) => one.dataset.frame === name) : [node];
    const frame = same.find((one) => one.dataset.process === undefined);
    const mappers = same.filter((one) => one.dataset.process !== undefined);
    for (const one of same) {
      const { x, y, width, height } = box(one);
      marks.append(drawn("rect", { x: x - 2, y: y - 2, width: width + 4, height: height + 4, rx: 4 }));
    }
    if (frame) {
      const to = box(frame);
      lines.setAttribute("d", mappers.map((one) => {
        const from = box(one), above = from.y < to.y;
        return `M${from.x + from.width / 2} ${above ? from.y + from.height : from.y}L${to.x + to.width / 2} ${above ? to.y : to.y + to.height}`;
      }).join(""));
    }
    const title = (one) => one.querySelector("title")?.textContent ?? "";
    const folio = name && [...svg.querySelectorAll("[data-folio]")].find((one) => one.dataset.folio === name.replace(/\d+$/, ""));
    const where = mappers.map((one) => `P${one.dataset.process} page ${one.dataset.page}`);
    const first = held[0] === null ? mappers[0] : node;
    const decided = first && since(at, Number(first.dataset.process), Number(first.dataset.page));
    svg.classList.toggle("afs-why", Boolean(decided?.now));
    return tell(at, [
      held[0] === null ? title(node) : `P${held[0]} ${title(node)}`,
      held[0] !== null && frame ? title(frame) : "",
      where.length > 1 || held[0] === null ? `mapped by ${where.join(", ") || "nobody"}` : "",
      folio ? title(folio) : "",
      decided ? decided.words : "",
    ].filter(Boolean).join("; ") + ".");
  }

  function hold(node) {
    held = !node ? null : node.dataset.folio ? [node.dataset.folio] : node.dataset.process === undefined ? [null, node.dataset.frame]
      : [Number(node.dataset.process), Number(node.dataset.page)];
    draw();
  }

  // The keyboard: left and right within a process, up and down to the next one.
  function go(key) {
    const all = cells().map((one) => [Number(one.dataset.process), Number(one.dataset.page), one]);
    if (!all.length) return;
    const here = all.find(([process, page]) => held && process === held[0] && page === held[1]);
    const order = [...new Set(all.map(([process]) => process))].sort((a, b) => box(all.find(([who]) => who === a)[2]).y - box(all.find(([who]) => who === b)[2]).y);
    if (!here) return hold(all.find(([process]) => process === order[0])[2]);
    const [process, page] = here;
    const mine = all.filter(([who]) => who === process).sort((a, b) => a[1] - b[1]);
    const place = mine.indexOf(mine.find(([, one]) => one === page));
    if (key === "ArrowLeft" || key === "ArrowRight") {
      return hold(mine[Math.min(Math.max(place + (key === "ArrowLeft" ? -1 : 1), 0), mine.length - 1)][2]);
    }
    const other = order[order.indexOf(process) + (key === "ArrowUp" ? -1 : 1)];
    const theirs = all.filter(([who]) => who === other);
    if (theirs.length) hold(theirs.reduce((a, b) => (Math.abs(b[1] - page) < Math.abs(a[1] - page) ? b : a))[2]);
  }

  return { hold, go, draw, isOn: () => held !== null, node: (target) => target.closest?.("[data-frame], [data-page], [data-folio]") };
}

// --- the widget ---

// What is shown travels deflated (`packed` of program.py): it repeats itself.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

async function render({ model, el }) {
  const {
    title, pieces, panes, labels, abouts, said, differences, faulting, asked, choices, panel, panel_title: panelTitle,
    program, decided, lines, texts, counters, legend,
  } = await unpack(model.get("frames"));
  const last = panes[0].moments.length - 1;
  const firstDifferences = differences.map((pane) => ascending(Object.keys(pane))[0]);
  const differing = ascending(firstDifferences.filter((step) => step !== undefined));
  const stop = new AbortController();
  const on = (target, type, act) => target.addEventListener(type, act, { signal: stop.signal });
  const now = () => Math.min(Math.max(model.get("step"), 0), last);

  // --- what there is to see and to press ---

  const root = element("section", {
    class: "afs", tabindex: "0", "aria-label": `${title}: use the arrow keys, Home, End and space to step and play`,
    // JupyterLab must not take our keys for shortcuts of its own.
    "data-lm-suppress-shortcuts": "true",
  });
  const pressed = (made, act) => {
    on(made, "click", act);
    return made;
  };
  const button = (label, keys, act) => pressed(element("button", { type: "button", title: `${label} (${keys})` }, label), act);
  const iconButton = (label, keys, act) => {
    const made = element("button", { type: "button", title: `${label} (${keys})`, "aria-label": label });
    made.append(icon(label));
    return pressed(made, act);
  };
  const to = {
    first: () => 0, back: () => now() - 1, next: () => now() + 1, last: () => last,
    nextFault: () => faulting.find((step) => step > now()),
    previousFault: () => faulting.findLast((step) => step < now()),
    difference: () => differing.find((step) => step > now()) ?? differing[0],
  };
  const bar = element("div", { class: "afs-bar" });
  const first = iconButton("First", "Home", () => go(to.first()));
  const back = iconButton("Back", "←", () => go(to.back()));
  const play = iconButton("Play", "space", () => (timer ? pause() : start()));
  const next = iconButton("Next", "→", () => go(to.next()));
  const final = iconButton("Last", "End", () => go(to.last()));
  const slider = element("input", { type: "range", min: 0, max: last, step: 1, "aria-label": "step" });
  const slide = element("div", { class: "afs-slide" }, slider);
  const mark = (step, kind, words) => {
    const made = element("span", { class: `afs-mark afs-${kind}`, title: words, "aria-hidden": "true" });
    made.style.setProperty("--at", last ? step / last : 0);
    slide.append(made);
  };
  for (const step of faulting) mark(step, "fault", `step ${step}: a fault`);
  for (const step of differing) mark(step, "differ", `step ${step}: they begin to differ`);
  const place = element("output", { class: "afs-place" });
  const previousFault = button("Previous fault", "b", () => go(to.previousFault()));
  const nextFault = button("Next fault", "f", () => go(to.nextFault()));
  const difference = button("First difference", "d", () => go(to.difference()));
  const predict = button("Predict", "p", () => togglePredict());
  const speed = element("select", { "aria-label": "speed", title: "how fast it plays" });
  for (const name of Object.keys(SPEEDS)) speed.append(element("option", { value: name }, name));
  // Who asked for less motion gets the most time for each picture.
  speed.value = matchMedia("(prefers-reduced-motion: reduce)").matches ? "slow" : "medium";
  const link = button("Link to this step", "l", () => copyLink());
  const menu = element("div", { class: "afs-menu" });
  if (faulting.length) menu.append(previousFault, nextFault);
  if (differing.length) menu.append(difference);
  menu.append(element("label", {}, "speed ", speed), link);
  const more = element("details", { class: "afs-more" }, element("summary", { title: "more" }, "⋯"), menu);
  bar.append(first, back, play, next, final, slide, place);
  if (Object.keys(asked).length) bar.append(predict);
  bar.append(more);

  const ask = element("div", { class: "afs-ask", role: "group", "aria-label": "predict" });
  const question = element("p", { class: "afs-question" });
  const answers = element("div", { class: "afs-answers" });
  [...choices, "show me"].forEach((choice, at) => {
    const key = choice === "show me" ? "0" : `${at + 1}`;
    const made = element("button", { type: "button", "aria-keyshortcuts": key }, choice);
    made.prepend(element("kbd", { "aria-hidden": "true" }, key));
    answers.append(pressed(made, () => answer(key)));
  });
  const score = element("p", { class: "afs-score" });
  ask.append(question, answers, score);

  const live = element("p", { class: "afs-live", "aria-live": "polite" });
  const stage = element("div", { class: "afs-stage" });
  const views = stage.appendChild(element("div", { class: "afs-views", style: `--afs-panes: ${panes.length}` }));
  const widest = Math.max(...panes.map((pane) => pane.width));
  views.style.setProperty("--afs-least", `${widest}px`);
  views.style.setProperty("--afs-most", `${Math.max(...panes.map((pane) => pane.shown_px))}px`);
  const notes = [];
  const told = element("p", { class: "afs-told" });
  const paint = panes.map((pane, at) => {
    const column = views.appendChild(element("div", { class: "afs-pane" }));
    const head = column.appendChild(element("div", { class: "afs-head" }));
    if (panes.length > 1) {
      const label = head.appendChild(element("p", { class: "afs-label" }));
      label.append(element("strong", {}, labels[at]), " ", element("span", {}, abouts[at]));
    }
    if (at) notes[at] = head.appendChild(element("p", { class: "afs-differs" }));
    const view = column.appendChild(element("div", { class: "afs-view" }));
    const made = painter(view, pane, pieces);
    if (pieces.some((piece) => piece.includes("data-page"))) {
      const points = pointer(made, at, view, { since, tell });
      view.tabIndex = 0;
      view.setAttribute("role", "group");
      view.setAttribute("aria-label", `${labels[at]}: arrow keys choose a page`);
      // A finger that taps comes over the page first, and leaves it: what it pointed at stays.
      on(view, "pointerover", (event) => points.hold(points.node(event.target)));
      on(view, "pointerleave", (event) => event.pointerType === "mouse" && points.hold(null));
      on(view, "blur", () => points.hold(null));
      on(view, "keydown", (event) => {
        if (event.altKey || event.ctrlKey || event.metaKey) return;
        if (event.key === "Escape" && points.isOn()) points.hold(null);
        else if (/^Arrow/.test(event.key)) points.go(event.key);
        else return;
        event.preventDefault();
        event.stopPropagation();
      });
      made.points = points;
    }
    return made;
  });
  const listing = element("ol", { class: "afs-program", "aria-label": "the program" });
  const rows = program.map(([from, until, words]) => {
    const many = until > from ? `${from}–${until}` : `${from}`;
    const count = element("span", { class: "afs-count" });
    const made = element("button", { type: "button" }, element("span", { class: "afs-number" }, many), words, count);
    listing.append(element("li", {}, pressed(made, () => go(until))));
    return { from, until, made, count };
  });
  const side = element("div", { class: "afs-panel-shown" });
  if (panel.length) {
    const aside = stage.appendChild(element("div", { class: "afs-panel", role: "group", "aria-label": panelTitle }));
    aside.append(element("strong", {}, panelTitle), side);
  }
  if (program.length) stage.append(listing);

  // What is there when one asks for it, per pane: all checks, the counters, everything as text, and the legend.
  const folds = element("div", { class: "afs-folds" });
  const fold = (name, make) => {
    const shown = element("div", { class: "afs-fold", hidden: "" });
    const made = element("button", { type: "button", "aria-expanded": "false" }, name);
    pressed(made, () => {
      shown.hidden = !shown.hidden;
      made.setAttribute("aria-expanded", String(!shown.hidden));
      drawFolds();
    });
    folds.append(made);
    return { made, shown, make };
  };
  const all = [
    ...(program.length ? [fold("All checks", checksOf)] : []), ...(counters.some(({ names }) => names.length) ? [fold("Counters", countersOf)] : []),
    fold("As text", textOf), ...(legend ? [fold("Legend", legendOf)] : []),
  ];
  root.append(element("strong", { class: "afs-title" }, title), bar, ask, live, stage);
  if (paint.some((pane) => pane.points)) root.append(told);
  root.append(folds, ...all.map(({ shown }) => shown));
  el.append(root);

  // --- stepping and playing ---

  function move(step) {
    step = Math.min(Math.max(step, 0), last);
    if (step === now()) return;
    model.set("step", step);
    model.save_changes();
  }

  function go(step) {
    pause();
    if (step !== undefined) move(step);
  }

  let timer = 0;

  function start() {
    move(now() === last ? 0 : now() + 1);
    tick();
  }

  function showPlay() {
    const name = timer ? "Pause" : "Play";
    if (play.getAttribute("aria-label") === name) return;
    play.setAttribute("aria-label", name);
    play.title = `${name} (space)`;
    play.replaceChildren(icon(name));
  }

  function tick() {
    clearTimeout(timer);
    timer = 0;
    // A question waits for its answer.
    if (now() < last && !open(now())) timer = setTimeout(() => { move(now() + 1); tick(); }, SPEEDS[speed.value]);
    showPlay();
  }

  function pause() {
    clearTimeout(timer);
    timer = 0;
    showPlay();
  }

  // --- links ---

  const number = () => [...document.querySelectorAll(".afs")].indexOf(root) + 1;

  async function copyLink() {
    const address = new URL(location.href);
    address.hash = `stepper${number()}=${now()}`;
    history.replaceState(history.state, "", address);
    try {
      await navigator.clipboard.writeText(address.href);
      link.textContent = "Link copied";
    } catch {
      link.textContent = "The link is in the address";
    }
    setTimeout(() => { link.textContent = "Link to this step"; }, 2000);
  }

  function followLink() {
    const asks = /^#stepper(\d+)=(\d+)$/.exec(location.hash);
    if (!asks || Number(asks[1]) !== number()) return;
    go(Number(asks[2]));
    root.scrollIntoView({ block: "start" });
  }

  // Which number it has is known when all of a page's widgets are there.
  let waited = 0;
  const waiting = setInterval(() => {
    if (++waited < 50 && (!root.isConnected || document.querySelector(".widget[data-models]:not([data-shown])"))) return;
    clearInterval(waiting);
    followLink();
  }, 100);
  on(window, "hashchange", followLink);

  // --- predicting ---

  const given = new Map(); // step -> the path that was chosen, or null for "show me"
  const open = (step) => Boolean(model.get("predict")) && step in asked && !given.has(step);

  function togglePredict() {
    pause();
    given.clear();
    // What is on the screen already is no question any more.
    if (!model.get("predict") && now() in asked) given.set(now(), null);
    model.set("predict", !model.get("predict"));
    model.save_changes();
  }

  function answer(key) {
    if (!open(now()) || Number(key) > choices.length) return;
    const focused = answers.contains(document.activeElement);
    given.set(now(), key === "0" ? null : choices[Number(key) - 1]);
    draw();
    // The buttons are gone; the next thing to press is this.
    if (focused) next.focus();
  }

  function verdict(step) {
    const { path, because } = asked[step];
    const choice = given.get(step);
    if (choice === null) return `It is ${path}, because ${because}.`;
    return choice === path ? `Right: ${path}, because ${because}.` : `You said ${choice}; it is ${path}, because ${because}.`;
  }

  function drawAsk(step) {
    const asking = open(step);
    const answered = Boolean(model.get("predict")) && given.has(step);
    const ahead = "Nothing is asked at this step.";
    question.textContent = asking ? `Step ${step}, ${labels[0]}: ${asked[step].question} (Below is the state before it.)`
      : answered ? verdict(step) : ahead;
    question.dataset.verdict = answered && given.get(step) !== null ? (given.get(step) === asked[step].path ? "right" : "wrong") : "";
    answers.hidden = !asking;
    const chosen = [...given].filter(([, choice]) => choice !== null);
    const right = chosen.filter(([at, choice]) => choice === asked[at].path).length;
    score.textContent = chosen.length ? `${right} of ${chosen.length} right` : "";
    ask.hidden = !model.get("predict");
    predict.setAttribute("aria-pressed", Boolean(model.get("predict")));
    return asking || answered ? `${question.textContent} ${score.textContent}`.trim() : "";
  }

  // --- drawing ---

  function since(at, process, page) {
    const seen = seenNow();
    const found = decided[at].findLast(([step, who, lo, hi]) => step <= seen && who === process && lo <= page && page <= hi);
    return found && { now: found[0] === seen, words: `${found[0] === seen ? "in this step" : `since step ${found[0]}`}: ${found[4]}` };
  }

  let toldBy = 0;
  function tell(at, words) {
    // A pane that nobody points at has nothing to take back from one that somebody does.
    if (!words && toldBy !== at) return;
    toldBy = at;
    told.textContent = words || "Point at a page, or choose one with the arrow keys, to see who maps it and why.";
    told.classList.toggle("afs-empty", !words);
    if (words && views.contains(document.activeElement)) live.textContent = words;
  }

  function drawNotes(step) {
    notes.forEach((note, at) => {
      const words = differences[at][step];
      const here = step === firstDifferences[at] ? "First difference" : "They differ here";
      const where = firstDifferences[at] === undefined ? "They never differ." : `First difference at step ${firstDifferences[at]}.`;
      note.textContent = words ? `${here}: ${words}` : where;
      note.classList.toggle("afs-here", Boolean(words));
    });
  }

  const linesOf = (at, moment) => texts[at][moment].map((line) => lines[line]);

  function checksOf(at, moment) {
    const found = linesOf(at, moment);
    const from = found.findIndex((line) => line.startsWith("why: "));
    const trail = from < 0 ? ["no fault"] : found.slice(from).filter((line) => !line.startsWith("["));
    return element("pre", {}, ...trail.map((line) => element(/^\s*=>/.test(line) ? "strong" : "span", {}, `${line}\n`)));
  }

  function countersOf(at, moment) {
    const { names, values } = counters[at];
    const table = element("table", { class: "afs-counters" });
    names.forEach((name, which) => {
      const count = values[moment][which], was = moment ? values[moment - 1][which] : count;
      const most = Math.max(...values.map((one) => one[which]));
      if (!most) return;
      const grown = count === was ? "" : ` (${count > was ? "+" : ""}${count - was})`;
      const meter = element("span", { class: "afs-meter" });
      meter.style.setProperty("--was", Math.min(was, count) / most);
      meter.style.setProperty("--now", count / most);
      table.append(element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, meter), element("td", {}, `${count}${grown}`)));
    });
    return table;
  }

  function textOf(at, moment) {
    return element("pre", { tabindex: "0" }, linesOf(at, moment).join("\n"));
  }

  function legendOf(at) {
    const made = element("div");
    if (!at) made.innerHTML = legend;
    return made;
  }

  function drawFolds() {
    for (const { shown, make } of all) {
      if (!shown.hidden) shown.replaceChildren(...panes.map((_, at) => make(at, seenNow())));
    }
  }

  function spoken(step, seen, verdictSaid) {
    if (seen !== step) {
      const keys = choices.map((choice, at) => `${at + 1} ${choice}`).join(", ");
      return `${slider.getAttribute("aria-valuetext")}. ${asked[step].question} Choose ${keys}, or 0 to be shown.`;
    }
    const sentences = said.map((pane, at) => (at ? `${labels[at]}: ${pane[step]}` : pane[step]));
    const differ = notes.filter((note) => note.classList.contains("afs-here")).map((note) => note.textContent);
    return [verdictSaid, `${slider.getAttribute("aria-valuetext")}.`, ...sentences, ...differ].filter(Boolean).join(" ");
  }

  // Until the reader has chosen, everything shows the moment before.
  const seenNow = () => (open(now()) ? now() - 1 : now());
  let drawnMoment; // the moment on the screen

  function draw() {
    const step = now(), seen = seenNow();
    // A disabled button would lose the focus, so the ends are only marked.
    for (const [control, end] of [[first, step === 0], [back, step === 0], [next, step === last], [final, step === last],
      [nextFault, to.nextFault() === undefined], [previousFault, to.previousFault() === undefined]])
      control.setAttribute("aria-disabled", end);
    slider.value = step;
    slider.setAttribute("aria-valuetext", step ? `step ${step} of ${last}` : `start, ${last} steps`);
    place.textContent = `${step} / ${last}`;
    const verdictSaid = drawAsk(step);
    drawNotes(seen);
    const moves = Math.abs(seen - drawnMoment) === 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (seen !== drawnMoment) paint.forEach((pane, at) => pane.show(seen, said[at][seen], moves));
    drawnMoment = seen;
    for (const pane of paint) pane.points?.draw();
    for (const { from, until, made, count } of rows) {
      const here = from <= step && step <= until;
      if (here) made.setAttribute("aria-current", "step");
      else made.removeAttribute("aria-current");
      count.textContent = here && until > from ? ` ${step - from + 1}/${until - from + 1}` : "";
      if (here) listing.scrollTop = Math.max(0, made.offsetTop - listing.offsetTop - listing.clientHeight / 2);
    }
    if (panel.length) {
      if (panel[seen].startsWith("<svg")) side.innerHTML = panel[seen];
      else side.textContent = panel[seen];
    }
    drawFolds();
    live.textContent = spoken(step, seen, verdictSaid);
    root.dataset.step = step;
  }

  // --- keys ---

  const steps = {
    ArrowLeft: to.back, ArrowDown: to.back, ArrowRight: to.next, ArrowUp: to.next, Home: to.first, End: to.last,
    f: to.nextFault, b: to.previousFault, F: to.previousFault, d: to.difference,
  };
  on(root, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
    const { key, target } = event;
    if (key === "Escape") more.open = false;
    // A list of choices has keys of its own; on a button space presses it.
    if (target === speed || (key === " " && target !== root && target !== slider)) return;
    // Up and down belong to the slider; elsewhere they scroll the page.
    if (target !== slider && (key === "ArrowUp" || key === "ArrowDown")) return;
    if (steps[key]) go(steps[key]());
    else if (key === " ") timer ? pause() : start();
    else if (key === "p" && predict.isConnected) togglePredict();
    else if (key === "l") copyLink();
    else if (/^\d$/.test(key)) answer(key);
    else return;
    event.preventDefault();
  });
  on(slider, "input", () => go(Number(slider.value)));
  on(document, "pointerdown", (event) => { if (!more.contains(event.target)) more.open = false; });
  model.on("change:step", draw);
  model.on("change:predict", draw);
  tell(0, "");
  draw();
  return () => {
    pause();
    clearInterval(waiting);
    for (const pane of paint) pane.stop();
    stop.abort();
    model.off("change:step", draw);
    model.off("change:predict", draw);
  };
}

export default { render };
