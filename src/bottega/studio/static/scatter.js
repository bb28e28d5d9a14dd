// Points in three dimensions, turned by dragging or by the arrow keys. Our own: the chart library makes code out of
// texts for it, which the content policy of the studio does not allow.

import { h } from "./dom.js";
import { style } from "./chart.js";

const RADIUS = 2.5, MARKED = 5, STEP = 0.1;

/**
 * @param {string} label
 * @param {{place: number[], text: string, marked: boolean}[]} points
 */
export function scatter(label, points) {
  const canvas = h("canvas.scatter", { tabIndex: 0, role: "img", "aria-label": label });
  const hover = h("div.dim", { "aria-hidden": "true" });
  let turn = 0.6, tilt = 0.4, drawn = [], dragging = null;
  const most = points.reduce((largest, { place }) => Math.max(largest, ...place.map(Math.abs)), 1e-9);

  function project([x, y, z]) {
    const [right, deep] = [x * Math.cos(turn) + z * Math.sin(turn), z * Math.cos(turn) - x * Math.sin(turn)];
    return [right / most, (y * Math.cos(tilt) - deep * Math.sin(tilt)) / most, (deep * Math.cos(tilt) + y * Math.sin(tilt)) / most];
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d"), size = Math.min(width, height) * 0.62;
    context.scale(ratio, ratio);
    context.font = "12px system-ui, sans-serif";
    const colors = [style("--two"), style("--one"), style("--text")];
    drawn = points.map((point) => { const [x, y, deep] = project(point.place); return { point, x: width / 2 + x * size, y: height / 2 - y * size, deep }; }).sort((a, b) => a.deep - b.deep);
    for (const { point, x, y, deep } of drawn) {
      context.globalAlpha = point.marked ? 1 : 0.35 + 0.3 * (deep + 1) / 2;
      context.fillStyle = colors[point.marked ? 1 : 0];
      context.beginPath();
      // A shape of its own: never a colour alone.
      if (point.marked) context.rect(x - MARKED, y - MARKED, 2 * MARKED, 2 * MARKED);
      else context.arc(x, y, RADIUS, 0, 2 * Math.PI);
      context.fill();
      if (point.marked) { context.fillStyle = colors[2]; context.fillText(point.text, x + MARKED + 2, y + 4); }
    }
    context.globalAlpha = 1;
  }

  canvas.addEventListener("pointerdown", (event) => { dragging = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { dragging = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (dragging) {
      turn += (event.clientX - dragging[0]) / 150;
      tilt += (event.clientY - dragging[1]) / 150;
      dragging = [event.clientX, event.clientY];
      requestAnimationFrame(draw);
      return;
    }
    const near = drawn.map((one) => [Math.hypot(one.x - event.offsetX, one.y - event.offsetY), one]).sort((a, b) => a[0] - b[0])[0];
    hover.textContent = near && near[0] < 12 ? near[1].point.text : " ";
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!move) return;
    event.preventDefault();
    turn += move[0];
    tilt += move[1];
    draw();
  });
  new ResizeObserver(() => canvas.clientWidth && draw()).observe(canvas);
  return h("div", canvas, hover);
}
