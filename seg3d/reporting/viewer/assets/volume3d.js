// Three planes and a rendering by NiiVue.

const FAINT = 1 / 1024; // a layer that NiiVue takes for visible, and nobody sees
const CUT_OPEN = [0.05, 180, 20], WHOLE = [2, 0, 0]; // depth, azimuth and elevation of the clip plane

function hasWebGL2() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

// run NiiVue's own script, which leaves its classes in a global
async function startNiivue() {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unpack("niivue"));
  document.head.append(script);
  return globalThis.niivue;
}

async function makeVolume3d(box, canvas, { files, voxels }, onMove) {
  const library = await startNiivue();
  box.hidden = false;
  const viewer = new library.Niivue({
    logLevel: "error", isRadiologicalConvention: !FACTS.picture, sagittalNoseLeft: true,
    isOrientationTextVisible: !FACTS.picture, showAllOrientationMarkers: true, isNearestInterpolation: true,
    multiplanarShowRender: 1, sliceType: 0, show3Dcrosshair: true, dragAndDropEnabled: false, loadingText: "",
    crosshairColor: [1, 0.25, 0.25, 0.8], crosshairWidth: 0.5, crosshairWidthUnit: "percent", fontColor: [1, 1, 1, 1], backColor: [0, 0, 0, 1],
    isResizeCanvas: true, tileMargin: -1, multiplanarPadPixels: 14, clipPlaneColor: [0, 0, 0, 0],
  });
  lettersBeside(viewer);
  await viewer.attachToCanvas(canvas, false);
  const layers = await addLayers(viewer, files);
  addHeat(viewer);
  if (layers.labels) addOutlines(viewer);
  let quiet = false;
  viewer.onLocationChange = (location) => {
    if (!quiet) onMove(clamped(location.vox));
  };
  viewer.onIntensityChange = (volume) => {
    if (volume === viewer.volumes[0]) onWindow([valueOf(volume.cal_min), valueOf(volume.cal_max)]);
  };
  quiet = true;
  viewer.scene.crosshairPos = viewer.vox2frac(state.place);
  quiet = false;
  const refresh = () => {
    [viewer.volumes[0].cal_min, viewer.volumes[0].cal_max] = state.window.map(codeOf);
    if (layers.heat) showHeat(layers.heat, voxels);
    if (layers.labels) showMap(viewer, layers.labels, voxels);
    viewer.updateGLVolume();
  };
  const layout = (chosen) => {
    viewer.opts.multiplanarShowRender = chosen === "planes" ? 0 : 1;
    viewer.setSliceType(chosen === "planes" ? 3 : Number(chosen));
  };
  return {
    kind: "niivue", viewer, refresh, layout, slow: isSlow(viewer.gl),
    clip: (wanted) => viewer.setClipPlane(wanted ? CUT_OPEN : WHOLE),
  };
}

// the sides of the patient are written on the margin of each plane, where no bright tissue hides them
function lettersBeside(viewer) {
  const write = viewer.drawSliceOrientationText.bind(viewer);
  viewer.drawSliceOrientationText = ([left, top, width, height], ...more) => {
    const { width: columns, height: rows } = viewer.canvas, room = viewer.fontPx;
    const [x, y] = [Math.max(0, left - room), Math.max(0, top - room)];
    const [right, bottom] = [Math.min(columns, left + width + room), Math.min(rows, top + height + room)];
    write([x, y, right - x, bottom - y], ...more);
  };
}

