// The least contrast of text and its ground (WCAG asks for 4.5), and where it is.
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { const c = rgba(getComputedStyle(e).backgroundColor); return c[3] === 255 || !e.parentElement ? c : ground(e.parentElement); };
let least = [99, ""];
for (const e of document.body.querySelectorAll("*")) {
  if (e.matches(":disabled, script, style, option, noscript") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const colour = e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color;
  const [a, b] = [light(rgba(colour)), light(ground(e))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < least[0]) least = [contrast, e.outerHTML.slice(0, 90)];
}
return least;
