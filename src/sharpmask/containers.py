"""Picture files reduced to what decides their pixels; nothing else reaches the decoder.

Texts, profiles, thumbnails and camera data are left out, sound or not. So they cannot make a photo
unreadable, and no decoder warns of them. All that is read of them is the orientation.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MAX_TEXT_BYTES = 1 << 20
"""Longer texts of a PNG are not searched for an orientation."""

ORIENTATION = 274
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_XMP_JPEG = b"http://ns.adobe.com/xap/1.0/\0"


class KindError(ValueError):
    """A sound file of a kind that is not read: "what it is; what to do"."""


@dataclass(frozen=True)
class Stripped:
    """What is left of a picture file.

    Attributes:
        file: The file, in its own format.
        orientation: 1 to 8, as EXIF counts.
        white: Value of white in grey of more than 8 bits; None where it is not stated.
        inverted: Whether such grey has its white at 0.
    """

    file: IO[bytes]
    orientation: int = 1
    white: int | None = None
    inverted: bool = False


# --- orientation ---


def orientation_of(exif: bytes = b"", xmp: bytes = b"") -> int:
    """Orientation that EXIF states, else XMP; 1 if none can be read there."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == ORIENTATION:
                form = {1: "B", 3: "H", 4: "I"}[kind]
                (value,) = struct.unpack_from(f"{order}{form}", exif, place + 8)
                return value if value in range(1, 9) else 1
    except (KeyError, struct.error):
        pass
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


# --- JPEG ---


def strip_jpeg(file: IO[bytes]) -> Stripped:
    """Keep tables, frames and scans, and the two segments that decide on the colour space."""
    data = file.read()
    kept, exif, xmp = [b"\xff\xd8"], b"", b""
    scan = len(data)
    for code, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        if code == 0xDA:
            scan = start
            break
        if code == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif code == 0xE1 and body.startswith(_XMP_JPEG):
            xmp = xmp or body
        colour = (code == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
            code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        )
        if colour or not (0xE0 <= code <= 0xEF or code == 0xFE):
            kept.append(data[start:end])
    stripped = io.BytesIO(b"".join([*kept, data[scan:]]))
    return Stripped(stripped, orientation_of(exif, xmp))


def _jpeg_segments(data: bytes, place: int = 2) -> Iterator[tuple[int, int, int]]:
    """Code, start and end of each segment; other bytes between them are skipped, as in libjpeg."""
    while (place := data.find(b"\xff", place)) >= 0:
        code = data[place + 1] if place + 1 < len(data) else 0
        if code == 0xD9:
            return
        if code == 0xFF:
            place += 1
        elif code in (0x00, 0x01, *range(0xD0, 0xD9)):
            place += 2
        else:
            end = place + 2 + max(2, int.from_bytes(data[place + 2 : place + 4]))
            yield code, place, end
            place = end


def jpeg_endings(data: bytes) -> tuple[bytes, bytes] | None:
    """Two ways to end a JPEG that has no end marker; None if a whole scan is missing.

    If its last scan is whole, both show the same picture; otherwise the decoder needs bits that the
    two give it differently.
    """
    coded = 0
    frame: tuple[int, int] | None = None
    done: set[tuple[int, int]] = set()  # component and coefficient
    for code, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        try:
            if code in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
                frame = code, body[5]
            elif code == 0xDA and frame and end < len(data):
                count = body[0]
                first, last, bits = body[1 + 2 * count : 4 + 2 * count]
                if frame[0] not in (0xC2, 0xCA):
                    first, last, bits = 0, 63, 0
                if not bits & 15:  # else a later scan brings the lowest bits
                    components = body[1 : 1 + 2 * count : 2]
                    done |= {(c, k) for c in components for k in range(first, last + 1)}
                coded += 1
        except (IndexError, ValueError):
            break
    if frame is None or not coded or len(done) < 64 * frame[1]:
        return None
    data = data.removesuffix(b"\xff")
    return data + b"\xff\xd9", data + b"\xaa" * 64 + b"\xff\xd9"


# --- PNG ---


def strip_png(file: IO[bytes]) -> Stripped:
    """Keep the chunks without which a PNG cannot be shown, and transparency."""
    kept, exif, xmp = [file.read(8)], b"", b""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body = file.read(length + 4)
        ancillary = bool(kind[0] & 32)
        sound = len(body) == length + 4 and zlib.crc32(kind + body[:-4]) == int.from_bytes(
            body[-4:]
        )
        if not ancillary or (kind == b"tRNS" and sound):
            kept.append(head + body)
        elif kind == b"eXIf" and sound:
            exif = body[:-4]
        elif kind in (b"iTXt", b"tEXt", b"zTXt") and sound:
            key, _, rest = body[:-4].partition(b"\0")
            if key == b"XML:com.adobe.xmp":
                xmp = xmp or _png_text(kind, rest)
            elif key == b"Raw profile type exif":
                exif = exif or _unhex(_png_text(kind, rest))
        if kind == b"IEND":
            break
    return Stripped(io.BytesIO(b"".join(kept)), orientation_of(exif, xmp))


def _png_text(kind: bytes, rest: bytes) -> bytes:
    """The text of a chunk after its keyword; nothing if it is too long or cannot be unpacked."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    if not packed:
        return rest[:MAX_TEXT_BYTES]
    try:
        return zlib.decompressobj().decompress(rest, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _unhex(text: bytes) -> bytes:
    """EXIF as ImageMagick puts it into a text: a name and a length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
    except ValueError:
        return b""


# --- WebP ---


def strip_webp(file: IO[bytes]) -> Stripped:
    """Keep what is drawn: no profile, EXIF or XMP, and nothing after a broken chunk."""
    head = file.read(12)
    kept, exif, xmp = [], b"", b""
    while len(start := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", start)
        body = file.read(length + length % 2)
        if kind == b"EXIF":
            exif = exif or body
        elif kind == b"XMP ":
            xmp = xmp or body
        elif kind == b"VP8X" and body:
            kept.append(start + bytes([body[0] & ~0b101100]) + body[1:])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(start + body)
    content = b"WEBP" + b"".join(kept)
    stripped = io.BytesIO(head[:4] + struct.pack("<I", len(content)) + content)
    return Stripped(stripped, orientation_of(exif, xmp))
