"""TIFF files reduced to the tags that decide the pixels; what would be shown wrong is refused."""

import io
import struct
from collections.abc import Mapping
from typing import IO, cast

from sharpmask.containers import ORIENTATION, KindError, Stripped, orientation_of

_SINGLE = {
    "width": 256, "length": 257, "compression": 259, "photometric": 262, "fill_order": 266,
    "samples": 277, "rows_per_strip": 278, "planar": 284, "group3": 292, "group4": 293,
    "predictor": 317, "tile_width": 322, "tile_length": 323,
}  # fmt: skip
_BITS, _EXTRA, _FORMAT, _INKS, _XMP, _SUBSAMPLING, _RANGE = 258, 338, 339, 332, 700, 530, 532
_ARRAYS = (
    *(_BITS, _EXTRA, _FORMAT, _SUBSAMPLING, _RANGE, 529),
    *(273, 279, 320, 324, 325, 347, *range(512, 522)),
)
"""Tags with several values: bits, offsets, lengths, palette, tables, YCbCr."""
_SIZES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
_MOST_VALUES = 1 << 20
_GREY, _RGB, _INK, _YCBCR = (0, 1), 2, 5, 6


class _Spliced(io.RawIOBase):
    """A file with another beginning, and with more bytes after its end.

    A read that reaches the end of the file stops there. The bytes after it begin behind a gap of
    ``GAP`` bytes; a read that starts there sees them, and so does a read of everything.
    """

    GAP = 16

    def __init__(self, file: IO[bytes], head: bytes, tail: bytes) -> None:
        self.file, self.head, self.tail = file, head, bytes(self.GAP) + tail
        self.length = file.seek(0, io.SEEK_END)
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self.place, self.length + len(self.tail))[whence]
        self.place = max(0, start + offset)
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = self.length + len(self.tail) - self.place
        elif self.place < self.length + self.GAP:
            size = min(size, max(0, self.length - self.place))
        part = self.head[self.place : self.place + size]
        if len(part) < size and self.place + len(part) < self.length:
            self.file.seek(self.place + len(part))
            part += self.file.read(size - len(part))
        if len(part) < size:
            start = max(0, self.place + len(part) - self.length)
            part += self.tail[start : start + size - len(part)]
        self.place += len(part)
        return part


