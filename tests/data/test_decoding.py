"""Every format and mode that PIL can write is read as what it shows, or refused by name; no decoder's error escapes."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo

from oodline._util.pixels import standard_image, upright
from oodline.data import image_loader, open_images
from oodline.data.decoding import FORMATS, decode, read_image
from oodline.errors import ImageError, InputError
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.report.thumbnails import thumbnail

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
MODES += ["I;16", "I;16B", "I;16L", "I;16N", "I", "F"]
Image.init()


def photo(width: int = 32, height: int = 24) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 255 - x * 127 // width], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def in_mode(mode: str) -> Image.Image:
    """The photo in a mode; what needs more than 8 bits has them."""
    grey = np.asarray(photo().convert("L"))
    if mode.startswith("I;16"):
        kind = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, photo().size, (grey.astype(np.uint16) * 257).astype(kind).tobytes())
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return ImageCms.applyTransform(photo(), to_lab)
    if mode in ("La", "PA"):
        return photo().convert("LA").convert(mode) if mode == "La" else photo().convert("P").convert("PA")
    return photo().convert("RGBA").convert(mode) if mode == "RGBa" else photo().convert(mode)


def shown(mode: str) -> np.ndarray:
    """What the photo looks like in a mode, computed without `standard_image`."""
    if mode in ("1", "P", "PA"):
        return np.asarray(in_mode(mode).convert("RGB"), float)
    grey = mode[0] in "LIF" and mode != "LAB"
    return np.asarray(photo().convert("L").convert("RGB") if grey else photo(), float)


def encoded(image: Image.Image, form: str) -> bytes | None:
    file = io.BytesIO()
    options = {"lossless": True} if form == "WEBP" else {}
    try:
        image.save(file, form, **options)
    except Exception:
        return None
    return file.getvalue()


WRITTEN = {
    (form, mode): content
    for form in sorted(Image.SAVE)
    for mode in MODES
    if form != "PDF"
    for content in [encoded(in_mode(mode), form)]
    if content
}
LOSSY = {"JPEG", "MPO", "AVIF", "JPEG2000"}
DEEP = {"PNG", "TIFF", "PPM", "JPEG2000"}
"""Formats that keep more than 8 bits; into others PIL writes white."""


def kept(form: str, mode: str) -> bool:
    return form in {*FORMATS, "MPO"} and (form in DEEP or mode[0] not in "IF")


@pytest.mark.parametrize(("form", "mode"), [key for key in WRITTEN if kept(*key)])
def test_a_format_that_is_read_is_read_as_what_it_shows_in_every_mode(form, mode):
    content = WRITTEN[form, mode]
    if (form, mode) == ("TIFF", "I"):
        with pytest.raises(ImageError, match=r"image a\.tif cannot be read: 32-bit integers .* do not say"):
            decode(content, "a.tif")
        return
    image = decode(content)
    apart = np.abs(np.asarray(image.convert("RGB"), float) - shown(mode)).mean()
    dots = 30 if mode in ("1", "P", "PA") else 4  # dithered, which lossy formats smooth
    assert apart < (12 if form == "GIF" else dots if form in LOSSY else 2.5)
    assert np.asarray(image.convert("L")).std() > 20  # neither white, nor black, nor two levels
    greys = len(np.unique(np.asarray(image.convert("L"))))
    assert greys > (1 if mode == "1" or form == "MSP" else 60)


def test_the_sweep_covers_what_pil_writes():
    assert len(WRITTEN) > 80
    assert {form for form, _ in WRITTEN} >= {*FORMATS, "EPS", "TGA", "ICO", "PCX"}


@pytest.mark.parametrize("form", sorted({form for form, _ in WRITTEN} - {*FORMATS, "MPO", "DIB"}))
def test_a_format_that_is_not_read_is_refused_whatever_the_file_is_called(form, tmp_path):
    content = WRITTEN.get((form, "RGB")) or next(c for (f, _), c in WRITTEN.items() if f == form)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"image a\.png cannot be read: cannot identify image file: it is not AVIF"):
        read_image(open_images(tmp_path), 0)


@pytest.mark.parametrize("named", ["a.png", "a.jpg", "a.tif"])
def test_eps_starts_no_interpreter(named, tmp_path, monkeypatch):
    traces = tmp_path / "bin"
    traces.mkdir()
    script = traces / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{traces}:{os.environ['PATH']}")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / named).write_bytes(WRITTEN["EPS", "RGB"])
    loader = image_loader(open_images(folder), Preprocessing(), on_error="skip")
    assert list(loader) == [] and loader.skipped == [named]
    (tmp_path / "classes" / "a").mkdir(parents=True)
    (tmp_path / "classes" / "a" / named).write_bytes(WRITTEN["EPS", "RGB"])
    with pytest.raises(ImageError, match="cannot identify"):
        read_image(open_images(f"torchvision:ImageFolder,root={tmp_path}/classes"), 0)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_in_memory_is_prepared_as_it_shows(mode):
    image = in_mode(mode)
    if mode == "I":
        with pytest.raises(InputError, match=r"32-bit integers \(mode I, from \d+ to \d+\) do not say which value"):
            Preprocessing()(image)
        return
    pixels = Preprocessing()(image).permute(1, 2, 0).numpy() * 255
    assert np.abs(pixels - shown(mode)).mean() < 2.5
    assert Preprocessing(mode="L")(image).shape == (1, 24, 32)
    assert thumbnail(image).startswith("data:image/png")


@pytest.mark.parametrize(
    ("maxval", "kind"), [(1, "u1"), (100, "u1"), (255, "u1"), (1023, ">u2"), (4095, ">u2"), (65535, ">u2")]
)
def test_a_pgm_is_scaled_by_its_own_maximum(maxval, kind):
    values = np.linspace(0, maxval, 64).round().reshape(8, 8)
    content = f"P5 8 8 {maxval}\n".encode() + values.astype(kind).tobytes()
    assert np.abs(np.asarray(decode(content), float) - 255 * values / maxval).max() <= 0.51
    plain = f"P2 8 8 {maxval}\n" + " ".join(str(int(v)) for v in values.ravel())
    assert np.abs(np.asarray(decode(plain.encode()), float) - 255 * values / maxval).max() <= 0.51


@pytest.mark.parametrize("maxval", [1023, 4095, 65535])
def test_a_colour_ppm_of_more_than_8_bits_too(maxval):
    values = np.linspace(0, maxval, 8 * 8 * 3).round().reshape(8, 8, 3)
    content = f"P6 8 8 {maxval}\n".encode() + values.astype(">u2").tobytes()
    assert np.abs(np.asarray(decode(content), float) - 255 * values / maxval).max() <= 1


def tiff(values: np.ndarray, bits: int, *, sample_format: int = 1, photometric: int = 1, content: bytes = b"") -> bytes:
    """A TIFF file with one strip, written by hand: PIL cannot write all of its kinds."""
    data = content or values.tobytes()
    tags = [(256, 4, values.shape[1]), (257, 4, values.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, values.shape[0]), (279, 4, len(data)), (339, 3, sample_format)]
    directory = len(tags).to_bytes(2, "little")
    for tag, kind, value in tags:
        directory += b"".join(n.to_bytes(s, "little") for n, s in ((tag, 2), (kind, 2), (1, 4), (value, 4)))
    return b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + directory + bytes(4)


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def test_tiff_of_16_bits_is_scaled_and_turned_over_where_white_is_zero():
    values = (RAMP * 65535).round().astype("<u2")
    for photometric, expected in ((1, RAMP), (0, 1 - RAMP)):
        image = decode(tiff(values, 16, photometric=photometric))
        assert np.abs(np.asarray(image, float) - 255 * expected).max() <= 0.51


def test_tiff_of_12_bits_is_scaled_by_4095():
    values = (RAMP * 4095).round().astype(int).ravel()
    pairs = zip(values[::2].tolist(), values[1::2].tolist(), strict=True)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    image = decode(tiff(RAMP, 12, content=packed))
    assert np.abs(np.asarray(image, float) - 255 * RAMP).max() <= 0.51


@pytest.mark.parametrize(("values", "bits", "sample_format", "sentence"), [
    ((RAMP * 2**31).astype("<u4"), 32, 1, "32-bit integers"),
    ((RAMP * 60000).astype("<i4"), 32, 2, "32-bit integers .*from 0 to 60000.* Save it with 8 or 16 bits"),
    ((RAMP * 30000).astype("<i2"), 16, 2, "32-bit integers"),
    ((RAMP * 255).astype("<f4"), 32, 3, r"floats \(mode F\) must lie in \[0, 1\]; these go from 0 to 255"),
    ((RAMP - 0.5).astype("<f4"), 32, 3, "from -0.5 to 0.5"),
    (np.where(RAMP > 0.5, np.nan, RAMP).astype("<f4"), 32, 3, "floats"),
])  # fmt: skip
def test_values_whose_white_is_not_known_are_refused_by_name(values, bits, sample_format, sentence, tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(values, bits, sample_format=sample_format))
    source = open_images(tmp_path)
    with pytest.raises(ImageError, match=rf"image a\.tif \(number 0\) cannot be read: .*{sentence}"):
        list(image_loader(source, Preprocessing()))
    loader = image_loader(source, Preprocessing(), on_error="skip")
    assert list(loader) == [] and loader.skipped == ["a.tif"]


def test_floats_in_0_to_1_are_scaled():
    image = decode(tiff(RAMP.astype("<f4"), 32, sample_format=3))
    assert np.abs(np.asarray(image, float) - 255 * RAMP).max() <= 0.51


def test_16_bit_png_in_grey_and_colour_are_one_scale():
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = (RAMP * 65535).round().astype(">u2")
    header, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    for colour, samples in (
        (0, values),
        (2, np.repeat(values[..., None], 3, 2)),
        (4, np.stack([values, values], 2).astype(">u2")),
    ):
        rows = b"".join(b"\0" + row.tobytes() for row in samples)
        about = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0))
        content = header + about + chunk(b"IDAT", zlib.compress(rows)) + end
        found = np.asarray(decode(content).convert("L"), float)
        assert np.abs(found - 255 * RAMP).max() <= 1


def test_transparency_is_left_out_in_every_form():
    image = photo()
    for form in ("PNG", "WEBP", "TIFF"):
        clear = image.copy()
        clear.putalpha(Image.linear_gradient("L").resize(image.size))
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        file = io.BytesIO()
        clear.save(file, form, **options)
        assert np.array_equal(np.asarray(decode(file.getvalue()).convert("RGB")), np.asarray(image))
    few = image.convert("P")
    file = io.BytesIO()
    few.save(file, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(decode(file.getvalue()).convert("RGB")), np.asarray(few.convert("RGB")))


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The photo as a camera held that way stores it: what undoes the orientation, by hand."""
    pixels = np.asarray(photo())
    stored = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, 1), 7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    return Image.fromarray(np.ascontiguousarray(stored)), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_orientation_of_exif_is_applied_once_in_every_format(form, orientation):
    image, exif = turned(orientation)
    file = io.BytesIO()
    image.save(file, form, exif=exif, quality=95)
    for found in (decode(file.getvalue()), standard_image(Image.open(file)), standard_image(decode(file.getvalue()))):
        assert found.size == photo().size
        assert np.abs(np.asarray(found.convert("RGB"), float) - np.asarray(photo(), float)).mean() < 6
    again = Preprocessing()(Image.open(file))
    assert torch.equal(again, Preprocessing()(decode(file.getvalue())))


