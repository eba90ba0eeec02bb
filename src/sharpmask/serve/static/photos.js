// The photos that were opened: their masks, which are kept, and the way back.

import { iou } from "./masks.js";

const SAME = 0.8; // masks whose IoU exceeds this count as one under the cursor

let count = 0;

export class Photo {
  constructor(file) {
    this.file = file;
    this.name = file.name || `pasted-${++count}.png`;
    this.objects = []; // all masks, best first; those asked for last
    this.state = "waiting"; // then "ready" or "failed"
    this.problem = "";
    this.past = [];
    this.future = [];
  }

  // Look at the picture; masks come later.
  async open() {
    const options = { colorSpaceConversion: "none" };
    this.bitmap = await createImageBitmap(this.file, options).catch(() => {
      throw new Error("is not a picture that this browser can show");
    });
    [this.width, this.height] = [this.bitmap.width, this.bitmap.height];
  }

  add({ mask, score }) {
    const object = { mask, score, number: this.objects.length, label: "object", kept: false };
    this.objects.push(object);
    return object;
  }

  get kept() {
    return this.objects
      .filter((object) => object.kept)
      .sort((first, second) => first.kept - second.kept);
  }

  // `kept` is the order of keeping, or false.
  toggle(object) {
    this.change(object, { kept: object.kept ? false : ++count });
  }

  change(object, values) {
    const before = Object.fromEntries(Object.keys(values).map((key) => [key, object[key]]));
    this.past.push({ object, before, after: values });
    this.future = [];
    Object.assign(object, values);
  }

  undo() {
    const step = this.past.pop();
    if (!step) return null;
    this.future.push(step);
    return Object.assign(step.object, step.before);
  }

  redo() {
    const step = this.future.pop();
    if (!step) return null;
    this.past.push(step);
    return Object.assign(step.object, step.after);
  }

  // Masks at a point among those shown, none like a better one, from part to whole.
  at(x, y, shown) {
    const distinct = [];
    const here = shown.filter(({ mask }) => mask.has(x, y));
    here.sort((first, second) => Boolean(second.kept) - Boolean(first.kept) || second.score - first.score);
    for (const object of here) {
      if (distinct.every((better) => iou(object.mask, better.mask) <= SAME)) distinct.push(object);
    }
    return distinct.sort((first, second) => first.mask.area - second.mask.area);
  }
}
