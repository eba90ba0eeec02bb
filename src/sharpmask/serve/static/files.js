// Kept masks as files: COCO, YOLO, LabelMe, cut-outs.

import { zip } from "./zip.js";

// photos: [{ name, width, height, bitmap, kept: [{ mask, score, label }] }]

export function coco(photos) {
  const labels = labelsOf(photos);
  const annotations = [];
  photos.forEach((photo, index) => {
    for (const { mask, score, label } of photo.kept) {
      const [x0, y0, x1, y1] = mask.box;
      annotations.push({
        id: annotations.length + 1,
        image_id: index + 1,
        category_id: labels.indexOf(label) + 1,
        segmentation: mask.rle,
        bbox: [x0, y0, x1 - x0, y1 - y0],
        area: mask.area,
        iscrowd: 0,
        score,
      });
    }
  });
  const images = photos.map(({ name, width, height }, index) => ({
    id: index + 1,
    file_name: name,
    width,
    height,
  }));
  const categories = labels.map((name, index) => ({ id: index + 1, name, supercategory: "" }));
  const content = { info: { description: "Kept masks" }, images, annotations, categories };
  return { name: "coco.json", blob: new Blob([JSON.stringify(content)], { type: "application/json" }) };
}

export function yolo(photos) {
  const labels = labelsOf(photos);
  const names = namesOf(photos);
  const files = photos.map(({ width, height, kept }, index) => {
    const lines = kept.map(({ mask, label }) => {
      const ring = mask.polygons()[0];
      const shares = ring.flatMap(([x, y]) => [(x / width).toFixed(6), (y / height).toFixed(6)]);
      return `${labels.indexOf(label)} ${shares.join(" ")}\n`;
    });
    return [`labels/${names[index]}.txt`, lines.join("")];
  });
  const listed = labels.map((label, index) => `  ${index}: ${JSON.stringify(label)}\n`).join("");
  files.push(["data.yaml", `path: .\ntrain: images\nval: images\nnc: ${labels.length}\nnames:\n${listed}`]);
  files.push(["classes.txt", labels.map((label) => `${label}\n`).join("")]);
  return { name: "yolo.zip", blob: zip(files) };
}

export function labelme(photos) {
  const names = namesOf(photos);
  const files = photos.map((photo, index) => {
    const shapes = photo.kept.flatMap(({ mask, score, label }, group) => {
      const rings = mask.polygons();
      return rings.map((points) => ({
        label,
        points,
        group_id: rings.length > 1 ? group : null,
        description: `score ${score.toFixed(3)}`,
        shape_type: "polygon",
        flags: {},
      }));
    });
    const content = {
      version: "5.4.1",
      flags: {},
      shapes,
      imagePath: photo.name,
      imageData: null,
      imageHeight: photo.height,
      imageWidth: photo.width,
    };
    return [`${names[index]}.json`, JSON.stringify(content, null, 1)];
  });
  return { name: "labelme.zip", blob: zip(files) };
}

export async function cutouts(photos) {
  const names = namesOf(photos);
  const files = [];
  for (const [index, photo] of photos.entries()) {
    for (const [number, { mask }] of photo.kept.entries()) {
      const [x0, y0, x1, y1] = mask.box;
      const canvas = new OffscreenCanvas(x1 - x0, y1 - y0);
      const context = canvas.getContext("2d");
      context.drawImage(photo.bitmap, -x0, -y0);
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
      mask.bits.forEach((inside, place) => {
        if (!inside) pixels.data.fill(0, 4 * place, 4 * place + 4);
      });
      context.putImageData(pixels, 0, 0);
      const png = await canvas.convertToBlob({ type: "image/png" });
      const path = `${names[index]}/${String(number + 1).padStart(3, "0")}.png`;
      files.push([path, new Uint8Array(await png.arrayBuffer())]);
    }
  }
  return { name: "cutouts.zip", blob: zip(files) };
}

export const FORMATS = { coco, yolo, labelme, cutouts };

export function save({ name, blob }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function labelsOf(photos) {
  const labels = new Set(photos.flatMap(({ kept }) => kept.map(({ label }) => label)));
  return labels.size ? [...labels].sort() : ["object"];
}

// A name for each photo, without its suffix; numbered where it repeats.
function namesOf(photos) {
  const taken = new Set();
  return photos.map(({ name }) => {
    const stem = name.replace(/\.[^.]*$/, "").replace(/[\\/:*?"<>|]/g, "_") || "photo";
    let unique = stem;
    for (let count = 2; taken.has(unique.toLowerCase()); count++) unique = `${stem}-${count}`;
    taken.add(unique.toLowerCase());
    return unique;
  });
}
