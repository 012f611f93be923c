// The form's comforts: sliders, shapes, seed, token counter, and drawing without leaving the page.
import { isTyping } from "./common.js";
import { adopt, watch } from "./watch.js";
import "./files.js";

const form = document.getElementById("form");
const field = (name) => document.getElementById(name);

// An empty number is the model's own, which its placeholder says.
const number = (input) => input.value || input.placeholder;

// Sliders beside the numbers.
const sliders = [...form.querySelectorAll("input[type=range][data-for]")];
const slide = (slider) => { slider.value = number(field(slider.dataset.for)); };
for (const slider of sliders) {
  slider.hidden = false;
  slider.addEventListener("input", () => { field(slider.dataset.for).value = slider.value; });
  field(slider.dataset.for).addEventListener("input", () => slide(slider));
}

// Shapes: buttons that set width and height.
const shapes = field("shapes");
function pressed() {
  for (const shape of shapes.children) {
    const { width, height } = shape.dataset;
    shape.setAttribute("aria-pressed", number(field("width")) === width && number(field("height")) === height);
  }
}
shapes.hidden = false;
pressed();
shapes.addEventListener("click", (event) => {
  const shape = event.target.closest("button");
  if (!shape) return;
  field("width").value = shape.dataset.width;
  field("height").value = shape.dataset.height;
  pressed();
});
for (const side of ["width", "height"]) {
  field(side).addEventListener("input", pressed);
  // "768x1024" pasted into one of them fills both.
  field(side).addEventListener("paste", (event) => {
    const size = event.clipboardData.getData("text").match(/^\s*(\d+)\s*[x×*]\s*(\d+)\s*$/);
    if (!size) return;
    event.preventDefault();
    [, field("width").value, field("height").value] = size;
    pressed();
  });
}

// The model: its sizes and defaults stand in the page that the server makes for it.
const sides = ["width", "height"];
function fitting() {
  for (const side of sides) field(side).min = field(side).step = field(side).dataset.multiple;
}
fitting();
async function chosen() {
  const model = field("model").value;
  let page = null;
  try {
    const answer = await fetch(`/?model=${encodeURIComponent(model)}`);
    if (answer.ok) page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch { /* The server says so when the form is sent. */ }
  if (!page || field("model").value !== model) return;
  const theirs = (name) => page.getElementById(name);
  for (const name of ["steps", "guidance", "clip_skip", ...sides]) {
    field(name).placeholder = theirs(name).placeholder;
    field(name).max = theirs(name).max;
  }
  for (const name of ["sampler", "schedule"]) {
    field(name).options[0].text = theirs(name).options[0].text;
    field(name).dataset.own = theirs(name).dataset.own;
  }
  for (const side of sides) field(side).dataset.multiple = theirs(side).dataset.multiple;
  // What the model has no use for is out of sight, and as it would be by itself.
  for (const [part, name, usual] of [["edits", "image_guidance", ""], ["decoders", "decoder", "full"]]) {
    field(part).hidden = theirs(part).hidden;
    if (field(part).hidden) field(name).value = usual;
  }
  fitting();
  shapes.replaceChildren(...theirs("shapes").children);
  sliders.forEach(slide);
  pressed();
  count();
}
field("model").addEventListener("input", chosen);

// A sampler's settings are its own: another one has others, or none.
const settings = field("sampler_settings"), sampler = field("sampler");
function settled() {
  const { settings: known } = sampler.selectedOptions[0].dataset;
  settings.placeholder = known ?? "settings, such as eta=0.5";
  settings.hidden = known === "";
}
sampler.addEventListener("input", () => { settings.value = ""; settled(); });
settled();

// The seed: a random one each time, or the one of the picture shown.
const seed = field("seed");
const shownSeed = () => document.querySelector("#result [data-seed]")?.dataset.seed;
function locked() {
  field("lock").setAttribute("aria-pressed", seed.value !== "");
  field("lock").disabled = seed.value === "" && !shownSeed();
}
field("dice").hidden = field("lock").hidden = false;
field("dice").addEventListener("click", () => { seed.value = ""; locked(); });
field("lock").addEventListener("click", () => { seed.value = seed.value ? "" : shownSeed() ?? ""; locked(); });
seed.addEventListener("input", locked);
addEventListener("shown", locked);
locked();

// How the prompt fills the chunks that the model reads.
const tokens = field("tokens");
let asked = 0;
async function count() {
  const [prompt, model] = [field("prompt").value, field("model").value];
  const mine = ++asked;
  let told = null;
  try {
    const answer = await fetch("/api/v1/tokens", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ prompt, model }),
    });
    if (answer.ok) told = await answer.json();
  } catch { /* The counter is no reason to disturb anybody. */ }
  if (mine !== asked) return;
  tokens.hidden = !told || !prompt;
  if (!told) return;
  tokens.textContent = `${told.count} of ${told.limit} tokens` + (told.chunks > 1 ? `, in ${told.chunks} chunks` : "");
}
let soon = 0;
field("prompt").addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(count, 250); });
if (field("prompt").value) count();

