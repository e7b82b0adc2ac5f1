"""One image file of any kind becomes one square RGB array; what cannot be decoded says why."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

Blob = Path | bytes
WANTED = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
# What Pillow's decoders are seen to raise on damaged or hostile files.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    ZeroDivisionError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def open_image(blob: Blob) -> Image.Image:
    """The image behind a path or bytes, header read and pixels not yet; raises one of `BROKEN`."""
    Image.init()
    # A closed list: Pillow would hand an EPS named .png to Ghostscript.
    formats = [name for name in WANTED if name in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # 90 to 179 megapixels: large, but a photograph
        return Image.open(io.BytesIO(blob) if isinstance(blob, bytes) else blob, formats=formats)


def problem(blob: Blob) -> str:
    """Why an image cannot be used, or an empty string; decodes it at low resolution, which finds truncation."""
    try:
        if isinstance(blob, Path) and not blob.exists():
            return "no such file"
        if (len(blob) if isinstance(blob, bytes) else blob.stat().st_size) == 0:
            return "empty file"
        with open_image(blob) as image:
            image.draft(None, (64, 64))
            image.load()
            flat(image.crop((0, 0, 1, 1)))  # a mode that has no way to RGB
    except UnidentifiedImageError:
        return "not an image that Pillow can read"
    except Image.DecompressionBombError:
        return "more pixels than any photograph has"
    except BROKEN as error:
        return str(error) or type(error).__name__
    return ""


def square(blob: Blob, size: int) -> np.ndarray:
    """The image upright, its shorter side resized to `size` by Lanczos, centre-cropped: uint8 (size, size, 3), sRGB.

    Transparency is laid over white; CMYK and other profiles are converted to sRGB; raises one of `BROKEN`.
    """
    with open_image(blob) as image:
        image.draft(None, (2 * size, 2 * size))  # JPEG: decode only the resolution that the resize needs
        image = flat(upright(image))
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        # Crop and resize in one call: a 1 x 5000 strip must not become size x 5000 size first.
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
        return np.asarray(to_srgb(image))


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; a damaged EXIF block changes nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except BROKEN:
        image.load()
        return image


def flat(image: Image.Image) -> Image.Image:
    """Any Pillow mode as opaque 8-bit RGB, L or CMYK, with its ICC profile kept."""
    profile = image.info.get("icc_profile", b"")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(eight_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    image.info["icc_profile"] = profile
    return image


def eight_bits(values: np.ndarray) -> np.ndarray:
    """16-bit, 32-bit or float grey levels as uint8; the range is the narrowest usual one that holds them."""
    usual = (1.0, 255.0, 65535.0) if np.issubdtype(values.dtype, np.floating) else (65535.0,)
    values = np.nan_to_num(values.astype(np.float64))
    top = next((limit for limit in usual if values.max() <= limit), values.max())
    return np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB, L or CMYK pixels in sRGB: through the embedded profile if it is sound, else by Pillow's formula."""
    profile = image.info.get("icc_profile") or b""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, *BROKEN):
            pass  # a profile for another mode, or a damaged one: the pixels are still good
    return image.convert("RGB")
