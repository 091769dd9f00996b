// What scrolls by itself is reached by Tab, so that arrow keys move it; what fits is no stop on the way.
const SCROLLED = {
  pre: "code or output", ".wide": "table or picture", ".wide > div": "table", ".afs-program": "the program", ".afs-view": "picture",
  ".afs-panel-shown": "panel", ".picture": "picture",
};

function reach(node, words) {
  if (node.hasAttribute("tabindex") && !node.dataset.scrolled) return; // it says itself how it is reached
  const style = getComputedStyle(node);
  const moves = (overflow, inner, outer) => /auto|scroll/.test(overflow) && inner > outer + 1;
  const scrolls = moves(style.overflowX, node.scrollWidth, node.clientWidth) || moves(style.overflowY, node.scrollHeight, node.clientHeight);
  if (scrolls === Boolean(node.dataset.scrolled)) return;
  if (scrolls) {
    node.dataset.scrolled = "yes";
    node.tabIndex = 0;
    if (node.matches("ol, ul")) return; // a list stays a list
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", `${words}, scrolls`);
  } else {
    for (const name of ["data-scrolled", "tabindex"]) node.removeAttribute(name);
    if (node.matches("ol, ul")) return;
    for (const name of ["role", "aria-label"]) node.removeAttribute(name);
  }
}

function reachAll() {
  for (const [which, words] of Object.entries(SCROLLED))
    for (const node of document.querySelectorAll(which)) reach(node, words);
}

let asked = 0;
const soon = () => { cancelAnimationFrame(asked); asked = requestAnimationFrame(reachAll); };
new ResizeObserver(soon).observe(document.body); // a window, a fold, a widget that came: all change its height
document.addEventListener("toggle", soon, true);
soon();
