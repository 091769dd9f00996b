// Shows one moment of a timeline. Python drew every piece; here they are only put together.

const SPEEDS = { slow: 2000, medium: 1000, fast: 300 }; // milliseconds a step

function element(name, attributes = {}, words = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = words;
  return made;
}

const ascending = (steps) => [...new Set(steps)].map(Number).sort((a, b) => a - b);

/**
 * Draws moments of one pane into an element. A step changes a few pieces of hundreds: those that stay, stay in the page,
 * for a browser that gets a whole new picture measures every text of it again.
 */
function painter(into, pieces, style) {
  const parsed = new Map();
  const numbers = new WeakMap(); // element -> the piece it was made of

  // A picture is a list of pieces; some open a group, which ends at "</g>".
  const opens = (piece) => !piece.endsWith("/>") && !piece.includes("</");

  function tree(moment) {
    const lists = [[]];
    for (const number of moment) {
      if (number === style) continue;
      if (pieces[number].startsWith("</")) lists.pop();
      else {
        const node = { number, inside: opens(pieces[number]) ? [] : null };
        lists.at(-1).push(node);
        if (node.inside) lists.push(node.inside);
      }
    }
    return lists[0];
  }

  function make(number) {
    if (!parsed.has(number)) {
      const template = document.createElement("template");
      const whole = pieces[number].startsWith("<svg");
      template.innerHTML = whole ? pieces[number] : `<svg>${pieces[number]}</svg>`;
      const svg = template.content.firstChild;
      parsed.set(number, whole ? svg : svg.firstChild);
    }
    const made = document.importNode(parsed.get(number), true);
    numbers.set(made, number);
    return made;
  }

  function mostOf(inside, holders, taken) {
    const votes = new Map();
    for (const { number } of inside) {
      const holder = holders.get(number);
      if (holder && !taken.has(holder)) votes.set(holder, (votes.get(holder) ?? 0) + 1);
    }
    return [...votes].sort(([, a], [, b]) => b - a)[0]?.[0];
  }

  function put(parent, wanted) {
    const there = new Map(); // piece -> the child that it became
    const holders = new Map(); // piece -> the group that holds it
    for (const child of parent.children) {
      const number = numbers.get(child);
      if (!opens(pieces[number])) there.set(number, child);
      else for (const held of child.children) holders.set(numbers.get(held), child);
    }
    const taken = new Set();
    const take = (child) => (child && !taken.has(child) ? taken.add(child) && child : undefined);
    // A group is the one that held most of what it holds now; its place may be new.
    const kept = wanted.map(({ number, inside }) => take(inside ? mostOf(inside, holders, taken) : there.get(number)));
    // Before anything is put in, so that what stays need not be moved past what goes.
    for (const child of [...parent.children]) if (!taken.has(child)) child.remove();
    let at = parent.firstChild;
    wanted.forEach(({ number, inside }, index) => {
      const child = kept[index] ?? make(number);
      if (numbers.get(child) !== number) {
        for (const { name } of [...child.attributes]) child.removeAttribute(name);
        for (const { name, value } of make(number).attributes) child.setAttribute(name, value);
        numbers.set(child, number);
      }
      if (child === at) at = at.nextSibling;
      else parent.insertBefore(child, at);
      if (inside) put(child, inside);
    });
  }

  return (moment) => put(into, tree(moment));
}

