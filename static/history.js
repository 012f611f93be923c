// The history without reloading, and by keys.
import { isTyping } from "./common.js";

const cards = () => [...document.querySelectorAll(".card")];
const links = () => cards().map((card) => card.querySelector("a.shown"));

// Buttons post as they would without this file; of the answer only what has changed is taken over.
document.addEventListener("submit", async (event) => {
  if (!event.target.matches("form[action^='/pictures/']")) return;
  event.preventDefault();
  const at = cards().indexOf(event.target.closest(".card"));
  const answer = await fetch(event.target.action, { method: "POST" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("main").replaceWith(document.adoptNode(page.querySelector("main")));
  const { enliven } = await import("./common.js");
  enliven(document);
  choose();
  links()[Math.min(Math.max(at, 0), links().length - 1)]?.focus();
});

// Two pictures are compared, no more and no fewer.
function choose() {
  const chosen = document.querySelectorAll("[name=picture]:checked").length;
  const button = document.getElementById("compare-button");
  if (button) button.disabled = chosen !== 2;
  for (const box of document.querySelectorAll("[name=picture]")) box.disabled = chosen >= 2 && !box.checked;
}
document.addEventListener("change", choose);
choose();

/** How many cards stand beside each other. */
function columns() {
  const all = links();
  const first = all[0]?.getBoundingClientRect().top;
  const next = all.findIndex((link) => link.getBoundingClientRect().top > first + 4);
  return next < 0 ? all.length : next;
}
addEventListener("keydown", (event) => {
  if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = links();
  const at = all.findIndex((link) => link.closest(".card").contains(document.activeElement));
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[event.key];
  if (step !== undefined && all.length) {
    event.preventDefault();
    all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)].focus();
  }
  const act = { ".": "star", Delete: "delete" }[event.key];
  if (act && at >= 0) cards()[at].querySelector(`[data-act=${act}]`)?.click();
});