def strip_tiff(file: IO[bytes]) -> Stripped:
    """Keep the tags of the first directory that decide the pixels.

    Raises:
        KindError: The pixels are of a kind that would be shown wrong.
    """
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in head[2:4]
    if big and order == ">":
        raise KindError("a BigTIFF of big-endian numbers is not read; save it as ordinary TIFF")
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    (start,) = struct.unpack_from(f"{order}Q", head, 8) if big else struct.unpack_from(
        f"{order}I", head, 4
    )  # fmt: skip
    file.seek(start)
    (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", file.read(8 if big else 2))
    table = file.read(entry.size * min(count, 4096))
    entries = {
        tag: (kind, number, value)
        for tag, kind, number, value in entry.iter_unpack(
            table[: len(table) // entry.size * entry.size]
        )
    }

    def values(tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        kind, number, value = entries.get(tag, (0, 0, b""))
        form = f"{order}{min(number, _MOST_VALUES)}{_SIZES.get(kind, 'B')}"
        size = struct.calcsize(form)
        if size > len(value):
            file.seek(int.from_bytes(value, "little" if order == "<" else "big"))
            value = file.read(size)
        return struct.unpack(form, value[:size]) if number and kind in _SIZES else default

    single = {name: found[0] for name, tag in _SINGLE.items() if (found := values(tag))}
    samples = single.get("samples", 1)
    lists = {tag: values(tag) for tag in (_BITS, _EXTRA, _FORMAT, _INKS, _SUBSAMPLING, _RANGE)}
    bits = lists[_BITS] or (1,)
    inverted = single.get("photometric", 0) == 0 and bits[0] > 8
    changed = _checked_kind(single, lists)
    if inverted:
        single["photometric"] = 1
    written: dict[int, tuple[int, tuple[int, ...]]] = {
        _SINGLE[name]: (4, (value,)) for name, value in single.items()
    }
    written |= {tag: (3, listed) for tag, listed in changed.items() if listed}
    if single.get("samples", 1) < samples:  # planes that are not wanted
        for tag in entries.keys() & {273, 279, 324, 325}:
            kind, number, value = entries[tag]
            wanted = number * single["samples"] // samples
            if wanted > 4:
                entries[tag] = kind, wanted, value
            else:  # few enough to stand in the directory itself
                written[tag] = (16 if big else 4), values(tag)[:wanted]
    lines, more = [], b""
    length = file.seek(0, io.SEEK_END)
    base = length + _Spliced.GAP
    if single.get("compression", 1) != 1:
        for offsets, lengths in ((273, 279), (324, 325)):
            ends = map(sum, zip(values(offsets), values(lengths), strict=False))
            if max(ends, default=0) > length:
                raise ValueError("image file is truncated")
    tags = sorted({*written, *(tag for tag in _ARRAYS if tag in entries and tag not in changed)})
    directory = len(tags) * entry.size + (16 if big else 6)
    for tag in tags:
        if tag not in written:
            lines.append(entry.pack(tag, *entries[tag]))
            continue
        kind, listed = written[tag]
        value = struct.pack(f"{order}{len(listed)}{_SIZES[kind]}", *listed)
        if len(value) > (8 if big else 4):
            value, more = (
                struct.pack(f"{order}{'Q' if big else 'I'}", base + directory + len(more)),
                more + value,
            )
        lines.append(entry.pack(tag, kind, len(listed), value.ljust(8 if big else 4, b"\0")))
    number = struct.pack(f"{order}{'Q' if big else 'H'}", len(lines))
    tail = number + b"".join(lines) + bytes(8 if big else 4) + more
    begin = head[:8] + struct.pack(f"{order}Q", base) if big else head[:4] + struct.pack(
        f"{order}I", base
    )  # fmt: skip
    turn = values(ORIENTATION, (1,))[0]
    if ORIENTATION not in entries and _XMP in entries:
        turn = orientation_of(xmp=bytes(v % 256 for v in values(_XMP)))
    return Stripped(
        cast("IO[bytes]", _Spliced(file, begin, tail)),
        turn if turn in range(1, 9) else 1,
        white=4095 if bits[0] == 12 else None,
        inverted=inverted,
    )


def _checked_kind(
    single: dict[str, int], lists: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    """Refuse what Pillow would show wrong; describe bands as it expects them.

    Args:
        single: Single values, changed in place.
        lists: Lists of values.

    Returns:
        The lists that are to be written instead of the file's own.
    """
    photometric = single.get("photometric", 0)
    samples = single.get("samples", len(lists[_BITS]) or 1)
    extra = lists[_EXTRA]
    planar = single.get("planar") == 2
    colours = {_RGB: 3, _INK: 4, _YCBCR: 3, 8: 3}.get(photometric, 1)
    if any(form in (2, 5, 6) for form in lists[_FORMAT]):
        raise KindError(
            "signed samples have no known white; scale them to 0..255 and save it as 8 bits"
        )
    whole = lists[_SUBSAMPLING] == (1, 1) and not lists[_RANGE]
    if photometric == _YCBCR and single.get("compression", 1) == 1 and not whole:
        raise KindError("uncompressed YCbCr with subsampling is not read; convert it to RGB")
    if photometric == _INK and lists[_INKS] not in ((), (1,)):
        raise KindError("its inks are not cyan, magenta, yellow and black; convert it to RGB")
    if photometric in _GREY and samples > 2:
        if samples > 4 or any(extra) or photometric == 0:
            raise KindError(
                f"has {samples} bands, and does not say which are red, green and blue; "
                "convert it to RGB"
            )
        # Red, green, blue, and perhaps infrared, by a writer that does not name its bands.
        single["photometric"], colours = _RGB, 3
        extra = (0,) * (samples - 3)
    if planar:
        # Only alpha is wanted of the planes behind the colours.
        extra = extra[:1] if extra[:1] in ((1,), (2,)) else ()
        if extra == (1,):
            raise KindError(
                "has premultiplied alpha in a plane of its own; convert it to RGB without alpha"
            )
        samples = min(samples, colours + len(extra))
        single |= {"samples": samples, "planar": 1 if samples == 1 else 2}
    elif extra == lists[_EXTRA] and len(lists[_BITS]) <= samples:
        return {}
    bits = (lists[_BITS] or (1,)) * (samples if len(lists[_BITS]) < samples else 1)
    changed = {_EXTRA: extra, _BITS: bits[:samples]}
    if lists[_FORMAT]:
        changed[_FORMAT] = lists[_FORMAT][:samples]
    return changed
