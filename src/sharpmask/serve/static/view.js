// The photo with its masks on a canvas: what is drawn, and where in the photo the pointer is.

const HUE_STEP = 137.5; // degrees; neighbours in the list differ in colour

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.scale = 1;
  }

  // Make the canvas as large as its place allows, in the photo's proportions.
  fit(photo) {
    const place = this.canvas.parentElement.getBoundingClientRect();
    const fits = Math.min(place.width / photo.width, place.height / photo.height);
    const [width, height] = [photo.width * fits, photo.height * fits].map((side) => Math.max(1, Math.floor(side)));
    const ratio = window.devicePixelRatio || 1;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.scale = this.canvas.width / photo.width;
    this.scaleDown = this.canvas.height / photo.height; // the same but for rounding
    this.size = [photo.width, photo.height];
  }

  // x, y in pixels of the photo.
  place(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
    const within = (share) => Math.min(1, Math.max(0, share));
    return [within(x) * this.size[0], within(y) * this.size[1]];
  }

  // shown: objects from worst to best; chosen: the one under the cursor; box, cursor: may be null.
  draw(photo, { shown, chosen, box, cursor }) {
    const { context, scale } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(photo.bitmap, 0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(scale, 0, 0, this.scaleDown, 0, 0);
    shown.forEach((object, index) => {
      const colour = colourOf(object);
      // The better, the clearer; all step back while one is looked at.
      const clear = (chosen ? 0.35 : 0.9) * (0.25 + (0.75 * (index + 1)) / shown.length);
      const path = pathOf(object);
      if (object.kept) {
        context.fillStyle = `${colour} / 0.55)`;
        context.fill(path, "evenodd");
      }
      context.lineWidth = (object.kept ? 2.5 : 1.2) / scale;
      context.strokeStyle = `${colour} / ${object.kept ? 1 : clear})`;
      context.stroke(path);
    });
    if (chosen) {
      const path = pathOf(chosen);
      context.fillStyle = `${colourOf(chosen)} / 0.5)`;
      context.fill(path, "evenodd");
      context.lineWidth = 5 / scale;
      context.strokeStyle = "black";
      context.stroke(path);
      context.lineWidth = 3 / scale;
      context.strokeStyle = "white";
      context.stroke(path);
    }
    if (box) {
      const [x0, y0, x1, y1] = box;
      context.lineWidth = 2 / scale;
      context.setLineDash([6 / scale, 4 / scale]);
      context.strokeStyle = "white";
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.setLineDash([]);
    }
    if (cursor) this.#cross(...cursor);
  }

  #cross(x, y) {
    const { context, scale } = this;
    for (const [width, colour] of [[4, "black"], [2, "white"]]) {
      context.lineWidth = width / scale;
      context.strokeStyle = colour;
      context.beginPath();
      for (const [dx, dy] of [[12, 0], [0, 12]]) {
        context.moveTo(x - dx / scale, y - dy / scale);
        context.lineTo(x + dx / scale, y + dy / scale);
      }
      context.stroke();
    }
  }
}

export function colourOf(object) {
  return `hsl(${(object.number * HUE_STEP) % 360} 90% 60%`;
}

function pathOf(object) {
  if (!object.path) {
    object.path = new Path2D();
    for (const ring of object.mask.outlines) {
      ring.forEach(([x, y], index) => (index ? object.path.lineTo(x, y) : object.path.moveTo(x, y)));
      object.path.closePath();
    }
  }
  return object.path;
}
