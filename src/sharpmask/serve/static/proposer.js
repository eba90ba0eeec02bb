// From a photo to ranked masks: what `inference/proposer.py` and `inference/prompts.py` compute.

import { Mask, iou, onePiece } from "./masks.js";
import { resize } from "./resize.js";

const DECODE_BATCH = 128;
const GREY = 128;
const ANSWERS = 3;
const PER_SIZE = 2;
const SAME = 0.8;

export class Proposer {
  // engine: encode(pixels, [height, width]) gives { scores: [{ data, dims }], features };
  // decode(features, cells) gives { data, side }. model: geometry and settings, of config.json.
  constructor(engine, model) {
    this.engine = engine;
    this.model = model;
  }

  // pixels: RGB, row by row; size: [height, width].
  async read(pixels, size) {
    const { octaves, image_size: imageSize } = this.model;
    const reduction = Math.min(0, Math.log2(imageSize / Math.max(...size)));
    const levels = [];
    for (const [reading, octave] of octaves.entries()) {
      const factor = 2 ** (octave + reduction);
      const scaled = size.map((side) => Math.max(1, Math.trunc(factor * side + 0.5)));
      const { canvas, canvasSize } = this.#filledUp(pixels, size, scaled);
      const { scores, features } = await this.engine.encode(canvas, canvasSize);
      scores.forEach(({ data, dims }, index) => {
        const [rows, columns] = scaled.map((side) => this.#cells(index, side));
        levels.push({ reading, scaled, features, index, data, stride: dims.at(-1), rows, columns });
      });
    }
    return { pixels, size, levels };
  }

  // All objects, best first: [{ mask, score }].
  async propose(photo) {
    const { num_proposals: most, num_candidates: candidates, pool, suppression } = this.model;
    const count = Math.max(most, candidates);
    const best = this.#best(photo.levels, Math.max(count, pool));
    const apart = apartFirst(best, this.#nearness(photo), count).sort((a, b) => a.rank - b.rank);
    const found = await this.#decode(photo, apart);
    const distinct = [];
    const repeats = [];
    for (const each of found) {
      const mask = this.#paste(each, photo.size);
      if (!mask.area) continue;
      const object = { mask, score: each.score };
      const isRepeat = distinct.some((better) => iou(mask, better.mask) > suppression);
      (isRepeat ? repeats : distinct).push(object);
      if (distinct.length >= most) break;
    }
    const least = Math.min(1, ...distinct.map(({ score }) => score));
    repeats.forEach((object) => (object.score *= least));
    return [...distinct, ...repeats].slice(0, most);
  }

  // Objects at a point, best first.
  async at(photo, [x, y]) {
    const chosen = [];
    const nearness = this.#nearness(photo);
    photo.levels.forEach((level, number) => {
      const reach = (this.#windowSide(level.index) / 2) * this.model.object_share;
      const near = [];
      for (let row = 0; row < level.rows; row++) {
        for (let column = 0; column < level.columns; column++) {
          const [centerX, centerY, perX, perY] = this.#center(level, row, column, photo.size);
          if (Math.abs(centerX - x) <= reach * perX && Math.abs(centerY - y) <= reach * perY) {
            near.push({ number, row, column, logit: level.data[row * level.stride + column] });
          }
        }
      }
      chosen.push(...apartFirst(near.sort((a, b) => b.logit - a.logit), nearness, PER_SIZE));
    });
    const answers = [];
    for (const each of await this.#decode(photo, chosen)) {
      const mask = this.#paste(each, photo.size);
      const place = [Math.min(x, photo.size[1] - 0.5), Math.min(y, photo.size[0] - 0.5)];
      if (!mask.has(...place)) continue;
      if (answers.some((better) => iou(mask, better.mask) > SAME)) continue;
      answers.push({ mask, score: each.score });
    }
    return answers.slice(0, ANSWERS);
  }

  // The object that fills a box.
  async inBox(photo, box) {
    const [height, width] = photo.size;
    const [x0, y0, x1, y1] = box.map((edge, k) => Math.min(Math.max(edge, 0), k % 2 ? height : width));
    if (!(x1 > x0 && y1 > y0)) return [];
    const longer = Math.max(x1 - x0, y1 - y0);
    const aims = this.model.aims;
    const aim = aims.find(({ below }) => !below || longer < below);
    const scale = aim.object_size / longer;
    const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
    const canvas = this.#round(photo, x, y, scale, aim);
    const { scores, features } = await this.engine.encode(canvas, [aim.side, aim.side]);
    const { data, side } = await this.engine.decode(features, [aim.cell]);
    const half = aim.window_size / scale / 2;
    const window = [x - half, y - half, x + half, y + half];
    const patch = probabilities(data, 0, side);
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const [atX, atY] = [column, row].map(
          (k, axis) => window[axis] + ((k + 0.5) / side) * (window[axis + 2] - window[axis]),
        );
        if (atX < x0 || atX > x1 || atY < y0 || atY > y1) patch[row * side + column] = 0;
      }
    }
    const [level, row, column] = aim.cell;
    const logit = scores[level].data[row * scores[level].dims.at(-1) + column];
    const score = this.#score(logit, patch);
    return [{ mask: this.#paste({ patch, side, window }, photo.size), score }];
  }

  #nearness({ levels }) {
    return levels.map(({ index }) => this.model.nearness[index]);
  }

  #cells(level, side) {
    const { strides, cell_offset: offset } = this.model;
    return Math.max(1, Math.ceil((side - offset) / strides[level]));
  }

  #windowSide(level) {
    const { strides, mask_size: size, doublings } = this.model;
    return (size * strides[level]) / 2 ** doublings;
  }

