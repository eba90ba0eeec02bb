"""Odd picture files, made by code: each with the pixels it shows, or None if it is no picture."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

SIZE = (24, 36)  # height, width
FINE = {"quality": 98, "subsampling": 0}


def smooth(height=SIZE[0], width=SIZE[1]):
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 5 * y, 60 + 2 * x + y], axis=2).astype(np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A PNG of a few kilobytes that says it is enormous."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs():
    """Name -> a file of a few kilobytes that says it is enormous."""
    image = Image.fromarray(smooth())
    few = image.quantize(256, dither=0)
    frame = struct.pack("<B4H", 0x2C, 0, 0, SIZE[1], SIZE[0])

    def lying(content, mark, offset, form, *sides):
        place, sides = content.index(mark) + offset, struct.pack(form, *sides)
        return content[:place] + sides + content[place + len(sides) :]

    files = {f"{w}x{h}.png": bomb(w, h) for w, h in ((100_000, 100_000), (2**31 - 1, 1))}
    files["limit.png"] = bomb(20_000, 10_001)  # a little more than is allowed
    for name, mark, options in (
        ("plain.jpg", b"\xff\xc0", {}),
        ("progressive.jpg", b"\xff\xc2", {"progressive": True}),
    ):
        files[name] = lying(saved(image, "JPEG", **options), mark, 5, ">HH", 65535, 65535)
    for compression, stored in (("raw", 4), ("tiff_lzw", 3)):
        content = saved(image, "TIFF", compression=compression)
        entries = (256, 4, 1, 2**31 - 1, 257, 4, 1, 2**31 - 1)  # width and height
        width = struct.pack("<HHI", 256, stored, 1)
        files[f"{compression}.tif"] = lying(content, width, 0, "<HHIIHHII", *entries)
    for side in (2**31 - 1, 1 - 2**31):  # upwards and downwards
        files[f"{side}.bmp"] = lying(saved(image, "BMP"), b"BM", 18, "<ii", 2**31 - 1, side)
    for disposal in (0, 2):  # the second wants a canvas to be cleared
        content = saved(few, "GIF", disposal=disposal)
        files[f"screen-{disposal}.gif"] = lying(content, b"GIF8", 6, "<HH", 65535, 65535)
        files[f"frame-{disposal}.gif"] = lying(content, frame, 5, "<HH", 65535, 65535)
    files["lossy.webp"] = lying(saved(image, "WEBP"), b"\x9d\x01*", 3, "<HH", 16383, 16383)
    content = saved(image, "WEBP", lossless=True)
    files["lossless.webp"] = lying(content, b"VP8L", 9, "<I", 16382 | 16382 << 14)
    content = saved(image, "WEBP", save_all=True, append_images=[image.rotate(180)])
    files["animated.webp"] = lying(content, b"VP8X", 12, "<HBHB", 65534, 0, 65534, 0)
    files["plain.avif"] = lying(saved(image, "AVIF"), b"ispe", 8, ">II", 16000, 16000)
    files["plain.ppm"] = b"P6 100000 100000 255\n" + bytes(99)
    return files


def interlaced():
    """Adam7, which Pillow reads but does not write."""
    pixels = smooth()
    lines = b""
    for x0, y0, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):  # fmt: skip
        for row in pixels[y0::dy, x0::dx]:
            if row.size:
                lines += b"\0" + row.tobytes()
    head = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 8, 2, 0, 0, 1)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def zoo():
    """Name -> (bytes, pixels or None, how far a pixel may be off)."""
    pixels = smooth()
    image = Image.fromarray(pixels)
    few = image.quantize(256, dither=0)
    grey = Image.fromarray(pixels[..., 0])
    grey_pixels = np.repeat(pixels[..., :1], 3, axis=2)
    jpeg, png = saved(image, "JPEG", **FINE), saved(image, "PNG")
    files = {
        "plain.jpg": (jpeg, pixels, 6),
        "plain.png": (png, pixels, 0),
        "progressive.jpg": (saved(image, "JPEG", progressive=True, **FINE), pixels, 6),
        "subsampled.jpg": (saved(image, "JPEG", quality=95, subsampling=2), pixels, 12),
        "grey.jpg": (saved(grey, "JPEG", quality=98), grey_pixels, 6),
        "interlaced.png": (interlaced(), pixels, 0),
        "grey.png": (saved(grey, "PNG"), grey_pixels, 0),
        "plain.bmp": (saved(image, "BMP"), pixels, 0),
        "plain.gif": (saved(few, "GIF"), np.asarray(few.convert("RGB")), 0),
        "plain.webp": (saved(image, "WEBP", lossless=True), pixels, 0),
        "lossy.webp": (saved(image, "WEBP", quality=98), pixels, 16),
        "plain.tif": (saved(image, "TIFF"), pixels, 0),
        "lzw.tif": (saved(image, "TIFF", compression="tiff_lzw"), pixels, 0),
        "plain.ppm": (saved(image, "PPM"), pixels, 0),
        "plain.avif": (saved(image, "AVIF", quality=98, subsampling="4:4:4"), pixels, 12),
        "jpeg-named.png": (jpeg, pixels, 6),
        "png-named.jpg": (png, pixels, 0),
        "zero-bytes.jpg": (b"", None, 0),
        "zeros.png": (bytes(5000), None, 0),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", None, 0),
        "text.png": (b"no picture at all\n", None, 0),
        "pdf.jpg": (b"%PDF-1.7\n" + bytes(100), None, 0),
        "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", None, 0),
        "bomb.png": (bomb(100_000, 100_000), None, 0),
        "wide-bomb.png": (bomb(2**31 - 1, 1), None, 0),
        "zero-wide.png": (bomb(0, 10), None, 0),
    }  # fmt: skip
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    whole = [("jpg", saved(noise, "JPEG")), ("png", saved(noise, "PNG"))]
    whole += [("webp", saved(noise, "WEBP", lossless=True))]
    for share in (10, 50, 90):
        for kind, content in whole:
            files[f"truncated-{share}.{kind}"] = (content[: len(content) * share // 100], None, 0)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = {
            1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
            5: pixels.transpose(1, 0, 2), 6: pixels.transpose(1, 0, 2)[::-1],
            7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: pixels.transpose(1, 0, 2)[:, ::-1],
        }[orientation]  # fmt: skip
        tagged = Image.fromarray(np.ascontiguousarray(stored))
        files[f"exif-{orientation}.png"] = (saved(tagged, "PNG", exif=exif), pixels, 0)
        content = saved(tagged, "JPEG", **FINE, exif=exif)
        files[f"exif-{orientation}.jpg"] = (content, pixels, 6)
    bits = pixels[..., 0] > 70
    shown = np.repeat((bits * np.uint8(255))[..., None], 3, axis=2)
    files["one-bit.png"] = (saved(Image.fromarray(bits), "PNG"), shown, 0)
    files["one-bit.tif"] = (saved(Image.fromarray(bits), "TIFF", compression="group4"), shown, 0)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    for name, kind in (("deep.png", "PNG"), ("deep.tif", "TIFF")):
        files[name] = (saved(deep, kind), grey_pixels, 0)
    unit = Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    files["float.tif"] = (saved(unit, "TIFF"), grey_pixels, 1)
    palette = image.quantize(16, dither=0)
    files["palette.png"] = (saved(palette, "PNG"), np.asarray(palette.convert("RGB")), 0)
    alpha = np.full((*SIZE, 1), 255, np.uint8)
    alpha[:, :9] = 0
    on_white = pixels.copy()
    on_white[:, :9] = 255
    layered = Image.fromarray(np.concatenate([pixels, alpha], axis=2))
    for name, kind in (("alpha.png", "PNG"), ("alpha.tif", "TIFF")):
        files[name] = (saved(layered, kind), on_white, 0)
    files["alpha.webp"] = (saved(layered, "WEBP", lossless=True, exact=True), on_white, 0)
    frames = [image, Image.fromarray(pixels[::-1].copy())]
    for name, kind in (("animated.webp", "WEBP"), ("pages.tif", "TIFF")):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        files[name] = (content, pixels, 0)
    content = saved(few, "GIF", save_all=True, append_images=[frames[1].quantize(256, dither=0)])
    files["animated.gif"] = (content, np.asarray(few.convert("RGB")), 0)
    ink = Image.fromarray(
        np.concatenate([255 - pixels, np.zeros((*SIZE, 1), np.uint8)], axis=2), "CMYK"
    )
    files["cmyk.tif"] = (saved(ink, "TIFF"), pixels, 0)
    files["cmyk.jpg"] = (saved(ink, "JPEG", **FINE), pixels, 8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files["profile.png"] = (saved(image, "PNG", icc_profile=profile), pixels, 0)
    files["profile.jpg"] = (
        saved(image, "JPEG", **FINE, icc_profile=profile),
        pixels,
        6,
    )
    files["bad-profile.png"] = (saved(image, "PNG", icc_profile=b"nonsense"), pixels, 0)
    for height, width in ((1, 1), (5000, 1), (1, 5000), (10, 20000)):
        shape = np.full((height, width, 3), 77, np.uint8)
        files[f"{width}x{height}.png"] = (saved(Image.fromarray(shape), "PNG"), shape, 0)
    return files
