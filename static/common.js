// Comforts of every page: colours, the list of keys, buttons that copy, times as they are here.
const byId = (id) => document.getElementById(id);

const THEMES = ["system", "light", "dark"];
const button = byId("theme");
function chosen() { return document.documentElement.dataset.theme ?? "system"; }
function label() { button.textContent = `Theme: ${chosen()}`; }
button.hidden = false;
label();
button.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length];
  if (next === "system") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("theme");
  } else {
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
  }
  label();
});

byId("keys").hidden = false;
byId("keys").addEventListener("click", () => byId("shortcuts").showModal());

/** Whether keys pressed there are text. */
export const isTyping = (target) => Boolean(
  target.closest?.("input:not([type=range], [type=checkbox], [type=file]), textarea, select"));
addEventListener("keydown", (event) => {
  if (event.key === "?" && !isTyping(event.target)) byId("shortcuts").showModal();
});

/** Makes what needs a script usable in a part of the page that is new. */
export function enliven(part) {
  for (const copy of part.querySelectorAll("[data-copy]")) copy.hidden = !navigator.clipboard;
  for (const time of part.querySelectorAll("time")) {
    time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}
document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (!copy) return;
  const text = "link" in copy.dataset ? new URL(copy.dataset.copy, location).href : copy.dataset.copy;
  await navigator.clipboard.writeText(text);
  copy.textContent = "copied";
  setTimeout(() => { copy.textContent = "copy"; }, 1500);
});
enliven(document);
