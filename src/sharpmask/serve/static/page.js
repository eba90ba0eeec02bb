// The page: photos in, masks picked, files out.

import { FORMATS, save } from "./files.js";
import { Photo } from "./photos.js";
import { Server } from "./server.js";
import { View, colourOf } from "./view.js";

const DRAG = 6; // pixels of the screen that make a click a box
const STEP = 12; // pixels of the screen that an arrow key moves the cursor

const find = (id) => document.getElementById(id);
const canvas = find("canvas");
const view = new View(canvas);

const photos = [];
let engine;
let current; // the photo on the stage
let under = []; // masks under the cursor, from part to whole
let chosen = null; // one of them, or one chosen by key
let cursor = null; // moved by keys
let box = null; // being drawn
let corner = null; // where a box began

start().catch((error) => say(error.message, true));

async function start() {
  const config = await (await fetch("config.json")).json();
  if (config.mode === "server") {
    engine = new Server(tokenOf(config));
    find("mode").textContent = "computed by the server";
  } else {
    const { Browser } = await import("./browser.js");
    engine = new Browser(config.model);
    find("mode").textContent = "computed in this browser; photos stay here";
  }
  listen();
  say("Ready");
}

// A token comes behind the address, where no server sees it, and goes from there at once.
function tokenOf(config) {
  if (!config.token) return "";
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}

function say(text, bad = false) {
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

// --- photos ---

async function take(files) {
  const added = [...files].map((file) => new Photo(file));
  photos.push(...added);
  if (!current && added.length) select(added[0]);
  drawStrip();
  for (const photo of added) await read(photo);
}

async function read(photo) {
  try {
    await photo.open();
    photo.thumbnail = thumbnailOf(photo);
    refresh(photo);
    const began = performance.now();
    const { id, masks, size } = await engine.propose(photo.file);
    if (size[0] !== photo.height || size[1] !== photo.width) {
      throw new Error("is shown at another size than it was read");
    }
    photo.id = id;
    photo.seconds = (performance.now() - began) / 1000;
    masks.forEach((each) => photo.add(each));
    photo.state = "ready";
  } catch (error) {
    photo.state = "failed";
    photo.problem = error.message;
  }
  refresh(photo);
}

function refresh(photo) {
  drawStrip();
  if (photo === current) select(photo);
}

function select(photo) {
  const isNew = photo !== current;
  current = photo;
  if (isNew) {
    [under, chosen, cursor, box, corner] = [[], null, null, null, null];
  }
  const isOpen = Boolean(photo.bitmap);
  canvas.hidden = !isOpen;
  find("empty").hidden = isOpen || photos.length > 0;
  if (isOpen) view.fit(photo);
  find("count").max = Math.max(1, photo.objects.length);
  if (photo.state === "ready" && isNew | !photo.seen) {
    photo.seen = true;
    find("count").value = find("count").max;
  }
  if (photo.state === "waiting") say(`${photo.name}: looking for objects`);
  else if (photo.state === "failed") say(`${photo.name}: ${photo.problem}`, true);
  else say(`${photo.name}: ${photo.objects.length} masks in ${photo.seconds.toFixed(1)} s`);
  drawStrip();
  drawAll();
}

function thumbnailOf(photo) {
  const picture = document.createElement("canvas");
  picture.ariaHidden = true;
  [picture.width, picture.height] = [160, 100];
  const scale = Math.max(160 / photo.width, 100 / photo.height);
  const [width, height] = [photo.width * scale, photo.height * scale];
  const context = picture.getContext("2d");
  context.drawImage(photo.bitmap, (160 - width) / 2, (100 - height) / 2, width, height);
  return picture;
}

function drawStrip() {
  const buttons = photos.map((photo) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-current", photo === current);
    button.append(photo.thumbnail ?? "", named("span", photo.name));
    const note = photo.state === "failed" ? "cannot be read" : photo.state === "waiting" ? "…" : `${photo.kept.length} kept`;
    button.append(named("span", note, photo.state === "failed" ? "bad" : ""));
    button.addEventListener("click", () => {
      select(photo);
      canvas.focus();
    });
    return button;
  });
  find("strip").replaceChildren(...buttons);
}

