// The slice browser: planes drawn on plain canvases, for browsers without WebGL2 and pages without NiiVue.

// right (+x) and front (+y) are on the left, as radiologists look at slices
const PLANES = [
  { name: "axial", normal: 2, across: 0, up: 1, sides: ["R", "L", "A", "P"] },
  { name: "coronal", normal: 1, across: 0, up: 2, sides: ["R", "L", "S", "I"] },
  { name: "sagittal", normal: 0, across: 1, up: 2, sides: ["A", "P", "S", "I"] },
];
const LONGEST = 560;

function planesShown() {
  if (FACTS.picture) return [PLANES[0]];
  const thin = PLANES.filter((plane) => FACTS.shape[plane.normal] === 1);
  return thin.length ? thin.slice(0, 1) : PLANES;
}

function makeSlices(box, voxels, onMove) {
  const views = planesShown().map((plane) => makeView(plane, voxels, onMove));
  box.replaceChildren(...views.map((view) => view.figure));
  box.hidden = false;
  return { kind: "slices", refresh: () => views.forEach((view) => view.draw()) };
}

function makeView(plane, voxels, onMove) {
  const [width, height] = [FACTS.shape[plane.across], FACTS.shape[plane.up]];
  const extent = [width * FACTS.spacing[plane.across], height * FACTS.spacing[plane.up]];
  const scale = LONGEST / Math.max(...extent);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = extent.map((length) => Math.max(1, Math.round(length * scale)));
  canvas.setAttribute("aria-label", FACTS.picture ? "picture" : `${plane.name} slice`);
  const small = document.createElement("canvas");
  [small.width, small.height] = [width, height];
  const { figure, slider, words } = makeFigure(plane, canvas);
  const go = (place) => onMove(place);
  slider.addEventListener("input", () => go(withAxis(plane.normal, Number(slider.value))));
  canvas.addEventListener("click", (event) => go(placeAt(event, canvas, plane, width, height)));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const next = state.place[plane.normal] + (event.deltaY < 0 ? 1 : -1);
    go(withAxis(plane.normal, Math.min(Math.max(next, 0), FACTS.shape[plane.normal] - 1)));
  }, { passive: false });
  const draw = () => {
    const index = state.place[plane.normal];
    small.getContext("2d").putImageData(pixelsOf(plane, index, voxels), 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    drawMarks(context, canvas, plane, width, height);
    slider.value = index;
    words.textContent = FACTS.picture ? `${width} × ${height} pixels`
      : `${plane.name} ${index + 1} of ${FACTS.shape[plane.normal]}`;
  };
  return { figure, draw };
}

function makeFigure(plane, canvas) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const words = document.createElement("span"), slider = document.createElement("input");
  figure.dataset.plane = plane.name;
  slider.type = "range";
  slider.min = 0;
  slider.max = FACTS.shape[plane.normal] - 1;
  slider.hidden = FACTS.shape[plane.normal] === 1;
  slider.setAttribute("aria-label", `${plane.name} slice`);
  caption.append(words, slider);
  figure.append(canvas, caption);
  return { figure, slider, words };
}

function withAxis(axis, value) {
  const place = state.place.slice();
  place[axis] = value;
  return place;
}

function placeAt(event, canvas, plane, width, height) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * width);
  const row = Math.floor(((event.clientY - box.top) / box.height) * height);
  const place = state.place.slice();
  const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
  place[plane.across] = within(FACTS.picture ? column : width - 1 - column, width);
  place[plane.up] = within(height - 1 - row, height);
  return place;
}

function pixelsOf(plane, index, voxels) {
  const [width, height] = [FACTS.shape[plane.across], FACTS.shape[plane.up]];
  const strides = [1, FACTS.shape[0], FACTS.shape[0] * FACTS.shape[1]];
  const [across, up] = [strides[plane.across], strides[plane.up]];
  const pixels = new ImageData(width, height);
  const [low, high] = state.window.map(codeOf);
  const map = state.map === "none" ? null : voxels[state.map], colours = mapColours();
  const heat = state.heat === "none" ? null : voxels[state.heat];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const i = FACTS.picture ? column : width - 1 - column, j = height - 1 - row;
      const at = index * strides[plane.normal] + i * across + j * up;
      const grey = Math.min(Math.max((voxels.image[at] - low) / (high - low), 0), 1) * 255;
      let colour = [grey, grey, grey];
      if (heat && heat[at]) colour = mixed(colour, heatColour(heat[at]), 0.85);
      if (map && map[at] && (!state.outline || isEdge(map, at, i, j, width, height, across, up))) {
        colour = mixed(colour, colours[map[at]], state.outline ? 1 : state.opacity);
      }
      pixels.data.set([...colour, 255], 4 * (row * width + column));
    }
  }
  return pixels;
}

function mixed(below, above, opacity) {
  const share = above[3] * opacity;
  return below.map((value, i) => value * (1 - share) + above[i] * share);
}

function isEdge(map, at, i, j, width, height, across, up) {
  return i === 0 || j === 0 || i === width - 1 || j === height - 1 || map[at - across] !== map[at]
    || map[at + across] !== map[at] || map[at - up] !== map[at] || map[at + up] !== map[at];
}

function drawMarks(context, canvas, plane, width, height) {
  const x = ((FACTS.picture ? state.place[plane.across] : width - 1 - state.place[plane.across]) + 0.5) / width;
  const y = (height - 0.5 - state.place[plane.up]) / height;
  context.fillStyle = "rgba(255, 60, 60, 0.7)";
  context.fillRect(x * canvas.width, 0, 1, canvas.height);
  context.fillRect(0, y * canvas.height, canvas.width, 1);
  if (FACTS.picture) return;
  const size = 22, [left, right, top, bottom] = plane.sides;
  const middle = [canvas.width / 2, canvas.height / 2];
  context.font = `bold ${size}px system-ui, "DejaVu Sans", sans-serif`;
  context.textBaseline = "middle";
  context.lineWidth = 4;
  for (const [letter, align, px, py] of [
    [left, "left", 6, middle[1]], [right, "right", canvas.width - 6, middle[1]],
    [top, "center", middle[0], size * 0.7], [bottom, "center", middle[0], canvas.height - size * 0.6],
  ]) {
    context.textAlign = align;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    context.strokeText(letter, px, py);
    context.fillText(letter, px, py);
  }
}
