// Runs the model beside the page, so that the page stays quick.

import * as ort from "./ort/ort.wasm.min.mjs";
import { Proposer } from "./proposer.js";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const WHITE = "white"; // what lies behind transparent pixels, as in Python

let proposer;
let last = {}; // the photo that was read last

class Engine {
  constructor(encoder, decoder, levels) {
    [this.encoder, this.decoder, this.levels] = [encoder, decoder, levels];
  }

  async encode(pixels, [height, width]) {
    const image = new ort.Tensor("uint8", pixels, [height, width, 3]);
    const outputs = await this.encoder.run({ [this.encoder.inputNames[0]]: image });
    const maps = this.encoder.outputNames.map((name) => outputs[name]);
    return { scores: maps.slice(0, this.levels), features: maps.slice(this.levels) };
  }

  async decode(features, cells) {
    const [first, ...names] = this.decoder.inputNames;
    const places = BigInt64Array.from(cells.flat(), BigInt);
    const inputs = { [first]: new ort.Tensor("int64", places, [cells.length, 3]) };
    names.forEach((name, index) => (inputs[name] = features[index]));
    const { data, dims } = (await this.decoder.run(inputs))[this.decoder.outputNames[0]];
    return { data, side: dims.at(-1) };
  }
}

const DUTIES = {
  async start({ model }) {
    const load = (name) => ort.InferenceSession.create(new URL(`./model/${name}.onnx`, import.meta.url).href);
    const engine = new Engine(await load("encoder"), await load("decoder"), model.strides.length);
    proposer = new Proposer(engine, model);
    return {};
  },

  async propose({ id, file }) {
    const photo = await read(id, file);
    return answer(await proposer.propose(photo), photo);
  },

  async prompt({ id, file, question }) {
    const photo = await read(id, file);
    const { point, box } = question;
    return answer(await (point ? proposer.at(photo, point) : proposer.inBox(photo, box)), photo);
  },
};

async function read(id, file) {
  if (last.id !== id) {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = WHITE;
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const pixels = new Uint8Array(width * height * 3);
    for (let from = 0, to = 0; from < data.length; from += 4) {
      pixels[to++] = data[from];
      pixels[to++] = data[from + 1];
      pixels[to++] = data[from + 2];
    }
    last = {};
    last = { id, photo: await proposer.read(pixels, [height, width]) };
  }
  return last.photo;
}

function answer(objects, { size }) {
  return { size, objects: objects.map(({ mask, score }) => ({ runs: mask.runs, score })) };
}

// One after the other: a photo's features stay until it is done with.
let queue = Promise.resolve();
self.onmessage = ({ data: { number, duty, ...given } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ number, ...(await DUTIES[duty](given)) });
    } catch (error) {
      self.postMessage({ number, error: String(error.message ?? error) });
    }
  });
};