function render({ model, el }) {
  const {
    title, pieces, panes, labels, abouts, said, differences, faulting, asked, choices, panel, panel_title: panelTitle,
  } = model.get("frames");
  const last = panes[0].length - 1;
  const firstDifferences = differences.map((pane) => ascending(Object.keys(pane))[0]);
  const differing = ascending(firstDifferences.filter((step) => step !== undefined));
  // One style sheet for all moments: a browser that meets a new one at every step restyles the whole page.
  const style = pieces.findIndex((piece) => piece.startsWith("<style>"));
  const stop = new AbortController();
  const on = (target, type, act) => target.addEventListener(type, act, { signal: stop.signal });
  const now = () => Math.min(Math.max(model.get("step"), 0), last);

  // --- what there is to see and to press ---

  const root = element("section", {
    class: "afs", tabindex: "0", "aria-label": `${title}: use the arrow keys, Home, End and space to step and play`,
    // JupyterLab must not take our keys for shortcuts of its own.
    "data-lm-suppress-shortcuts": "true",
  });
  const button = (label, keys, act) => {
    const made = element("button", { type: "button", title: `${label} (${keys})` }, label);
    on(made, "click", act);
    return made;
  };
  const to = {
    first: () => 0, back: () => now() - 1, next: () => now() + 1, last: () => last,
    nextFault: () => faulting.find((step) => step > now()),
    previousFault: () => faulting.findLast((step) => step < now()),
    difference: () => differing.find((step) => step > now()) ?? differing[0],
  };
  const bar = element("div", { class: "afs-bar" });
  const first = button("First", "Home", () => go(to.first()));
  const back = button("Back", "←", () => go(to.back()));
  const play = button("Play", "space", () => (timer ? pause() : start()));
  const next = button("Next", "→", () => go(to.next()));
  const final = button("Last", "End", () => go(to.last()));
  const slider = element("input", { type: "range", min: 0, max: last, step: 1, "aria-label": "step" });
  const place = element("output", { class: "afs-place" });
  const previousFault = button("Previous fault", "b", () => go(to.previousFault()));
  const nextFault = button("Next fault", "f", () => go(to.nextFault()));
  const difference = button("First difference", "d", () => go(to.difference()));
  const predict = button("Predict", "p", () => togglePredict());
  const speed = element("select", { "aria-label": "speed", title: "how fast it plays" });
  for (const name of Object.keys(SPEEDS)) speed.append(element("option", { value: name }, name));
  // Who asked for less motion gets the most time for each picture.
  speed.value = matchMedia("(prefers-reduced-motion: reduce)").matches ? "slow" : "medium";
  bar.append(element("strong", { class: "afs-title" }, title), first, back, play, speed, next, final, slider, place);
  if (faulting.length) bar.append(previousFault, nextFault);
  if (differing.length) bar.append(difference);
  if (Object.keys(asked).length) bar.append(predict);

  const ask = element("div", { class: "afs-ask", role: "group", "aria-label": "predict" });
  const question = element("p", { class: "afs-question" });
  const answers = element("div", { class: "afs-answers" });
  [...choices, "show me"].forEach((choice, at) => {
    const key = choice === "show me" ? "0" : `${at + 1}`;
    const made = element("button", { type: "button", "aria-keyshortcuts": key }, choice);
    made.prepend(element("kbd", { "aria-hidden": "true" }, key));
    on(made, "click", () => answer(key));
    answers.append(made);
  });
  const score = element("p", { class: "afs-score" });
  ask.append(question, answers, score);

  const live = element("p", { class: "afs-live", "aria-live": "polite" });
  const stage = element("div", { class: "afs-stage" });
  const views = stage.appendChild(element("div", { class: "afs-views", style: `--afs-panes: ${panes.length}` }));
  const notes = [];
  const paint = panes.map((_, at) => {
    const pane = views.appendChild(element("div", { class: "afs-pane" }));
    const head = pane.appendChild(element("div", { class: "afs-head" }));
    if (panes.length > 1) {
      const label = head.appendChild(element("p", { class: "afs-label" }));
      label.append(element("strong", {}, labels[at]), " ", element("span", {}, abouts[at]));
    }
    if (at) notes[at] = head.appendChild(element("p", { class: "afs-differs" }));
    return painter(pane.appendChild(element("div", { class: "afs-view" })), pieces, style);
  });
  views.insertAdjacentHTML("afterbegin", pieces[style]);
  const side = element("div", { class: "afs-panel-shown" });
  if (panel.length) {
    const aside = stage.appendChild(element("div", { class: "afs-panel", role: "group", "aria-label": panelTitle }));
    aside.append(element("strong", {}, panelTitle), side);
  }
  root.append(bar, ask, live, stage);
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

  function tick() {
    clearTimeout(timer);
    timer = 0;
    // A question waits for its answer.
    if (now() < last && !open(now())) timer = setTimeout(() => { move(now() + 1); tick(); }, SPEEDS[speed.value]);
    play.textContent = timer ? "Pause" : "Play";
  }

  function pause() {
    clearTimeout(timer);
    timer = 0;
    play.textContent = "Play";
  }

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
    const told = Boolean(model.get("predict")) && given.has(step);
    question.textContent = asking ? `Step ${step}: ${asked[step].question} (Below is the state before it.)` : told ? verdict(step) : "";
    question.dataset.verdict = told && given.get(step) !== null ? (given.get(step) === asked[step].path ? "right" : "wrong") : "";
    answers.hidden = !asking;
    const chosen = [...given].filter(([, choice]) => choice !== null);
    const right = chosen.filter(([at, choice]) => choice === asked[at].path).length;
    score.textContent = chosen.length ? `${right} of ${chosen.length} right` : "";
    ask.hidden = !question.textContent && !score.textContent;
    predict.setAttribute("aria-pressed", Boolean(model.get("predict")));
  }

  // --- drawing ---

  function drawNotes(step) {
    notes.forEach((note, at) => {
      const words = differences[at][step];
      const here = step === firstDifferences[at] ? "First difference" : "They differ here";
      const where = firstDifferences[at] === undefined ? "They never differ." : `First difference at step ${firstDifferences[at]}.`;
      note.textContent = words ? `${here}: ${words}` : where;
      note.classList.toggle("afs-here", Boolean(words));
    });
  }

  function spoken(step, seen) {
    if (seen !== step) {
      const keys = choices.map((choice, at) => `${at + 1} ${choice}`).join(", ");
      return `${place.textContent}. ${asked[step].question} Choose ${keys}, or 0 to be shown.`;
    }
    const sentences = said.map((pane, at) => (at ? `${labels[at]}: ${pane[step]}` : pane[step]));
    const differ = notes.filter((note) => note.classList.contains("afs-here")).map((note) => note.textContent);
    return [ask.hidden || answers.hidden === false ? "" : `${question.textContent} ${score.textContent}`.trim(),
      `${place.textContent}.`, ...sentences, ...differ].filter(Boolean).join(" ");
  }

  function draw() {
    const step = now();
    // Until the reader has chosen, everything shows the moment before.
    const seen = open(step) ? step - 1 : step;
    // A disabled button would lose the focus, so the ends are only marked.
    for (const [control, end] of [[first, step === 0], [back, step === 0], [next, step === last], [final, step === last],
      [nextFault, to.nextFault() === undefined], [previousFault, to.previousFault() === undefined]])
      control.setAttribute("aria-disabled", end);
    slider.value = step;
    slider.setAttribute("aria-valuetext", `step ${step} of ${last}`);
    place.textContent = step ? `step ${step} of ${last}` : `start, ${last} steps`;
    drawAsk(step);
    drawNotes(seen);
    paint.forEach((moment, at) => moment(panes[at][seen]));
    if (panel.length) {
      if (panel[seen].startsWith("<svg")) side.innerHTML = panel[seen];
      else side.textContent = panel[seen];
    }
    live.textContent = spoken(step, seen);
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
    // A list of choices has keys of its own; on a button space presses it.
    if (target === speed || (key === " " && target !== root && target !== slider)) return;
    // Up and down belong to the slider; elsewhere they scroll the page.
    if (target !== slider && (key === "ArrowUp" || key === "ArrowDown")) return;
    if (steps[key]) go(steps[key]());
    else if (key === " ") timer ? pause() : start();
    else if (key === "p" && predict.isConnected) togglePredict();
    else if (/^\d$/.test(key)) answer(key);
    else return;
    event.preventDefault();
  });
  on(slider, "input", () => go(Number(slider.value)));
  model.on("change:step", draw);
  model.on("change:predict", draw);
  draw();
  return () => {
    pause();
    stop.abort();
    model.off("change:step", draw);
    model.off("change:predict", draw);
  };
}

export default { render };
