"""Bytes to an image: whatever the bytes are, an image or a refusal comes, and nothing large was made for it."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline.preprocessing.preprocessing import Preprocessing
from oodline.serve.images import load_image, open_image
from oodline.serve.problems import Problem
from oodline.serve.settings import ServeSettings

KINDS = ("PNG", "JPEG", "WEBP", "BMP")


@pytest.mark.filterwarnings("ignore")  # PIL warns of much that is odd
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(picture, data):
    kind = data.draw(st.sampled_from(KINDS))
    content = bytearray(picture("noise", (40, 30), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        image = load_image(open_image(bytes(content), ServeSettings(max_pixels=10_000), Preprocessing()))
    except Problem as problem:
        assert problem.kind.status in (415, 422)
        assert problem.context and problem.remedy
    else:
        assert image.size[0] * image.size[1] <= 10_000


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300), st.booleans())
def test_the_size_after_resizing_is_foretold(width, height, resize, exact):
    from PIL import Image

    width, height = (width, 1 + height % 40) if resize % 2 else (1 + width % 40, height)
    target = (resize, resize + 3) if exact else resize
    preprocessing = Preprocessing(resize=target)
    foretold = preprocessing.resized(width, height)
    if foretold[0] * foretold[1] < 500_000:
        pixels = preprocessing.pixels(Image.new("RGB", (width, height)))
        assert foretold == (pixels.shape[2], pixels.shape[1])


def test_a_header_that_promises_much_costs_nothing(picture):
    import struct

    webp = bytearray(picture("noise", (40, 30), "WEBP"))
    webp = b"RIFF" + webp[4:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\x00" * 2 + webp[12:]
    bmp = bytearray(picture("noise", (40, 30), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    jpeg = bytearray(picture("noise", (40, 30), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 65000, 65000)
    tracemalloc.start()
    try:
        for content in (webp, bmp, jpeg):
            with pytest.raises(Problem, match="too many pixels"):
                open_image(bytes(content), ServeSettings(), Preprocessing(resize=8))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
