"use strict";
// One scan at a time: upload, wait, look, download, forget.

const byId = (id) => document.getElementById(id);
const POLL_MS = 500;
const SENT_SHARE = 0.2; // of the progress bar

let job = null; // what the server says of it
let request = null; // the upload under way
let stem = "scan"; // for the names of downloads; it never leaves this page
let round = 0; // a later one makes answers to a former one void

const inputs = [...document.querySelectorAll("#drop input[type=file]")];

function show(id, visible) {
  byId(id).hidden = !visible;
}

function fail(text) {
  byId("message").textContent = text;
  show("message", Boolean(text));
}

function progress(share, text) {
  byId("progress").value = share;
  byId("status").textContent = text;
}

function busy(on) {
  show("working", on);
  show("cancel", on);
  byId("start").disabled = on;
}

async function detailOf(answer) {
  if (answer.status === 401) location.replace("/login");
  try {
    const { detail } = await answer.json();
    return typeof detail === "string" ? detail : `the server answers ${answer.status}`;
  } catch {
    return `the server answers ${answer.status}`;
  }
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await detailOf(answer));
  return answer;
}

// --- uploading

function chosen() {
  return inputs.map((input) => input.files[0]).filter(Boolean);
}

function send(files) {
  const form = new FormData();
  // no name is sent: it may be the patient's
  for (const file of files) form.append("image", file, "image");
  return new Promise((resolve, reject) => {
    request = new XMLHttpRequest();
    request.open("POST", "/predict");
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      const share = event.total ? event.loaded / event.total : 0;
      progress(SENT_SHARE * share, share < 1 ? `sending, ${Math.round(100 * share)} %` : "checking the scan");
    };
    request.onload = () => {
      if (request.status === 202) return resolve(request.response);
      if (request.status === 401) location.replace("/login");
      return reject(new Error(request.response?.detail ?? `the server answers ${request.status}`));
    };
    request.onerror = () => reject(new Error("the connection was lost"));
    request.onabort = () => reject(new Error("cancelled"));
    request.send(form);
  });
}

async function start(event) {
  event.preventDefault();
  const files = chosen();
  const most = Number(byId("upload").dataset.mostBytes);
  fail("");
  if (files.reduce((sum, file) => sum + file.size, 0) > most) {
    fail(`the upload is too large: at most ${Math.round(most / 1048576)} MiB`);
    return;
  }
  await forget();
  const mine = (round += 1);
  busy(true);
  progress(0, "sending");
  stem = files[0].name.replace(/\.(nii\.gz|nii|nrrd|png|jpe?g)$/i, "") || "scan";
  try {
    const sent = await send(files);
    if (mine === round) job = sent;
    while (mine === round && ["queued", "running"].includes(job.state)) {
      const where = job.state === "queued" ? `waiting, place ${job.position}` : `segmenting, ${Math.round(100 * job.progress)} %`;
      progress(SENT_SHARE + (1 - SENT_SHARE) * job.progress, where);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      const next = await (await ask(job.links.self)).json();
      if (mine === round) job = next;
    }
    if (mine !== round) return;
    if (job.state === "done") present();
    else fail(job.error ?? `the job is ${job.state}`);
  } catch (error) {
    if (mine === round) fail(error.message);
  } finally {
    if (mine === round) busy(false);
  }
}

async function cancel() {
  round += 1;
  busy(false);
  request?.abort();
  await forget();
  fail("cancelled");
}

// --- results

function threshold() {
  return byId("use-threshold").checked ? Number(byId("threshold").value) : null;
}

function withThreshold(path, ...more) {
  const at = threshold();
  const query = [...(at === null ? [] : [`threshold=${at}`]), ...more];
  return query.length ? `${path}?${query.join("&")}` : path;
}

function link(text, path, name) {
  const anchor = document.createElement("a");
  anchor.className = "button";
  anchor.textContent = text;
  anchor.href = path;
  anchor.download = name;
  return anchor;
}

function present() {
  byId("use-threshold").checked = false;
  byId("threshold").value = 0.5;
  show("result", true);
  fill(job.volumes);
  refresh(false);
  byId("kept").textContent = `Deleted by itself in ${Math.max(1, Math.round((job.kept_s ?? 0) / 60))} minutes.`;
  byId("result").scrollIntoView({ block: "start" });
}

function fill(volumes) {
  const rows = volumes.map((found) => {
    const row = document.createElement("tr");
    const cells = [found.name, found.volume_ml === null ? "no pixel size" : found.volume_ml.toFixed(2), found.voxels.toLocaleString("en")];
    if (document.querySelectorAll("#volumes th").length > 3) cells.push(found.mean_sd === null ? "none" : found.mean_sd.toFixed(3));
    cells.forEach((text, column) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (column) cell.className = "number";
      row.append(cell);
    });
    return row;
  });
  byId("volumes").tBodies[0].replaceChildren(...rows);
}

function labelOf(name) {
  if (name.startsWith("probability_")) {
    const key = name.slice("probability_".length);
    const found = job.volumes.find((label) => String(label.value) === key);
    return `Probability of ${found?.name ?? key}`;
  }
  return { entropy: "Entropy", mutual_information: "Disagreement of runs", sd: "SD over runs" }[name] ?? name;
}

function refresh(measure) {
  const { self, page, mask, volumes, ...maps } = job.links;
  const at = threshold();
  byId("shown-threshold").value = at === null ? "most probable label" : `probability above ${at.toFixed(2)}`;
  byId("threshold").disabled = at === null;
  byId("viewer").src = withThreshold(page);
  byId("downloads").replaceChildren(
    link("Mask", withThreshold(mask), `${stem}_mask${job.suffixes.mask}`),
    ...Object.entries(maps).map(([name, path]) => link(labelOf(name), path, `${stem}_${name}${job.suffixes.maps}`)),
    link("HTML page", withThreshold(page, "download=true"), `${stem}.html`),
  );
  if (!measure) return;
  const mine = round;
  ask(withThreshold(volumes))
    .then((answer) => answer.json())
    .then((found) => mine === round && fill(found.volumes))
    .catch((error) => mine === round && fail(error.message));
}

async function forget() {
  const old = job;
  job = null;
  show("result", false);
  byId("viewer").removeAttribute("src");
  if (old) await fetch(old.links.self, { method: "DELETE" }).catch(() => {});
}

// --- what the page reacts to

byId("form").addEventListener("submit", start);
byId("cancel").addEventListener("click", cancel);
byId("forget").addEventListener("click", () => {
  round += 1;
  forget();
});
byId("use-threshold").addEventListener("change", () => refresh(true));
byId("threshold").addEventListener("change", () => refresh(true));
byId("threshold").addEventListener("input", () => {
  byId("shown-threshold").value = `probability above ${Number(byId("threshold").value).toFixed(2)}`;
});

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  // in the order of their names, which is that of the channels in NAME_0000, NAME_0001
  const files = [...event.dataTransfer.files].sort((a, b) => (a.name < b.name ? -1 : 1));
  if (files.length > inputs.length) {
    fail(`too many files: this model takes ${inputs.length}`);
    return;
  }
  files.forEach((file, number) => {
    const list = new DataTransfer();
    list.items.add(file);
    inputs[number].files = list.files;
  });
});