// Earlier prompts, kept in this browser.
const KEPT = 50;
const earlier = () => JSON.parse(localStorage.getItem("prompts") ?? "[]");
let back = -1;
function remember(prompt) {
  back = -1;
  if (prompt) localStorage.setItem("prompts", JSON.stringify([prompt, ...earlier().filter((p) => p !== prompt)].slice(0, KEPT)));
}
field("prompt").addEventListener("keydown", (event) => {
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const prompts = earlier();
  back = Math.min(Math.max(back + (event.key === "ArrowUp" ? 1 : -1), -1), prompts.length - 1);
  if (back >= 0) field("prompt").value = prompts[back];
  count();
});

// Drawing: the form goes where it would go without this file; only the page stays.
function messages(page) {
  for (const old of form.querySelectorAll(".error, .banner")) old.remove();
  for (const wrong of form.querySelectorAll("[aria-invalid]")) wrong.removeAttribute("aria-invalid");
  for (const banner of page.querySelectorAll("#form .banner")) form.prepend(document.adoptNode(banner));
  let first = null;
  for (const error of page.querySelectorAll("#form .error")) {
    const input = field(error.id.replace(/-error$/, ""));
    if (!input) continue;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", error.id);
    input.closest(".field, .check").append(document.adoptNode(error));
    if (input.closest("details")) input.closest("details").open = true;
    first ??= input;
  }
  first?.focus();
}
const working = (on) => form.classList.toggle("working", on);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.classList.contains("working")) return;
  working(true);
  remember(field("prompt").value);
  try {
    const answer = await fetch(form.action, { method: "POST", body: new FormData(form) });
    const page = adoptIf(answer, await answer.text());
    messages(page);
    form.elements.form_id.value = page.querySelector("[name=form_id]")?.value ?? "";
  } catch {
    messages(document.createElement("div"));
    const banner = Object.assign(document.createElement("p"), {
      className: "banner", role: "alert", textContent: "The server does not answer. Draw again when it is back.",
    });
    form.prepend(banner);
  }
  working(false);
});
function adoptIf(answer, html) {
  if (!answer.redirected) return new DOMParser().parseFromString(html, "text/html");
  history.pushState(null, "", new URL(answer.url).pathname);
  const page = adopt(html);
  if (matchMedia("(max-width: 56rem)").matches) field("result").scrollIntoView({ block: "start" });
  return page;
}
addEventListener("popstate", () => location.reload());

addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  if (event.key === "X" && event.shiftKey && !isTyping(event.target)) field("stop")?.click();
});
for (const example of document.querySelectorAll("[data-prompt]")) {
  example.addEventListener("click", (event) => {
    event.preventDefault();
    field("prompt").value = example.dataset.prompt;
    count();
    form.requestSubmit();
  });
}
// Stars and deletions in place.
document.addEventListener("submit", async (event) => {
  if (!event.target.matches("#result form[action^='/pictures/']")) return;
  event.preventDefault();
  const answer = await fetch(event.target.action, { method: "POST" });
  adopt(await answer.text());
});
watch();
