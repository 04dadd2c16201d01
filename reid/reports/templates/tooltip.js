// A picture with a title shows a larger copy of itself and the title beside the pointer.
const tip = document.body.appendChild(Object.assign(document.createElement("div"), {id: "tip"}));
for (const cell of document.querySelectorAll("figure[title]")) {
  cell.dataset.tip = cell.title;
  cell.removeAttribute("title");
  cell.addEventListener("pointerenter", () => {
    tip.replaceChildren(cell.querySelector("img").cloneNode(), cell.dataset.tip);
    tip.style.display = "block";
  });
  cell.addEventListener("pointermove", (event) => {
    const left = event.clientX + 18, top = event.clientY + 18, box = tip.getBoundingClientRect();
    tip.style.left = (left + box.width > innerWidth ? Math.max(4, event.clientX - box.width - 18) : left) + "px";
    tip.style.top = Math.max(4, Math.min(top, innerHeight - box.height - 4)) + "px";
  });
  cell.addEventListener("pointerleave", () => { tip.style.display = "none"; });
}
