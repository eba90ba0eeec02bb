// Masks computed in this browser: photos leave it nowhere.

import { Mask } from "./masks.js";

export class Browser {
  // model: of config.json.
  constructor(model) {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data: { number, error, ...answer } }) => {
      const { resolve, reject } = this.waiting.get(number);
      this.waiting.delete(number);
      if (error) reject(new Error(error));
      else resolve(answer);
    };
    this.worker.onerror = (event) => {
      const error = new Error(event.message || "the model could not be loaded");
      this.waiting.forEach(({ reject }) => reject(error));
      this.waiting.clear();
    };
    this.started = this.#send("start", { model });
    this.started.catch(() => {}); // told by the first photo
  }

  async propose(file) {
    const id = ++this.count;
    return { id, ...(await this.#ask("propose", { id, file })) };
  }

  async prompt(id, file, question) {
    return this.#ask("prompt", { id, file, question });
  }

  async #ask(duty, given) {
    await this.started;
    const { size, objects } = await this.#send(duty, given);
    return { size, masks: objects.map(({ runs, score }) => ({ mask: new Mask(size, runs), score })) };
  }

  #send(duty, given) {
    const number = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.worker.postMessage({ number, duty, ...given });
    });
  }
}
