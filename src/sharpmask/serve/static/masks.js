// Masks as runs down the columns, which is what COCO's RLE holds; their outlines and polygons.

export class Mask {
  // size: [height, width]; runs: pixels outside, inside, outside, ... counted down the columns.
  constructor(size, runs) {
    this.size = size;
    this.ends = new Uint32Array(runs.length);
    let end = 0;
    this.area = 0;
    runs.forEach((run, index) => {
      if (index % 2) this.area += run;
      this.ends[index] = end += run;
    });
  }

  static ofRle({ size, counts }) {
    return new Mask(size, decodeCounts(counts));
  }

  // bits: 1 where the mask is, row by row; left, top: where they lie in the image.
  static ofBits(bits, width, height, left, top, size) {
    const runs = [];
    let last = 0;
    let inside = false;
    const turn = (at) => {
      runs.push(at - last);
      last = at;
      inside = !inside;
    };
    for (let x = 0; x < width; x++) {
      const start = (left + x) * size[0] + top;
      for (let y = 0; y < height; y++) {
        if (Boolean(bits[y * width + x]) !== inside) turn(start + y);
      }
      if (inside && height < size[0]) turn(start + height);
    }
    if (inside) turn((left + width) * size[0]);
    const total = size[0] * size[1];
    if (last < total || !runs.length) runs.push(total - last);
    return new Mask(size, joined(runs));
  }

  get runs() {
    return Array.from(this.ends, (end, index) => end - (index ? this.ends[index - 1] : 0));
  }

  get rle() {
    return { size: [...this.size], counts: encodeCounts(this.runs) };
  }

  // x0, y0, x1, y1; zeros for an empty mask.
  get box() {
    if (!this.cachedBox) {
      const height = this.size[0];
      let [x0, y0, x1, y1] = [Infinity, Infinity, 0, 0];
      this.spans((start, end) => {
        const [first, last] = [Math.floor(start / height), Math.floor((end - 1) / height)];
        x0 = Math.min(x0, first);
        x1 = Math.max(x1, last + 1);
        y0 = Math.min(y0, first === last ? start % height : 0);
        y1 = Math.max(y1, first === last ? ((end - 1) % height) + 1 : height);
      });
      this.cachedBox = this.area ? [x0, y0, x1, y1] : [0, 0, 0, 0];
    }
    return this.cachedBox;
  }

  spans(visit) {
    for (let index = 1; index < this.ends.length; index += 2) {
      if (this.ends[index] > this.ends[index - 1]) visit(this.ends[index - 1], this.ends[index]);
    }
  }

  has(x, y) {
    const [height, width] = this.size;
    if (x < 0 || y < 0 || x >= width || y >= height) return false;
    const place = Math.floor(x) * height + Math.floor(y);
    let [low, high] = [0, this.ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] > place) high = middle;
      else low = middle + 1;
    }
    return low % 2 === 1;
  }

  // The mask inside its own box, row by row.
  get bits() {
    const height = this.size[0];
    const [x0, y0, x1, y1] = this.box;
    const width = x1 - x0;
    const bits = new Uint8Array(width * (y1 - y0));
    this.spans((start, end) => {
      for (let place = start; place < end; place++) {
        bits[((place % height) - y0) * width + Math.floor(place / height) - x0] = 1;
      }
    });
    return bits;
  }

  // Rings along the sides of pixels: the outline of each piece, and of holes; x, y in pixels.
  get outlines() {
    const [x0, y0, x1, y1] = this.box;
    const rings = simpleLoops(this.bits, x1 - x0, y1 - y0);
    return rings.map((ring) => ring.map(([x, y]) => [x + x0, y + y0]));
  }

  // As `polygons` in Python: one ring for each piece, holes filled, simplified, largest first.
  polygons(tolerance = 1) {
    const [x0, y0, x1, y1] = this.box;
    const rings = pieces(this.bits, x1 - x0, y1 - y0);
    const areas = rings.map(areaOf);
    const order = rings.map((_, index) => index).sort((a, b) => areas[b] - areas[a] || a - b);
    return order
      .filter((index) => index === order[0] || areas[index] >= (2 * tolerance) ** 2)
      .map((index) => simplified(rings[index], Math.min(tolerance, 0.05 * areas[index] ** 0.5)))
      .map((ring) => ring.map(([x, y]) => [x + x0, y + y0]));
  }
}

export function iou(first, second) {
  const [a, b] = [first.box, second.box];
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  let [i, j, shared] = [1, 1, 0];
  while (i < first.ends.length && j < second.ends.length) {
    const start = Math.max(first.ends[i - 1], second.ends[j - 1]);
    const end = Math.min(first.ends[i], second.ends[j]);
    if (end > start) shared += end - start;
    if (first.ends[i] < second.ends[j]) i += 2;
    else j += 2;
  }
  return shared / (first.area + second.area - shared);
}