function named(kind, text, className = "") {
  const element = document.createElement(kind);
  element.textContent = text;
  element.className = className;
  return element;
}

// --- masks ---

// What the sliders let through, best first, and all that is kept.
function shown() {
  const most = Number(find("count").value);
  const least = Number(find("score").value);
  return current.objects.filter(
    (object, index) => object.kept || object.asked || (index < most && object.score >= least),
  );
}

function drawAll() {
  find("count-value").textContent = find("count").value;
  find("score-value").textContent = Number(find("score").value).toFixed(2);
  if (current?.bitmap) view.draw(current, { shown: shown().reverse(), chosen, box, cursor });
  drawKept();
}

function drawKept() {
  const kept = current?.kept ?? [];
  const labels = new Set(photos.flatMap((photo) => photo.kept.map(({ label }) => label)));
  find("labels").replaceChildren(...[...labels].map((label) => Object.assign(document.createElement("option"), { value: label })));
  find("none").hidden = kept.length > 0;
  find("undo").disabled = !current?.past.length;
  find("redo").disabled = !current?.future.length;
  const any = photos.some((photo) => photo.kept.length);
  find("formats").querySelectorAll("button").forEach((button) => (button.disabled = !any));
  const rows = kept.map((object, index) => {
    const row = document.createElement("li");
    const swatch = named("span", "", "swatch");
    swatch.style.background = `${colourOf(object)})`;
    const input = Object.assign(document.createElement("input"), { type: "text", value: object.label });
    input.setAttribute("list", "labels");
    input.setAttribute("aria-label", `Name of kept mask ${index + 1}`);
    input.addEventListener("change", () => {
      current.change(object, { label: input.value.trim() || "object" });
      drawAll();
    });
    input.addEventListener("focus", () => {
      chosen = object;
      view.draw(current, { shown: shown().reverse(), chosen, box, cursor });
    });
    const drop = named("button", "Drop");
    drop.type = "button";
    drop.setAttribute("aria-label", `Drop kept mask ${index + 1}, ${object.label}`);
    drop.addEventListener("click", () => toggle(object));
    row.append(swatch, input, drop);
    return row;
  });
  find("kept").replaceChildren(...rows);
}

function describe(object) {
  const share = (100 * object.mask.area) / (current.width * current.height);
  const place = under.length > 1 && under.includes(object) ? `, ${under.indexOf(object) + 1} of ${under.length} here` : "";
  return `Mask ${object.number + 1}: score ${object.score.toFixed(2)}, ${share.toFixed(1)} % of the photo${place}${object.kept ? ", kept" : ""}`;
}

function point(x, y) {
  const here = current.at(x, y, shown());
  const same = here.length === under.length && here.every((object, index) => object === under[index]);
  if (!same) {
    under = here;
    // The best mask first; the wheel then goes to smaller and larger ones.
    chosen = here.reduce((best, each) => (!best || each.score > best.score ? each : best), null);
  } else if (!here.includes(chosen)) {
    chosen = here.at(-1) ?? null;
  }
  if (chosen) say(describe(chosen));
  drawAll();
}

// From part to whole, or back.
function step(by) {
  if (!under.length) return;
  const index = under.indexOf(chosen) + by;
  chosen = under[Math.min(under.length - 1, Math.max(0, index))];
  say(describe(chosen));
  drawAll();
}

function toggle(object) {
  current.toggle(object);
  say(describe(object));
  drawStrip();
  drawAll();
}

// Keep what a point or a box asks for.
async function ask(question) {
  const photo = current;
  if (photo.state !== "ready") return;
  say("Looking there");
  try {
    const { masks } = await engine.prompt(photo.id, photo.file, question);
    const found = masks.filter(({ mask }) => mask.area);
    if (!found.length) {
      say("Nothing found there; draw a box round it", true);
      return;
    }
    const object = Object.assign(photo.add(found[0]), { asked: true });
    photo.toggle(object);
    if (photo === current) {
      chosen = object;
      say(`${describe(object)}`);
    }
  } catch (error) {
    say(error.message, true);
  }
  drawStrip();
  drawAll();
}

