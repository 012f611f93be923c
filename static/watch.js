// A job's progress, as the server tells it. What the page says of a job always comes from the server's own page: here
// only numbers move and pictures appear.
import { enliven } from "./common.js";

const panel = () => document.getElementById("result");
let source = null;

/** Takes over the result, and what else `parts` names, from a page that the server has sent. */
export function adopt(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const fresh = page.getElementById("result");
  if (!fresh) return page;
  panel().replaceWith(document.adoptNode(fresh));
  document.title = page.title;
  enliven(panel());
  watch();
  panel().dispatchEvent(new CustomEvent("shown", { bubbles: true }));
  return page;
}

async function refresh(job) {
  try {
    const answer = await fetch(`/jobs/${job}`);
    if (panel().dataset.job === job) adopt(await answer.text());
  } catch {
    say("The server does not answer. This page goes on when it does.");
    setTimeout(() => refresh(job), 2000);
  }
}

function say(text) {
  const status = document.getElementById("status");
  if (status && status.textContent !== text) status.textContent = text;
}

const roughly = (seconds) => seconds < 1.5 ? "a second" : seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
const pace = (seconds) => seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
const nth = (n) => n + (n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th");

function stepped({ step, steps, picture, pictures, seconds_per_step, eta_seconds, preview }) {
  const bar = panel().querySelector("progress");
  bar.max = steps;
  bar.value = step;
  const which = pictures > 1 ? `picture ${picture + 1} of ${pictures}, ` : "";
  say(`${which}step ${step} of ${steps}, ${pace(seconds_per_step)} a step, about ${roughly(eta_seconds)} left`);
  if (!preview) return;
  const image = panel().querySelector(".live img");
  image.src = preview;
  image.hidden = false;
  panel().querySelector(".canvas").hidden = true;
}
const waits = ({ position, eta_seconds }) =>
  say(`${position === 1 ? "next" : nth(position)} in the queue, about ${roughly(eta_seconds)}`);
const loads = ({ model }) => say(`loading model ${model}`);

/** Follows the job that is shown, if it is not over. */
export function watch() {
  source?.close();
  source = null;
  const { job, state } = panel().dataset;
  if (!job || !["queued", "running"].includes(state)) return;
  source = new EventSource(`/api/v1/jobs/${job}/events`);
  const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("queued", waits);
  on("started", () => say("beginning"));
  on("loading", loads);
  on("step", stepped);
  on("snapshot", (told) => {
    if (told.position) waits(told);
    if (told.loading) loads({ model: told.loading });
  });
  const over = () => {
    source?.close();
    refresh(job);
  };
  for (const end of ["done", "failed", "cancelled"]) on(end, over);
  // A stream that cannot be taken up again by itself: the page says why, or that the job is over.
  source.addEventListener("error", () => { if (source?.readyState === EventSource.CLOSED) setTimeout(over, 1000); });
}

// Stopping takes effect at once; the stream tells when.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("form.progress")) return;
  event.preventDefault();
  say("stopping");
  fetch(event.target.action, { method: "POST", redirect: "manual" });
});
