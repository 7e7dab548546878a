// The controls, what stands under the crosshair, and the choice of the viewer.

const byId = (id) => document.getElementById(id);
let shown = null; // the viewer that draws

function tell(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
}

function digits(value) {
  return Math.abs(value) >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(3);
}

function onMove(place, voxels) {
  state.place = place;
  const at = indexOf(place);
  byId("at-place").textContent = inWords(place);
  const value = valueOf(voxels.image[at]);
  byId("at-image").textContent = `${FACTS.exact ? "" : "≈ "}${digits(value)} ${FACTS.unit}`;
  for (const map of FACTS.maps.filter((name) => name !== "errors")) {
    const number = voxels[map][at];
    byId(`at-${map}`).textContent = number ? FACTS.labels[number - 1].name : "background";
  }
  for (const [name, top] of Object.entries(FACTS.tops)) {
    byId(`at-${name}`).textContent = ((voxels[name][at] * top) / 255).toPrecision(3);
  }
}

function inWords(place) {
  if (FACTS.picture) return `column ${place[0] + 1}, row ${FACTS.shape[1] - place[1]}`;
  const sides = [["R", "L"], ["A", "P"], ["S", "I"]];
  const words = millimetres(place).map((mm, axis) => `${sides[axis][mm < 0 ? 1 : 0]} ${Math.abs(mm).toFixed(1)}`);
  return `${words.join(", ")} mm`;
}

function onWindow(window, preset = "own") {
  state.window = window;
  byId("preset").value = preset;
  [byId("low").value, byId("high").value] = window.map((value) => Number(value.toPrecision(4)));
}

function wireOverlay(refresh, voxels) {
  const radios = document.querySelectorAll("input[name=map]");
  const choose = (value) => {
    state.map = value;
    if (byId("outcomes")) byId("outcomes").hidden = value !== "errors";
  };
  radios.forEach((radio) => {
    if (radio.checked) choose(radio.value);
    radio.addEventListener("change", () => { choose(radio.value); refresh(); });
  });
  if (!radios.length) return;
  byId("opacity").addEventListener("input", () => { state.opacity = byId("opacity").value / 100; refresh(); });
  byId("outline").addEventListener("change", () => { state.outline = byId("outline").checked; refresh(); });
  document.querySelectorAll("#labels input").forEach((box) => box.addEventListener("change", () => {
    const number = Number(box.dataset.number);
    if (box.checked) state.hidden.delete(number); else state.hidden.add(number);
    refresh();
  }));
  if (byId("threshold")) byId("threshold").addEventListener("input", () => { applyThreshold(voxels); refresh(); });
}

// the first label wherever its probability reaches the threshold
function applyThreshold(voxels) {
  const threshold = byId("threshold").value / 100;
  const { probability, prediction, reference } = voxels;
  let found = 0, both = 0, wanted = 0;
  for (let i = 0; i < probability.length; i++) {
    const in_ = probability[i] >= threshold * 255;
    found += in_;
    const true_ = Boolean(reference) && reference[i] === FACTS.first;
    if (prediction) prediction[i] = in_ ? FACTS.first : 0;
    if (true_) { wanted += 1; both += in_; }
    if (voxels.errors) voxels.errors[i] = outcome(in_, true_);
  }
  byId("threshold-value").textContent = threshold.toFixed(2);
  const size = FACTS.picture ? `${found} pixels` : `${digits(found * FACTS.voxelMl)} mL`;
  const dice = reference && found + wanted ? `, Dice ${((2 * both) / (found + wanted)).toFixed(3)}` : "";
  byId("threshold-found").textContent = `At ${threshold.toFixed(2)} on this page's grid: ${size}${dice}.`;
}

function outcome(found, wanted) {
  return found && wanted ? 1 : found ? 2 : wanted ? 3 : 0;
}

function wireHeat(refresh) {
  document.querySelectorAll("input[name=heat]").forEach((radio) => radio.addEventListener("change", () => {
    state.heat = radio.value;
    byId("heat-scale").hidden = radio.value === "none";
    if (radio.value !== "none") byId("heat-top").textContent = FACTS.tops[radio.value].toPrecision(3);
    refresh();
  }));
  if (byId("heat-scale")) {
    const stops = FACTS.heatStops.join(", ");
    byId("heat-scale").querySelector("i").style.background = `linear-gradient(to right, ${stops})`;
  }
}

function wireWindow(refresh) {
  const first = Object.keys(FACTS.presets)[0];
  onWindow(FACTS.window.slice(), first);
  byId("preset").addEventListener("change", () => {
    const chosen = byId("preset").value;
    if (chosen in FACTS.presets) { onWindow(FACTS.presets[chosen].slice(), chosen); refresh(); }
  });
  for (const id of ["low", "high"]) {
    byId(id).addEventListener("change", () => {
      const window = [Number(byId("low").value), Number(byId("high").value)];
      if (window[0] < window[1]) { onWindow(window); refresh(); }
    });
  }
}

function wireView() {
  if (shown.kind !== "niivue") return;
  const type = sliceType();
  if (type !== 3) { // a single slice or picture
    shown.layout(type);
    return;
  }
  byId("view").hidden = false;
  byId("layout").value = shown.slow ? "planes" : "3";
  byId("slow").hidden = !shown.slow;
  shown.layout(byId("layout").value);
  byId("layout").addEventListener("change", () => shown.layout(byId("layout").value));
  byId("clip").addEventListener("change", () => shown.clip(byId("clip").checked));
}

async function chooseViewer(data, move) {
  const missing = byId("no-niivue");
  if (missing) tell(missing.textContent);
  else if (!hasWebGL2()) tell("This browser has no WebGL2, which the 3D viewer needs: slices are shown instead.");
  else {
    try {
      return await makeVolume3d(byId("gl-box"), byId("gl"), data, move);
    } catch (error) {
      byId("gl-box").hidden = true;
      tell(`The 3D viewer did not start (${error.message}): slices are shown instead.`);
    }
  }
  return makeSlices(byId("slices"), data.voxels, (place) => { move(place); shown.refresh(); });
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    tell("This browser is too old for the viewer; a picture is shown instead.");
    return;
  }
  const data = await loadVolumes();
  const refresh = () => { if (shown) shown.refresh(); };
  wireOverlay(refresh, data.voxels);
  wireHeat(refresh);
  wireWindow(refresh);
  document.documentElement.classList.add("live");
  const move = (place) => onMove(place, data.voxels);
  shown = await chooseViewer(data, move);
  wireView();
  refresh();
  move(state.place);
  document.documentElement.dataset.viewer = shown.kind;
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => tell(`The viewer did not start: ${error.message}`));
