// Files: shown when chosen, taken when dropped or pasted, and asked for the settings that they were drawn with.
const form = document.getElementById("form");
const field = (name) => document.getElementById(name);

const CONTROLS = ["control_image", "control_image_2", "control_image_3"];

/** A chosen file; of a picture that a net follows, what the net would see of it. */
async function seen(input) {
  const [file] = input.files;
  const index = CONTROLS.indexOf(input.id);
  const wanted = (index < 0 ? "" : form.elements.control_preprocessor.value).split(",")[index]?.trim();
  if (!file || !wanted) return file;
  try {
    const address = `/api/v1/preprocess?with=${encodeURIComponent(wanted)}`;
    const answer = await fetch(address, { method: "POST", headers: { "Content-Type": file.type }, body: file });
    return answer.ok ? await answer.blob() : file;
  } catch {
    return file;
  }
}

async function preview(input) {
  const image = form.querySelector(`.preview[data-for=${input.id}]`);
  const shown = await seen(input);
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !shown;
  if (shown) image.src = URL.createObjectURL(shown);
}

/** Puts a file into the form as if it had been picked. */
export function give(target, file) {
  const one = new DataTransfer();
  one.items.add(file);
  target.files = one.files;
  target.dispatchEvent(new Event("change"));
}

/** The settings in a picture, where there are any. */
async function settings(file) {
  if (file.type !== "image/png") return null;
  try {
    const answer = await fetch("/api/v1/inspect", { method: "POST", headers: { "Content-Type": "image/png" }, body: file });
    return answer.ok ? (await answer.json()).request : null;
  } catch {
    return null;
  }
}

/** What an input would send; what is empty is the model's own. A box sends its value or nothing. */
function sends(input) {
  if (input.type === "checkbox") return input.checked ? input.value : "false";
  return input.value || input.dataset.own || (input.type === "number" ? input.placeholder : "");
}

function put(input, text) {
  if (input.type === "checkbox") input.checked = text === input.value;
  else input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/** What would change, as rows of a table: name, now, then. */
function changes(request) {
  const rows = [];
  for (const [name, value] of Object.entries(request)) {
    const input = form.elements[name];
    if (name === "seed" && request.seed_text) continue;
    const target = name === "seed_text" ? form.elements.seed : input;
    if (!target || target.type === "file" || value === null) continue;
    const now = sends(target);
    if (now !== String(value)) rows.push([target, target.name, now, String(value)]);
  }
  return rows;
}

async function take(file) {
  const request = await settings(file);
  const picture = () => { field("pictures").open = true; give(field("image"), file); };
  if (!request) return picture();
  const rows = changes(request);
  const body = document.querySelector("#found tbody");
  body.replaceChildren(...rows.map(([, name, now, then]) => {
    const row = document.createElement("tr");
    for (const text of [name.replaceAll("_", " "), now || "–", then || "–"]) row.insertCell().textContent = text;
    return row;
  }));
  const dialog = field("found");
  dialog.returnValue = "";
  dialog.showModal();
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "start") picture();
    if (dialog.returnValue !== "settings") return;
    for (const [target, , , then] of rows) put(target, then);
  }, { once: true });
}

for (const input of form.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => preview(input));
  if (input.files.length) preview(input);
}
form.elements.control_preprocessor.addEventListener("change", () => {
  for (const name of CONTROLS) if (field(name).files.length) preview(field(name));
});
const dragging = (on) => document.body.classList.toggle("dragging", on);
addEventListener("dragover", (event) => { event.preventDefault(); dragging(true); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) dragging(false); });
addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(false);
  const [file] = event.dataTransfer.files;
  const place = event.target.closest(".drop")?.querySelector("input");
  if (file && place) give(place, file);
  else if (file) take(file);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file?.type.startsWith("image/")) return;
  event.preventDefault();
  take(file);
});

// A finished picture to start from is fetched, so that it can be painted on; without this file the server takes it.
const start = form.elements.start;
if (start?.checked) {
  fetch(`/api/v1/images/${start.value}`, { headers: { Accept: "image/png" } }).then(async (answer) => {
    if (!answer.ok) return;
    give(field("image"), new File([await answer.blob()], "start.png", { type: "image/png" }));
    start.closest("label").remove();
  });
}
