// Masks computed by the server that served the page.

import { Mask } from "./masks.js";

const TRIES = 20;

export class Server {
  // token: what the server asks for; "" if nothing.
  constructor(token) {
    this.headers = token ? { Authorization: `Bearer ${token}` } : {};
  }

  // All objects: { id, masks: [{ mask, score }], size: [height, width] }.
  async propose(file) {
    return this.#ask("v1/propose", { image: file });
  }

  // Objects at a point, { point: [x, y] }, or the one in a box, { box: [x0, y0, x1, y1] }.
  async prompt(id, file, question) {
    const fields = Object.entries(question).map(([name, value]) => [name, JSON.stringify(value)]);
    try {
      return await this.#ask("v1/prompt", { photo: id, ...Object.fromEntries(fields) });
    } catch (error) {
      if (error.status !== 404) throw error;
      return this.#ask("v1/prompt", { image: file, ...Object.fromEntries(fields) });
    }
  }

  async #ask(path, fields) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    for (let trial = 1; ; trial++) {
      const answer = await fetch(path, { method: "POST", headers: this.headers, body });
      if (answer.status === 429 && trial < TRIES) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        continue;
      }
      const content = await answer.json().catch(() => ({}));
      if (!answer.ok) {
        const error = new Error(content.error ?? `the server answered ${answer.status}`);
        throw Object.assign(error, { status: answer.status });
      }
      const { height, width } = content.images[0];
      const masks = content.annotations.map(({ segmentation, score }) => ({
        mask: Mask.ofRle(segmentation),
        score,
      }));
      return { id: content.photo, masks, size: [height, width] };
    }
  }
}