// A mask with its holes filled, reduced to its largest piece. Pixels of a piece meet at sides, and
// so do those of the background round it.
export function onePiece(bits, width, height) {
  const [wide, high] = [width + 2, height + 2]; // a background all round
  const marks = new Int32Array(wide * high); // 0: not seen; 1: background; 2 and on: pieces
  const spread = (start, mark, belongs) => {
    const stack = [start];
    marks[start] = mark;
    let area = 0;
    while (stack.length) {
      const place = stack.pop();
      area += 1;
      const column = place % wide;
      for (const next of [place - wide, place + wide, column > 0 && place - 1, column < wide - 1 && place + 1]) {
        if (next === false || next < 0 || next >= marks.length || marks[next]) continue;
        if (!belongs(next)) continue;
        marks[next] = mark;
        stack.push(next);
      }
    }
    return area;
  };
  const inside = (place) => {
    const [x, y] = [(place % wide) - 1, Math.floor(place / wide) - 1];
    return x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x];
  };
  spread(0, 1, (place) => !inside(place));
  let [largest, most] = [0, 0];
  // Down the columns, as runs go: of two pieces of a size the first counts.
  for (let x = 1, mark = 2; x <= width; x++) {
    for (let y = 1; y <= height; y++) {
      if (marks[y * wide + x]) continue;
      const area = spread(y * wide + x, mark, () => true);
      if (area > most) [largest, most] = [mark, area];
      mark += 1;
    }
  }
  const kept = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      kept[y * width + x] = most && marks[(y + 1) * wide + x + 1] === largest ? 1 : 0;
    }
  }
  return kept;
}

// Runs without those of no length between others.
function joined(runs) {
  const result = [];
  for (const run of runs) {
    if (!run && result.length) {
      result.push(null); // its neighbours become one
    } else if (result.at(-1) === null) {
      result.pop();
      result[result.length - 1] += run;
    } else {
      result.push(run);
    }
  }
  if (result.at(-1) === null) result.pop();
  return result;
}

// --- COCO's text of runs: five bits a character, each run from the third less the one before last ---

export function decodeCounts(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let [value, shift, more] = [0, 0, true];
    while (more) {
      const bits = text.charCodeAt(at++) - 48;
      value |= (bits & 31) << shift;
      more = (bits & 32) !== 0;
      shift += 5;
      if (!more && bits & 16 && shift < 32) value |= -1 << shift;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

export function encodeCounts(runs) {
  let text = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run;
    let more = true;
    while (more) {
      const bits = value & 31;
      value >>= 5;
      more = bits & 16 ? value !== -1 : value !== 0;
      text += String.fromCharCode(bits + (more ? 32 : 0) + 48);
    }
  });
  return text;
}

// --- outlines: closed paths along the sides of pixels, the mask on their right hand ---

function simpleLoops(bits, width, height) {
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : bits[y * width + x]);
  const corner = (x, y) => y * (width + 1) + x;
  const across = []; // [start, end, sign]; sign 1 runs to the right
  for (let y = 0; y <= height; y++) {
    straights(width, (x) => at(x, y) - at(x, y - 1), (x0, x1, sign) => {
      const ends = [corner(x0, y), corner(x1, y)];
      across.push([...(sign > 0 ? ends : ends.reverse()), sign]);
    });
  }
  const down = new Map(); // by their start and sign
  for (let x = 0; x <= width; x++) {
    straights(height, (y) => at(x - 1, y) - at(x, y), (y0, y1, sign) => {
      const ends = [corner(x, y0), corner(x, y1)];
      const [start, end] = sign > 0 ? ends : ends.reverse();
      down.set(2 * start + (sign > 0), [end, sign]);
    });
  }
  const from = new Map();
  across.forEach(([start, , sign], index) => from.set(2 * start + (sign > 0), index));
  const seen = new Array(across.length).fill(false);
  const rings = [];
  for (let first = 0; first < across.length; first++) {
    const loop = [];
    for (let index = first; !seen[index]; ) {
      seen[index] = true;
      const [start, end, sign] = across[index];
      loop.push(start, end);
      // Where four sides meet, a path turns right: from right to down, from down to left.
      const [next, turn] = down.get(2 * end + (sign > 0)) ?? down.get(2 * end + (sign < 0));
      index = from.get(2 * next + (turn < 0)) ?? from.get(2 * next + (turn > 0));
    }
    if (loop.length) rings.push(...takenApart(loop));
  }
  return rings.map((ring) =>
    ring.map((place) => [place % (width + 1), Math.floor(place / (width + 1))]),
  );
}

function straights(length, sideAt, found) {
  let [sign, start] = [0, 0];
  for (let place = 0; place <= length; place++) {
    const side = place < length ? sideAt(place) : 0;
    if (side === sign) continue;
    if (sign) found(start, place, sign);
    [sign, start] = [side, place];
  }
}

