// Shows one moment of a timeline. Python drew every piece; here they are only put together.

function element(name, attributes = {}, words = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = words;
  return made;
}

function render({ model, el }) {
  const { title, pieces, panes, said, differences } = model.get("frames");
  const last = panes[0].length - 1;
  const differing = Object.keys(differences).map(Number).sort((a, b) => a - b);
  // One style sheet for all moments: a browser that meets a new one at every step restyles the whole page.
  const style = pieces.findIndex((piece) => piece.startsWith("<style>"));
  const stop = new AbortController();
  const on = (target, type, act) => target.addEventListener(type, act, { signal: stop.signal });

  const root = element("section", {
    class: "afs", tabindex: "0", "aria-label": `${title}: use the arrow keys, Home and End to step`,
    // JupyterLab must not take our keys for shortcuts of its own.
    "data-lm-suppress-shortcuts": "true",
  });
  const bar = element("div", { class: "afs-bar" });
  const name = element("strong", { class: "afs-title" }, title);
  const button = (label, keys, to) => {
    const made = element("button", { type: "button", title: `${label} (${keys})` }, label);
    on(made, "click", () => go(to()));
    return made;
  };
  const now = () => Math.min(Math.max(model.get("step"), 0), last);
  const first = button("First", "Home", () => 0);
  const back = button("Back", "←", () => now() - 1);
  const next = button("Next", "→", () => now() + 1);
  const final = button("Last", "End", () => last);
  const slider = element("input", { type: "range", min: 0, max: last, step: 1, "aria-label": "step" });
  const place = element("output", { class: "afs-place" });
  bar.append(name, first, back, next, final, slider, place);
  if (differing.length) bar.append(button("First difference", "d", () => differing[0]));
  const note = element("p", { class: "afs-differs" });
  const live = element("p", { class: "afs-live", "aria-live": "polite" });
  const views = element("div", { class: "afs-views" });
  const shown = panes.map(() => views.appendChild(element("div", { class: "afs-view" })));
  views.insertAdjacentHTML("afterbegin", pieces[style]);
  root.append(bar, note, live, views);
  el.append(root);

  function go(step) {
    step = Math.min(Math.max(step, 0), last);
    if (step === now()) return;
    model.set("step", step);
    model.save_changes();
  }

  function draw() {
    const step = now();
    // A disabled button would lose the focus, so the ends are only marked.
    for (const [end, there] of [[first, step === 0], [back, step === 0], [next, step === last], [final, step === last]])
      end.setAttribute("aria-disabled", there);
    slider.value = step;
    slider.setAttribute("aria-valuetext", `step ${step} of ${last}`);
    place.textContent = step ? `step ${step} of ${last}` : `start, ${last} steps`;
    const difference = differences[step];
    note.textContent = difference
      ? `${step === differing[0] ? "First difference" : "They differ here"}: ${difference}`
      : panes.length > 1 ? (differing.length ? `First difference at step ${differing[0]}.` : "They never differ.") : "";
    note.classList.toggle("afs-here", Boolean(difference));
    live.textContent = `${place.textContent}. ${said.map((pane) => pane[step]).join(" Beside it: ")}` +
      (difference ? ` ${note.textContent}` : "");
    shown.forEach((view, at) => { view.innerHTML = panes[at][step].filter((piece) => piece !== style).map((piece) => pieces[piece]).join(""); });
    root.dataset.step = step;
  }

  const keys = {
    ArrowLeft: () => now() - 1, ArrowDown: () => now() - 1, ArrowRight: () => now() + 1, ArrowUp: () => now() + 1,
    Home: () => 0, End: () => last,
    ...(differing.length ? { d: () => differing[0] } : {}),
  };
  on(root, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
    const target = keys[event.key];
    // Up and down belong to the slider; elsewhere they scroll the page.
    if (!target || (event.target !== slider && (event.key === "ArrowUp" || event.key === "ArrowDown"))) return;
    event.preventDefault();
    go(target());
  });
  on(slider, "input", () => go(Number(slider.value)));
  model.on("change:step", draw);
  draw();
  return () => {
    stop.abort();
    model.off("change:step", draw);
  };
}

export default { render };
