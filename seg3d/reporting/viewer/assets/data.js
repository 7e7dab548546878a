// What the page holds, unpacked, and what everything on it is drawn from.

const FACTS = JSON.parse(document.getElementById("facts").textContent);
const HEAT_STOPS = FACTS.heatStops.map(rgbOf);

const state = {
  map: "none", opacity: 0.5, outline: false, heat: "none", window: FACTS.window.slice(), hidden: new Set(),
  place: FACTS.start.slice(),
};

function rgbOf(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// bytes of a compressed part of the page
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// voxels of a NIfTI file of unsigned integers; x runs fastest
function voxelsOf(buffer) {
  const header = new DataView(buffer);
  const start = header.getFloat32(108, true);
  return header.getInt16(70, true) === 2 ? new Uint8Array(buffer, start) : new Uint16Array(buffer, start);
}

async function loadVolumes() {
  const names = ["image", ...FACTS.maps, ...Object.keys(FACTS.tops)];
  const files = {}, voxels = {};
  for (const name of names) {
    files[name] = await unpack(`volume-${name}`);
    voxels[name] = voxelsOf(files[name]);
  }
  return { files, voxels };
}

function indexOf([x, y, z]) {
  return x + FACTS.shape[0] * (y + FACTS.shape[1] * z);
}

// red, green, blue and opacity (0 to 1) of each number of the map that is shown; number 0 is background
function mapColours() {
  const known = state.map === "errors" ? FACTS.outcomes : FACTS.labels;
  const colours = known.map((one, i) => {
    const hidden = state.map !== "errors" && state.hidden.has(i + 1);
    return [...rgbOf(one.colour), hidden ? 0 : 1];
  });
  return [[0, 0, 0, 0], ...colours];
}

// red, green, blue and opacity (0 to 1) of a code of the heat map
function heatColour(code) {
  const at = (code / 255) * (HEAT_STOPS.length - 1);
  const low = Math.min(Math.floor(at), HEAT_STOPS.length - 2), share = at - low;
  const mixed = HEAT_STOPS[low].map((value, i) => value + share * (HEAT_STOPS[low + 1][i] - value));
  return [...mixed, Math.min(1, code / 64)];
}

function valueOf(code) {
  return FACTS.low + FACTS.step * code;
}

function codeOf(value) {
  return (value - FACTS.low) / FACTS.step;
}

function millimetres([x, y, z]) {
  return FACTS.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
}
