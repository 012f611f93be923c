// Painting a mask over the chosen picture. The result becomes the form's mask file, so the form posts it as it would
// post one that was picked; without this file the mask is uploaded.
const form = document.getElementById("form");
const picture = document.getElementById("image");
const mask = document.getElementById("mask");
const editor = document.getElementById("editor");
const photo = editor.querySelector("img");
const canvas = editor.querySelector("canvas");
const paint = canvas.getContext("2d", { willReadFrequently: true });
const control = (name) => editor.querySelector(`[data-mask=${name}]`);
const size = control("size");
const eraser = control("eraser");

// What was done, in order. Undo draws the list anew without its last entry: cheaper to keep than pictures of each state.
let done = [];
let undone = [];
let stroke = null;
/** The file in the making; a submit has to wait for it. */
let pending = null;
/** Whether the form's mask was painted here; one that was picked is left alone until somebody paints. */
let painted = false;

const INK = "#d6336c";
const draw = {
  stroke({ erase, width, points }) {
    paint.globalCompositeOperation = erase ? "destination-out" : "source-over";
    paint.strokeStyle = INK;
    paint.lineWidth = width;
    paint.lineCap = paint.lineJoin = "round";
    paint.beginPath();
    paint.moveTo(...points[0]);
    // A single point is a line to itself: round caps make it a dot.
    for (const point of points) paint.lineTo(...point);
    paint.stroke();
  },
  // Covering with xor turns every alpha a into 1 - a.
  invert() {
    paint.globalCompositeOperation = "xor";
    paint.fillStyle = INK;
    paint.fillRect(0, 0, canvas.width, canvas.height);
  },
  clear() { paint.clearRect(0, 0, canvas.width, canvas.height); },
};

function redraw() {
  draw.clear();
  for (const action of done) draw[action.kind](action);
}

function act(action) {
  done.push(action);
  undone = [];
  redraw();
  changed();
}

function move(from, to) {
  if (!from.length) return;
  to.push(from.pop());
  redraw();
  changed();
}

function changed() {
  control("undo").disabled = !done.length;
  control("redo").disabled = !undone.length;
  const work = exported().then((file) => {
    if (pending !== work) return;
    setFile(file);
    pending = null;
  });
  pending = work;
}

/** White where paint is, black elsewhere; nothing when nothing is painted. */
async function exported() {
  const pixels = paint.getImageData(0, 0, canvas.width, canvas.height).data;
  if (!pixels.some((value, k) => k % 4 === 3 && value > 0)) return null;
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const target = copy.getContext("2d");
  target.drawImage(canvas, 0, 0);
  target.globalCompositeOperation = "source-in";
  target.fillStyle = "#fff";
  target.fillRect(0, 0, copy.width, copy.height);
  target.globalCompositeOperation = "destination-over";
  target.fillStyle = "#000";
  target.fillRect(0, 0, copy.width, copy.height);
  return new File([await copy.convertToBlob({ type: "image/png" })], "painted-mask.png", { type: "image/png" });
}

function setFile(file) {
  const files = new DataTransfer();
  if (file) files.items.add(file);
  mask.files = files.files;
  painted = file !== null;
}

function forget() {
  done = [];
  undone = [];
  stroke = pending = null;
  control("undo").disabled = control("redo").disabled = true;
  draw.clear();
}

form.addEventListener("submit", async (event) => {
  if (!pending) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  await pending;
  form.requestSubmit();
}, { capture: true });

/** A new picture: an empty mask of its size. */
photo.addEventListener("load", () => {
  canvas.width = photo.naturalWidth;
  canvas.height = photo.naturalHeight;
  size.max = Math.max(8, Math.round(Math.max(canvas.width, canvas.height) / 2));
  size.value = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 12));
  forget();
  if (painted) setFile(null);
  editor.hidden = false;
});
// What is no picture is for the server to refuse, in words; here it only cannot be painted on.
photo.addEventListener("error", () => { editor.hidden = true; });

picture.addEventListener("change", () => {
  if (photo.src) URL.revokeObjectURL(photo.src);
  if (picture.files.length) {
    photo.src = URL.createObjectURL(picture.files[0]);
  } else {
    photo.removeAttribute("src");
    editor.hidden = true;
    forget();
    if (painted) setFile(null);
  }
});
// A mask that was picked replaces what was painted.
mask.addEventListener("change", () => {
  done = [];
  undone = [];
  pending = null;
  redraw();
  control("undo").disabled = control("redo").disabled = true;
});

// The canvas is shown smaller or larger than the picture is.
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}
canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || stroke) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  // The other end of a pen erases.
  const erase = eraser.checked || (event.buttons & 32) !== 0;
  stroke = { kind: "stroke", id: event.pointerId, erase, width: Number(size.value), points: [place(event)] };
  draw.stroke(stroke);
});
canvas.addEventListener("pointermove", (event) => {
  if (stroke?.id !== event.pointerId) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const part of events.length ? events : [event]) stroke.points.push(place(part));
  draw.stroke(stroke);
});
function lift(event) {
  if (stroke?.id !== event.pointerId) return;
  const finished = stroke;
  stroke = null;
  act(finished);
}
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);

const opacity = () => { canvas.style.opacity = control("opacity").value / 100; };
control("opacity").addEventListener("input", opacity);
opacity();
const resize = (factor) => { size.value = factor > 1 ? Math.ceil(size.value * factor) : Math.floor(size.value * factor); };
const commands = {
  undo: () => move(done, undone),
  redo: () => move(undone, done),
  invert: () => act({ kind: "invert" }),
  clear: () => act({ kind: "clear" }),
};
for (const [name, command] of Object.entries(commands)) control(name).addEventListener("click", command);

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=range], [type=checkbox], [type=file]), textarea, select");
  if (editor.hidden || typing || event.altKey) return;
  const key = event.key.toLowerCase();
  const command = event.ctrlKey || event.metaKey
    ? { z: event.shiftKey ? commands.redo : commands.undo, y: commands.redo }[key]
    : { "[": () => resize(1 / 1.25), "]": () => resize(1.25), e: () => { eraser.checked = !eraser.checked; } }[key];
  if (!command) return;
  event.preventDefault();
  command();
});
// Chosen before this file was there.
if (picture.files.length) picture.dispatchEvent(new Event("change"));