  // x, y of a cell's centre in the photo, and how many of its pixels are one of the scaled photo.
  #center(level, row, column, size) {
    const { strides, cell_offset: offset } = this.model;
    const [perY, perX] = size.map((side, axis) => side / level.scaled[axis]);
    const [x, y] = [column, row].map((cell) => cell * strides[level.index] + offset);
    return [x * perX, y * perY, perX, perY];
  }

  #filledUp(pixels, [height, width], [rows, columns]) {
    const step = this.model.strides.at(-1);
    const canvasSize = [rows, columns].map((side) => Math.ceil(side / step) * step);
    const scaled = resize(pixels, [width, height], 3, [columns, rows]);
    const canvas = new Uint8Array(canvasSize[0] * canvasSize[1] * 3).fill(GREY);
    for (let row = 0; row < rows; row++) {
      canvas.set(scaled.subarray(row * columns * 3, (row + 1) * columns * 3), row * canvasSize[1] * 3);
    }
    return { canvas, canvasSize };
  }

  #round({ pixels, size }, x, y, scale, aim) {
    const canvas = new Uint8Array(aim.side * aim.side * 3).fill(GREY);
    const spans = [[x, size[1]], [y, size[0]]].map(([place, length]) => {
      const clip = (value, low) => Math.min(aim.side, Math.max(low, rint(value)));
      const first = Math.min(aim.side - 1, clip(aim.center - place * scale, 0));
      const last = clip(aim.center + (length - place) * scale, first + 1);
      const low = Math.max(0, place + (first - aim.center) / scale);
      const high = Math.min(length, place + (last - aim.center) / scale);
      return { first, last, low, high };
    });
    const [across, down] = spans;
    const [width, height] = spans.map(({ first, last }) => last - first);
    const box = [across.low, down.low, across.high, down.high];
    const part = resize(pixels, [size[1], size[0]], 3, [width, height], box);
    for (let row = 0; row < height; row++) {
      const start = ((down.first + row) * aim.side + across.first) * 3;
      canvas.set(part.subarray(row * width * 3, (row + 1) * width * 3), start);
    }
    return canvas;
  }

  // The best cells of all levels; ties go to the earlier level, row and column.
  #best(levels, count) {
    const all = [];
    levels.forEach(({ data, stride, rows, columns }, number) => {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          all.push({ number, row, column, logit: data[row * stride + column] });
        }
      }
    });
    const best = all.sort((a, b) => b.logit - a.logit).slice(0, count);
    best.forEach((cell, rank) => (cell.rank = rank));
    return best;
  }

  // Cells with their masks in the patch frame, ranked.
  async #decode({ levels, size }, cells) {
    for (const reading of new Set(levels.map((level) => level.reading))) {
      const mine = cells.filter(({ number }) => levels[number].reading === reading);
      const { features } = levels.find((level) => level.reading === reading);
      for (let start = 0; start < mine.length; start += DECODE_BATCH) {
        const part = mine.slice(start, start + DECODE_BATCH);
        const places = part.map(({ number, row, column }) => [levels[number].index, row, column]);
        const { data, side } = await this.engine.decode(features, places);
        part.forEach((cell, index) => {
          const level = levels[cell.number];
          const [x, y, perX, perY] = this.#center(level, cell.row, cell.column, size);
          const half = this.#windowSide(level.index) / 2;
          cell.window = [x - half * perX, y - half * perY, x + half * perX, y + half * perY];
          cell.side = side;
          cell.patch = probabilities(data, index, side);
          cell.score = this.#score(cell.logit, cell.patch);
        });
      }
    }
    return cells.sort((a, b) => b.score - a.score);
  }

  #score(logit, patch) {
    const threshold = Math.trunc(this.model.mask_threshold * 255);
    let [sum, count] = [0, 0];
    for (const value of patch) {
      if (value > threshold) [sum, count] = [sum + value, count + 1];
    }
    const quality = count ? sum / count / 255 : 0;
    return sigmoid(logit) * quality ** this.model.quality_exponent;
  }

  // The mask at the pixels of its window: those at whose middle the value, bilinear between samples,
  // exceeds the threshold.
  #paste({ patch, side, window }, size) {
    const [height, width] = size;
    const level = Math.trunc(this.model.mask_threshold * 255) + 0.5; // never a sample's own value
    const averaged = averages(patch, side, window);
    const { values, count } = averaged;
    const [x0, y0, x1, y1] = averaged.window;
    const bounds = [count, count, -1, -1];
    values.forEach((value, place) => {
      if (value <= level) return;
      const [x, y] = [place % count, Math.floor(place / count)];
      bounds[0] = Math.min(bounds[0], x);
      bounds[1] = Math.min(bounds[1], y);
      bounds[2] = Math.max(bounds[2], x);
      bounds[3] = Math.max(bounds[3], y);
    });
    if (bounds[2] < 0) return new Mask(size, [height * width]);
    const across = samplesOf(x0, x1, count, bounds[0], bounds[2], width);
    const down = samplesOf(y0, y1, count, bounds[1], bounds[3], height);
    const [columns, rows] = [across.places.length, down.places.length];
    if (!columns || !rows) return new Mask(size, [height * width]);
    let bits = new Uint8Array(columns * rows);
    down.places.forEach(([above, below, partDown], row) => {
      across.places.forEach(([left, right, part], column) => {
        const at = (line) =>
          values[line * count + left] * (1 - part) + values[line * count + right] * part;
        bits[row * columns + column] = at(above) * (1 - partDown) + at(below) * partDown > level;
      });
    });
    if (this.model.clean) bits = onePiece(bits, columns, rows);
    return Mask.ofBits(bits, columns, rows, across.first, down.first, size);
  }
}

