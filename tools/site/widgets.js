// Runs the widgets that a notebook stored, without a kernel: each front end is an ES module with `render`, as
// anywidget defines it, and gets a model that knows the stored values and nobody who would answer.

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

const { fronts, models } = await unpack(document.getElementById("stored-widgets").textContent);
const needsKernel = "This part needs a running notebook (<code>make lab</code>); the page shows what was stored.";

function noteOnce(place) {
  if (place.nextElementSibling?.matches(".needs-kernel")) return;
  place.insertAdjacentHTML("afterend", `<p class="needs-kernel">${needsKernel}</p>`);
}

function makeModel(state, unanswered) {
  const heard = []; // { event, act }, as often as it was asked for
  const fire = (event, ...values) => [...heard].filter((one) => one.event === event).forEach((one) => one.act(...values));
  return {
    get: (name) => state[name],
    set(name, value) {
      const given = typeof name === "object" ? name : { [name]: value };
      const changed = Object.keys(given).filter((key) => state[key] !== given[key]);
      Object.assign(state, given);
      for (const key of changed) fire(`change:${key}`, this, state[key]);
      if (changed.length) fire("change", this);
    },
    save_changes() {},
    send: unanswered,
    on(events, act) {
      for (const event of events.split(" ")) heard.push({ event, act });
    },
    off(events, act) {
      const gone = (one) => (!events || events.split(" ").includes(one.event)) && (!act || one.act === act);
      for (let at = heard.length - 1; at >= 0; at--) if (gone(heard[at])) heard.splice(at, 1);
    },
  };
}

// An address with the module inside: a page opened from a disk may load no other file as a module.
const loaded = fronts.map((source) => import(`data:text/javascript;charset=utf-8,${encodeURIComponent(source)}`));
const started = new Map();

async function start(id, unanswered) {
  const { front, state } = models[id];
  const { default: given, render } = await loaded[front];
  const widget = (typeof given === "function" ? await given() : given) ?? { render };
  const model = makeModel(state, unanswered);
  await widget.initialize?.({ model });
  return { widget, model };
}

async function show(place) {
  if ("needsKernel" in place.dataset) noteOnce(place);
  const ids = place.dataset.models.split(" ").filter(Boolean);
  const views = [];
  for (const id of ids) {
    // Two views of one model step together, as in a notebook.
    if (!started.has(id)) started.set(id, start(id, () => noteOnce(place)));
    const { widget, model } = await started.get(id);
    const el = document.createElement("div");
    await widget.render({ model, el, signal: new AbortController().signal });
    views.push(el);
  }
  if (views.length) place.replaceChildren(...views);
  place.dataset.shown = views.length;
  openAnswered();
}

for (const place of document.querySelectorAll(".widget")) {
  show(place).catch((error) => {
    // The stored picture is still there.
    noteOnce(place);
    console.error(error);
  });
}

// What answers a question opens by itself once that is answered. A card says so; it hears of it in its own time.
function openAnswered() {
  for (const fold of document.querySelectorAll(".answer[data-questions]")) {
    const names = fold.dataset.questions.split(" ").filter(Boolean);
    const cards = names.map((name) => document.querySelector(`.afq[data-question$="${CSS.escape(`.${name}`)}"]`));
    if (cards.length && cards.every((card) => card?.dataset.answered === "true")) fold.open = true;
  }
}
addEventListener("anonfolio-answers", () => setTimeout(openAnswered));
