// Moves both walks through their noise levels; without this file there are links for some moments.
for (const figure of document.querySelectorAll(".walk")) {
  const scrub = figure.querySelector(".scrub");
  if (!scrub) continue;
  scrub.hidden = false;
  const image = figure.querySelector("img"), range = scrub.querySelector("input");
  let wanted = null, loading = false;
  // One picture at a time; what was asked for meanwhile comes next.
  const load = () => {
    if (wanted === null || loading) return;
    [loading, image.src, wanted] = [true, `${image.dataset.address}&frame=${wanted}`, null];
  };
  for (const event of ["load", "error"]) image.addEventListener(event, () => { loading = false; load(); });
  range.addEventListener("input", () => {
    const share = range.value / range.max;
    for (const other of document.querySelectorAll(".scrub input")) {
      if (other !== range && other.dataset.led !== range.value) {
        other.dataset.led = range.value;
        other.value = Math.round(share * other.max);
        other.dispatchEvent(new Event("led"));
      }
    }
    wanted = range.value;
    load();
  });
  range.addEventListener("led", () => { wanted = range.value; load(); });
}
document.querySelector(".moments")?.remove();
