// Comforts on top of a form that works without this file.
"use strict";
const form = document.getElementById("form");
const field = (name) => document.getElementById(name);

// Sliders beside the numbers.
for (const slider of form.querySelectorAll("input[type=range]")) {
  const number = field(slider.dataset.for);
  slider.hidden = false;
  slider.addEventListener("input", () => { number.value = slider.value; });
  number.addEventListener("input", () => { slider.value = number.value; });
}

// While drawing: say so, count the seconds, and take no second click.
let ticking = 0;
function working(on) {
  form.classList.toggle("working", on);
  clearInterval(ticking);
  if (!on) return;
  const start = performance.now();
  const show = () => { field("elapsed").value = ((performance.now() - start) / 1000).toFixed(1) + " s"; };
  show();
  ticking = setInterval(show, 100);
}
form.addEventListener("submit", (event) => {
  if (form.classList.contains("working")) event.preventDefault();
  else working(true);
});
// The browser's back button shows this page as it was left.
addEventListener("pageshow", () => working(false));

addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
for (const example of document.querySelectorAll("[data-prompt]")) {
  example.addEventListener("click", (event) => {
    event.preventDefault();
    field("prompt").value = example.dataset.prompt;
    form.requestSubmit();
  });
}
for (const button of document.querySelectorAll("[data-seed]")) {
  button.hidden = false;
  button.addEventListener("click", () => { field("seed").value = button.dataset.seed; field("prompt").focus(); });
}

// Chosen files are shown; files dropped anywhere become the picture, or the mask when dropped there.
function preview(input) {
  const image = form.querySelector(`.preview[data-for=${input.id}]`);
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = input.files.length === 0;
  if (!image.hidden) image.src = URL.createObjectURL(input.files[0]);
}
for (const input of form.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => preview(input));
  if (input.files.length) preview(input);
}
const dragging = (on) => document.body.classList.toggle("dragging", on);
addEventListener("dragover", (event) => { event.preventDefault(); dragging(true); field("pictures").open = true; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) dragging(false); });
/** Puts a file into the form as if it had been picked. */
function give(target, file) {
  const one = new DataTransfer();
  one.items.add(file);
  target.files = one.files;
  target.dispatchEvent(new Event("change"));
}
addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(false);
  const [file] = event.dataTransfer.files;
  if (file) give(event.target.closest(".drop")?.querySelector("input") ?? field("image"), file);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file?.type.startsWith("image/")) return;
  event.preventDefault();
  field("pictures").open = true;
  give(field("image"), file);
});