// whether a rendering would take seconds: no graphics card, and many voxels
function isSlow(gl) {
  const known = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(gl.getParameter(known ? known.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  const voxels = FACTS.shape.reduce((product, n) => product * n, 1);
  return /swiftshader|llvmpipe|software|basic render/i.test(renderer) && voxels > 1e6;
}

// image, labels and heat map; the latter two take in turn what is chosen
async function addLayers(viewer, files) {
  const layers = {};
  const add = async (name, file) => {
    await viewer.loadFromArrayBuffer(file.slice(0), `${name}.nii`);
    return viewer.volumes[viewer.volumes.length - 1];
  };
  await add("image", files.image);
  const map = FACTS.maps[0], heat = Object.keys(FACTS.tops)[0];
  if (heat) layers.heat = await add("heat", files[heat]); // below the labels, whose outlines stay visible
  if (map) layers.labels = await add("labels", files[map]);
  return layers;
}

function addHeat(viewer) {
  const codes = Array.from({ length: 17 }, (_, i) => Math.min(255, i * 16));
  const colours = codes.map(heatColour);
  const channel = (at) => colours.map((colour) => Math.round(colour[at]));
  viewer.addColormap("seg3d", {
    R: channel(0), G: channel(1), B: channel(2), A: colours.map((colour) => Math.round(255 * colour[3])), I: codes,
  });
}

function showMap(viewer, layer, voxels) {
  const map = voxels[state.map], outlined = Boolean(map) && state.outline && hasLines(map);
  viewer.drawOpacity = outlined ? FAINT : 0;
  layer.opacity = !map || outlined ? 0 : state.outline ? 1 : state.opacity;
  if (!map) return;
  const colours = mapColours(), channel = (at) => colours.map((colour) => colour[at]);
  const table = {
    R: channel(0), G: channel(1), B: channel(2), A: colours.map((colour) => 255 * colour[3]), I: [...colours.keys()],
    labels: colours.map((_, number) => String(number)),
  };
  if (outlined) {
    viewer.drawBitmap.set(map);
    viewer.setDrawColormap(table);
    viewer.refreshDrawing(false);
    return;
  }
  layer.img.set(state.outline ? surfaceOf(map) : map);
  layer.setColormapLabel(table);
}

// outlines are NiiVue's drawing, of which each plane shows the rim alone; it has 8 bits, and lies below a heat map
function hasLines(map) {
  return map instanceof Uint8Array && state.heat === "none";
}

function addOutlines(viewer) {
  viewer.createEmptyDrawing();
  viewer.drawOpacity = 0;
  viewer.drawRimOpacity = 1;
  const render = viewer.draw3D.bind(viewer);
  viewer.draw3D = (...where) => {
    const kept = viewer.drawOpacity;
    viewer.drawOpacity = kept > 0 ? 1 : 0; // a rendering has no rims: it shows the surface
    const drawn = render(...where);
    viewer.drawOpacity = kept;
    return drawn;
  };
}

// the map without the voxels whose face neighbours all have their label: outlines over a heat map
function surfaceOf(map) {
  const surface = map.slice(), strides = [1, FACTS.shape[0], FACTS.shape[0] * FACTS.shape[1]];
  const axes = [0, 1, 2].filter((axis) => FACTS.shape[axis] > 1);
  for (let at = 0; at < map.length; at++) {
    if (!map[at]) continue;
    const inside = axes.every((axis) => {
      const place = Math.floor(at / strides[axis]) % FACTS.shape[axis];
      return place > 0 && place < FACTS.shape[axis] - 1
        && map[at - strides[axis]] === map[at] && map[at + strides[axis]] === map[at];
    });
    if (inside) surface[at] = 0;
  }
  return surface;
}

function showHeat(layer, voxels) {
  layer.opacity = state.heat === "none" ? 0 : 0.85;
  if (state.heat === "none") return;
  layer.img.set(voxels[state.heat]);
  layer.colormap = "seg3d";
  [layer.cal_min, layer.cal_max] = [0, 255];
}

function sliceType() {
  if (FACTS.picture) return 0;
  const thin = [2, 1, 0].findIndex((axis) => FACTS.shape[axis] === 1);
  return thin === -1 ? 3 : thin; // 0 axial, 1 coronal, 2 sagittal, 3 all
}

function clamped(place) {
  return Array.from(place).slice(0, 3).map((v, axis) => Math.min(Math.max(Math.round(v), 0), FACTS.shape[axis] - 1));
}
