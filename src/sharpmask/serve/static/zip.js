// A zip archive whose files are stored as they are: pictures and masks are packed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = ~0;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

// files: [[name, text or Uint8Array], ...]
export function zip(files) {
  const encoder = new TextEncoder();
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, content] of files) {
    const bytes = typeof content === "string" ? encoder.encode(content) : content;
    const path = encoder.encode(name);
    // Version 2.0, names in UTF-8, stored, 1 January 1980.
    const common = [20, 0, 0, 8, 0, 0, 0, 0, 33, 0];
    const sizes = numbers(4, crc32(bytes), bytes.length, bytes.length);
    const lengths = [...numbers(2, path.length), 0, 0];
    const head = Uint8Array.from([80, 75, 3, 4, ...common, ...sizes, ...lengths]);
    parts.push(head, path, bytes);
    directory.push(
      Uint8Array.from([80, 75, 1, 2, 20, 0, ...common, ...sizes, ...lengths]),
      Uint8Array.from([...numbers(2, 0, 0, 0), ...numbers(4, 0, offset)]),
      path,
    );
    offset += head.length + path.length + bytes.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const end = [80, 75, 5, 6, 0, 0, 0, 0, ...numbers(2, files.length, files.length)];
  end.push(...numbers(4, length, offset), 0, 0);
  return new Blob([...parts, ...directory, Uint8Array.from(end)], { type: "application/zip" });
}

function numbers(size, ...values) {
  return values.flatMap((value) =>
    Array.from({ length: size }, (_, index) => Math.floor(value / 256 ** index) % 256),
  );
}