// A loop taken apart where it comes back to a corner.
function takenApart(loop) {
  if (new Set(loop).size === loop.length) return [loop];
  const rings = [];
  const path = [];
  const position = new Map();
  for (const corner of loop) {
    if (position.has(corner)) {
      const ring = path.splice(position.get(corner));
      ring.forEach((passed) => position.delete(passed));
      rings.push(ring);
    }
    position.set(corner, path.length);
    path.push(corner);
  }
  return [...rings, path];
}

// Outer outlines of the pieces, what lies in a hole left out.
function pieces(bits, width, height) {
  const rings = simpleLoops(bits, width, height).filter((ring) => areaOf(ring) > 0);
  const depth = depthOf(rings, width, height);
  return rings.filter((ring) => {
    const [x, y] = ring.reduce((a, b) => (b[1] < a[1] || (b[1] === a[1] && b[0] < a[0]) ? b : a));
    return depth[y * width + x] === 1;
  });
}

// In how many rings each pixel lies: a ring's left sides run upwards and count it in.
function depthOf(rings, width, height) {
  const row = width + 1;
  const depth = new Int32Array(row * (height + 1));
  for (const ring of rings) {
    ring.forEach(([x, y], index) => {
      const [nextX, nextY] = ring[(index + 1) % ring.length];
      if (x !== nextX) return;
      depth[nextY * row + x] += 1;
      depth[y * row + x] -= 1;
    });
  }
  const result = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    let sum = 0;
    for (let x = 0; x < width; x++) {
      if (y) depth[y * row + x] += depth[(y - 1) * row + x];
      sum += depth[y * row + x];
      result[y * width + x] = sum;
    }
  }
  return result;
}

export function areaOf(ring) {
  let twice = 0;
  ring.forEach(([x, y], index) => {
    const [nextX, nextY] = ring[(index + 1) % ring.length];
    twice += x * nextY - nextX * y;
  });
  return twice / 2;
}

// --- fewer corners (Douglas and Peucker 1973); less of that where the ring would cross itself ---

function simplified(ring, tolerance) {
  while (tolerance > 0) {
    const kept = corners(ring, tolerance);
    if (kept.length > 2 && isSimple(kept)) return kept;
    tolerance = tolerance > 1e-3 ? tolerance / 2 : 0;
  }
  return ring;
}

function corners(ring, tolerance) {
  const closed = [...ring, ring[0]];
  const far = ring.map(([x, y]) => (x - ring[0][0]) ** 2 + (y - ring[0][1]) ** 2);
  const opposite = far.indexOf(Math.max(...far));
  const kept = [];
  const split = (start, end) => {
    const [[x, y], [endX, endY]] = [closed[start], closed[end]];
    const [alongX, alongY] = [endX - x, endY - y];
    let [worst, place] = [-1, start];
    for (let index = start; index < end; index++) {
      const [toX, toY] = [closed[index][0] - x, closed[index][1] - y];
      const share = (toX * alongX + toY * alongY) / (alongX ** 2 + alongY ** 2);
      const part = Math.min(1, Math.max(0, share));
      const distance = (toX - part * alongX) ** 2 + (toY - part * alongY) ** 2;
      if (distance > worst) [worst, place] = [distance, index];
    }
    if (worst > tolerance ** 2) {
      split(start, place);
      split(place, end);
    } else {
      kept.push(ring[start]);
    }
  };
  split(0, opposite);
  split(opposite, ring.length);
  return kept;
}

function isSimple(ring) {
  const count = ring.length;
  const cross = (ax, ay, bx, by) => ax * by - ay * bx;
  const sides = ring.map(([x, y], index) => {
    const [endX, endY] = ring[(index + 1) % count];
    return { x, y, endX, endY, alongX: endX - x, alongY: endY - y };
  });
  const apartFrom = (one, other) => {
    const start = cross(one.alongX, one.alongY, other.x - one.x, other.y - one.y);
    const end = cross(one.alongX, one.alongY, other.endX - one.x, other.endY - one.y);
    return Math.sign(start) * Math.sign(end) > 0;
  };
  const near = (a, b) =>
    Math.min(a.x, a.endX) <= Math.max(b.x, b.endX) &&
    Math.min(b.x, b.endX) <= Math.max(a.x, a.endX) &&
    Math.min(a.y, a.endY) <= Math.max(b.y, b.endY) &&
    Math.min(b.y, b.endY) <= Math.max(a.y, a.endY);
  for (let index = 0; index < count; index++) {
    const [side, before] = [sides[index], sides[(index + count - 1) % count]];
    const turn = cross(before.alongX, before.alongY, side.alongX, side.alongY);
    if (!turn && before.alongX * side.alongX + before.alongY * side.alongY < 0) return false;
    for (let other = index + 2; other < count; other++) {
      if (index === 0 && other === count - 1) continue;
      if (!near(side, sides[other])) continue;
      if (!apartFrom(side, sides[other]) && !apartFrom(sides[other], side)) return false;
    }
  }
  return true;
}
