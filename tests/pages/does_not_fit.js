// The elements whose text is wider than they are, unless they scroll; cells of tables of numbers with more than one line;
// and text in pictures that is cut off or smaller than one can read.
const scrolls = (e) => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const found = [];
for (const e of document.body.querySelectorAll("*")) {
  if (e.closest("svg") || e.matches(".skip, option, script, style")) continue;
  const box = e.getBoundingClientRect();
  if (!scrolls(e) && (e.scrollWidth > e.clientWidth + 1 && e.clientWidth || box.right > innerWidth + 1)) found.push(e.outerHTML.slice(0, 90));
  if (e.matches("td, tbody th") && !e.closest(".words") && box.height > 45) found.push("two lines: " + e.outerHTML.slice(0, 90));
}
for (const e of document.querySelectorAll("svg text")) {
  const text = e.getBoundingClientRect(), picture = e.closest("svg").getBoundingClientRect();
  if (text.height < 11) found.push("too small: " + e.textContent);
  if (text.left < picture.left - 1 || text.right > picture.right + 1) found.push("out of the picture: " + e.textContent);
}
return found;
