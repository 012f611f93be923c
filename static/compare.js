// One picture over the other, with a slider; without this file they stand beside each other.
const stage = document.getElementById("stage");
const share = document.getElementById("share");
const left = stage.querySelector("img");
stage.classList.add("over");
document.getElementById("slider").hidden = false;
const show = () => { left.style.clipPath = `inset(0 ${100 - share.value}% 0 0)`; };
share.addEventListener("input", show);
stage.addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse" && event.buttons === 0) return;
  const box = stage.getBoundingClientRect();
  share.value = Math.round(100 * (event.clientX - box.left) / box.width);
  show();
});
show();