def test_the_orientation_of_xmp_and_of_a_16_bit_image_is_applied():
    image, exif = turned(6)
    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=about)
    assert decode(file.getvalue()).size == photo().size
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    file = io.BytesIO()
    deep.save(file, "PNG", exif=exif)
    assert np.abs(np.asarray(decode(file.getvalue()), int) - np.asarray(photo().convert("L"), int)).max() <= 1


def test_damaged_exif_leaves_the_pixels_alone():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 30):
        file = io.BytesIO()
        photo().save(file, "JPEG", exif=exif)
        assert decode(file.getvalue()).size == photo().size


def test_of_several_frames_the_first_one_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for form in ("GIF", "TIFF", "PNG", "WEBP", "AVIF", "MPO"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        red, green, _ = decode(file.getvalue()).convert("RGB").getpixel((4, 4))
        assert red > 240 and green < 20


def damaged(content: bytes, rng: np.random.Generator) -> list[bytes]:
    cut = [content[:n] for n in sorted({0, 1, 9, 20, len(content) // 3, len(content) // 2, len(content) - 3})]
    for rate in (1, 3, 30):
        for _ in range(12):
            flipped = bytearray(content)
            for place in rng.integers(0, min(len(flipped), 400), rate):
                flipped[place] ^= 1 << int(rng.integers(8))
            cut.append(bytes(flipped))
    return cut


@pytest.mark.parametrize("form", [*FORMATS, "MPO"])
def test_whatever_a_decoder_raises_names_the_image(form):
    rng = np.random.default_rng(0)
    refused = 0
    for mode in ("L", "RGB", "RGBA", "P", "I;16"):
        for content in damaged(WRITTEN[form, mode], rng) if (form, mode) in WRITTEN else ():
            try:
                assert decode(content, "x.jpg").mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
            except ImageError as error:
                refused += 1
                assert str(error).startswith("image x.jpg cannot be read: ")
    assert refused > 5


class Odd:
    """A source whose images cannot be read for a reason of its own."""

    class_names = None

    def __len__(self):
        return 3

    def name(self, i):
        return f"odd#{i}"

    def label(self, i):
        return None

    def read(self, i):
        import struct
        import zlib

        raise [SyntaxError("broken"), struct.error("unpack"), zlib.error("inflate")][i]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_any_kind_is_skipped_with_workers_and_without(workers, tmp_path):
    loader = image_loader(Odd(), Preprocessing(), on_error="skip", workers=workers)
    assert list(loader) == []
    assert loader.skipped == ["odd#0", "odd#1", "odd#2"]
    broken = bytearray(WRITTEN["AVIF", "RGB"])
    broken[60:] = b"\xff" * (len(broken) - 60)
    (tmp_path / "a.jpg").write_bytes(broken)
    (tmp_path / "b.png").write_bytes(WRITTEN["PNG", "RGB"])
    loader = image_loader(open_images(tmp_path), Preprocessing(), on_error="skip", workers=workers)
    assert [batch.index.tolist() for batch in loader] == [[1]]
    assert loader.skipped == ["a.jpg"]
    with pytest.raises(ImageError, match=r"image a\.jpg \(number 0\) cannot be read"):
        list(image_loader(open_images(tmp_path), Preprocessing(), workers=workers))


def test_memory_that_runs_out_is_not_the_images_fault(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode(b"")


def test_truncated_images_stay_refused_where_a_program_lets_pil_load_them(monkeypatch, tmp_path):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError):
            decode(WRITTEN["JPEG", "RGB"][:300])


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero"), tmp_path / "nowhere.png"):
        with pytest.raises(ImageError, match="there is no file"):
            decode(path)


def test_an_upright_image_is_the_same_object():
    assert upright(image := photo()) is image
    assert standard_image(image) is image