function walk(by) {
  const masks = shown();
  if (!masks.length) return;
  const index = masks.indexOf(chosen);
  chosen = masks[(index + by + masks.length) % masks.length];
  const [x0, y0, x1, y1] = chosen.mask.box;
  cursor = [(x0 + x1) / 2, (y0 + y1) / 2];
  under = current.at(...cursor, masks);
  if (!under.includes(chosen)) under = [chosen];
  say(describe(chosen));
  drawAll();
}

function back(where) {
  const object = current?.[where]();
  if (!object) return;
  say(describe(object));
  drawStrip();
  drawAll();
}

// --- mouse, keys, files ---

function listen() {
  find("pick").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
    if (files.length) take(files);
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      find("stage").classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
  canvas.addEventListener("pointerdown", (event) => {
    corner = { at: view.place(event), screen: [event.clientX, event.clientY] };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    cursor = null;
    const at = view.place(event);
    if (corner?.screen && event.buttons) {
      const [x, y] = corner.screen;
      const far = Math.hypot(event.clientX - x, event.clientY - y) > DRAG;
      if (far || box) box = boxOf(corner.at, at);
      if (box) return drawAll();
    }
    point(...at);
  });
  canvas.addEventListener("pointerup", (event) => {
    const drawn = box;
    [box, corner] = [null, null];
    if (drawn) ask({ box: drawn });
    else pick(view.place(event));
  });
  canvas.addEventListener("pointercancel", () => {
    [box, corner] = [null, null];
    drawAll();
  });
  canvas.addEventListener("pointerleave", () => {
    if (box || cursor) return;
    [under, chosen] = [[], null];
    drawAll();
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      step(event.deltaY < 0 ? 1 : -1);
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", onKey);
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.type === "text") return;
    const key = event.key.toLowerCase();
    if (key === "z") back(event.shiftKey ? "redo" : "undo");
    else if (key === "y") back("redo");
    else return;
    event.preventDefault();
  });
  for (const id of ["count", "score"]) find(id).addEventListener("input", drawAll);
  find("undo").addEventListener("click", () => back("undo"));
  find("redo").addEventListener("click", () => back("redo"));
  find("formats").addEventListener("click", async (event) => {
    const { format } = event.target.dataset;
    if (!format) return;
    save(await FORMATS[format](photos.filter((photo) => photo.kept.length)));
    say(`Saved as ${format}`);
  });
  new ResizeObserver(() => {
    if (!current?.bitmap) return;
    view.fit(current);
    drawAll();
  }).observe(find("stage"));
}

function pick(at) {
  point(...at);
  if (chosen) toggle(chosen);
  else ask({ point: at });
}

function boxOf([x, y], [otherX, otherY]) {
  return [Math.min(x, otherX), Math.min(y, otherY), Math.max(x, otherX), Math.max(y, otherY)];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  if (!current?.bitmap || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in ARROWS) {
    const pixels = event.shiftKey ? 1 : STEP / (canvas.clientWidth / current.width);
    const [x, y] = cursor ?? [current.width / 2, current.height / 2];
    const [dx, dy] = ARROWS[key];
    cursor = [
      Math.min(current.width - 0.5, Math.max(0.5, x + dx * pixels)),
      Math.min(current.height - 0.5, Math.max(0.5, y + dy * pixels)),
    ];
    if (corner) box = boxOf(corner.at, cursor);
    point(...cursor);
  } else if (key === "Enter" || key === " ") {
    if (chosen) toggle(chosen);
    else if (cursor) ask({ point: cursor });
  } else if (key === "+" || key === "=") step(1);
  else if (key === "-") step(-1);
  else if (key === "n") walk(1);
  else if (key === "p") walk(-1);
  else if (key === "b" && cursor) {
    if (!corner) {
      corner = { at: cursor };
      say("A box begins here; move to its other corner and press B");
    } else {
      const drawn = box;
      [box, corner] = [null, null];
      if (drawn) ask({ box: drawn });
    }
  } else if (key === "Escape") {
    [box, corner] = [null, null];
    drawAll();
  } else if (key === "PageDown" || key === "PageUp") {
    const index = photos.indexOf(current) + (key === "PageDown" ? 1 : -1);
    if (photos[index]) select(photos[index]);
  } else return;
  event.preventDefault();
}