// Means of samples where two or more fall on a pixel's side, and the window of whole ones.
function averages(patch, side, window) {
  const [x0, y0, x1, y1] = window;
  const factor = Math.max(1, Math.min(side, Math.trunc(side / Math.max(x1 - x0, y1 - y0))));
  if (factor === 1) return { values: patch, count: side, window };
  const count = Math.ceil(side / factor);
  const values = new Uint8Array(count * count);
  for (let row = 0; row < count; row++) {
    for (let column = 0; column < count; column++) {
      let sum = 0;
      for (let y = 0; y < factor; y++) {
        for (let x = 0; x < factor; x++) {
          const line = Math.min(side - 1, row * factor + y);
          sum += patch[line * side + Math.min(side - 1, column * factor + x)];
        }
      }
      values[row * count + column] = rint(sum / factor ** 2);
    }
  }
  const grown = (count * factor) / side;
  return { values, count, window: [x0, y0, x0 + (x1 - x0) * grown, y0 + (y1 - y0) * grown] };
}

// The pixels of an axis that samples first to last may reach: the first pixel, and for each its two
// samples and the second's share.
function samplesOf(start, end, count, first, last, length) {
  const per = count / (end - start);
  const from = start + Math.max(0, first - 0.5) / per;
  const to = start + Math.min(count, last + 1.5) / per;
  const [low, high] = [from, to].map((edge) => Math.min(length, Math.max(0, Math.ceil(edge - 0.5))));
  const places = Array.from({ length: high - low }, (_, k) => {
    const place = (low + k + 0.5 - start) * per - 0.5;
    const sample = Math.min(count - 1, Math.max(0, Math.floor(place)));
    const next = Math.min(count - 1, sample + 1);
    return [sample, next, Math.min(1, Math.max(0, place - sample))];
  });
  return { first: low, places };
}

// The first cells once those near a better one of the same map are put last: near are cells whose
// rows and columns between them add up to no more than the map's nearness.
function apartFirst(cells, nearness, count) {
  const taken = new Set();
  const key = (number, row, column) => (number * 4096 + row + 8) * 4096 + column + 8;
  const [apart, beside] = [[], []];
  for (const cell of cells) {
    if (apart.length === count) break;
    const { number, row, column } = cell;
    if (taken.has(key(number, row, column))) {
      beside.push(cell);
      continue;
    }
    const far = nearness[number];
    for (let y = -far; y <= far; y++) {
      for (let x = Math.abs(y) - far; x <= far - Math.abs(y); x++) {
        taken.add(key(number, row + y, column + x));
      }
    }
    apart.push(cell);
  }
  return [...apart, ...beside].slice(0, count);
}

function probabilities(logits, index, side) {
  const patch = new Uint8Array(side * side);
  const start = index * side * side;
  for (let k = 0; k < patch.length; k++) patch[k] = rint(sigmoid(logits[start + k]) * 255);
  return patch;
}

function sigmoid(logit) {
  return 1 / (1 + Math.exp(-Math.min(60, Math.max(-60, logit))));
}

// To the nearest whole number, halves to the even one.
function rint(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}
