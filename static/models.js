// While models are loaded or fetched, the lists of them are the server's own, asked for anew; what is typed stays.
const lists = ["models", "pulls"];
const changes = () => document.getElementById("models").dataset.changes === "true";

async function refresh() {
  // A question whether to remove a model is not taken from under the pointer.
  if (!document.querySelector("details.remove[open]")) {
    try {
      const answer = await fetch("/models");
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of lists) {
        const [here, fresh] = [document.getElementById(id), page.getElementById(id)];
        if (!fresh || here.outerHTML === fresh.outerHTML) continue;
        const focused = here.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
        here.replaceWith(document.adoptNode(fresh));
        if (focused) fresh.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
      }
    } catch {
      // The server is away; it is asked again.
    }
  }
  if (changes()) setTimeout(refresh, 1000);
}
if (changes()) setTimeout(refresh, 1000);
