"""Files of every mode, depth and orientation: decoded to the values that were written, or refused by name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import SegmentationData
from bench.datasets.camvid import COLOURS, VOID, CamVid
from bench.datasets.cityscapes import Cityscapes
from bench.datasets.image_files import header_size, list_images, orientation, read_colours, read_ids, read_image
from bench.datasets.options import DataOptions
from bench.errors import BenchError

SIZE = (6, 9)
GREY = np.linspace(0, 255, SIZE[0] * SIZE[1]).round().astype(np.uint8).reshape(SIZE)
COLOUR = np.stack((GREY, GREY[::-1], 255 - GREY), axis=-1)
IDS = (np.arange(SIZE[0] * SIZE[1]) % (VOID + 1)).astype(np.uint8).reshape(SIZE)
TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""EXIF orientation -> how the camera stored what is upright."""


def refused(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(BenchError) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text and str(path) in text
    return text


def write_png(path: Path, rows: np.ndarray, depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of any depth, which Pillow cannot write: rows are uint8 [height, bytes]."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], depth, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def big_endian(values: np.ndarray) -> np.ndarray:
    """uint8 [height, bytes] of 16-bit samples."""
    return np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(len(values), -1)


def packed(samples: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [height, bytes] of samples of fewer than eight bits."""
    shifts = np.arange(bits)[::-1]
    return np.packbits((samples[..., None] >> shifts & 1).reshape(len(samples), -1).astype(np.uint8), axis=1)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **how: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **how)
    return path


def exif(number: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = number
    return found


class TestImages:
    @pytest.mark.parametrize("step", [256, 257])
    def test_grey_of_16_bits_is_its_upper_byte(self, tmp_path, step):
        expected = np.repeat(GREY[..., None], 3, axis=2)
        for ending in ("png", "tif", "ppm"):
            path = saved(tmp_path / f"grey.{ending}", GREY.astype(np.uint16) * step)
            assert np.array_equal(read_image(path), expected), ending

    def test_colours_of_16_bits_are_their_upper_bytes(self, tmp_path):
        rows = big_endian((COLOUR.astype(np.uint16) * 257).reshape(SIZE[0], -1))
        assert np.array_equal(read_image(write_png(tmp_path / "a.png", rows, 16, 2)), COLOUR)

    @pytest.mark.parametrize("largest", [200, 1023, 4095])
    def test_values_of_fewer_bits_in_16_are_refused(self, tmp_path, largest):
        grey = (GREY.astype(np.uint32) * largest // 255).astype(np.uint16)
        text = refused(read_image, saved(tmp_path / "grey.png", grey))
        assert f"no value above {max(largest, 255)}" in text
        rows = big_endian(np.repeat(grey, 3, axis=1))
        assert "16 bits" in refused(read_image, write_png(tmp_path / "rgb.png", rows, 16, 2))

    def test_a_black_frame_of_16_bits_is_black(self, tmp_path):
        assert not read_image(saved(tmp_path / "a.png", np.zeros(SIZE, np.uint16))).any()

    @pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".TIFF", ".webp", ".ppm", ".PNG"])
    def test_further_endings(self, tmp_path, ending):
        path = saved(tmp_path / f"a{ending}", COLOUR, **({"lossless": True} if ending == ".webp" else {}))
        assert list_images(tmp_path) == [path]
        assert np.array_equal(read_image(path), COLOUR)

    def test_black_and_white(self, tmp_path):
        path = saved(tmp_path / "a.png", (GREY > 99), None)
        assert Image.open(path).mode == "1"
        assert np.array_equal(read_image(path)[..., 1], np.where(GREY > 99, 255, 0))

    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
    def test_grey_palettes_and_opaque_alpha(self, tmp_path, mode):
        path = saved(tmp_path / "a.png", GREY, mode)
        assert np.array_equal(read_image(path), np.repeat(GREY[..., None], 3, axis=2))

    def test_a_palette_holds_colours(self, tmp_path):
        image = Image.fromarray(IDS, "P")
        image.putpalette([channel for colour in COLOURS for channel in colour])
        image.save(tmp_path / "a.png")
        assert np.array_equal(read_image(tmp_path / "a.png"), np.array(list(COLOURS), np.uint8)[IDS])

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_transparent_pixels_are_refused(self, tmp_path, mode):
        image = Image.fromarray(GREY).convert(mode)
        image.putalpha(Image.fromarray(GREY))
        image.save(tmp_path / "a.png")
        assert "transparent" in refused(read_image, tmp_path / "a.png")

    @pytest.mark.parametrize(("mode", "value"), [("L", 255), ("P", 3), ("RGB", (0, 255, 255)), ("I;16", 65535)])
    def test_a_transparent_colour_is_refused_where_a_pixel_has_it(self, tmp_path, mode, value):
        pixels = {
            "L": GREY,
            "P": IDS,
            "RGB": np.stack((GREY, 255 - GREY, 255 - GREY), -1),
            "I;16": GREY * np.uint16(257),
        }
        image = Image.fromarray(pixels[mode])
        if mode == "P":
            image = Image.fromarray(IDS, "P")
            image.putpalette([channel for colour in COLOURS for channel in colour])
        image.save(tmp_path / "a.png", transparency=value)
        assert "transparent" in refused(read_image, tmp_path / "a.png")

    @pytest.mark.parametrize(
        ("mode", "ending"), [("CMYK", "jpg"), ("CMYK", "tif"), ("F", "tif"), ("I", "tif"), ("LAB", "tif")]
    )
    def test_modes_that_are_no_rgb_are_named(self, tmp_path, mode, ending):
        image = Image.new(mode, SIZE[::-1]) if mode == "LAB" else Image.fromarray(COLOUR).convert("L").convert(mode)
        image.save(tmp_path / f"a.{ending}")
        assert f"mode {mode}" in refused(read_image, tmp_path / f"a.{ending}")

    @pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp"])
    def test_several_frames_are_refused(self, tmp_path, ending):
        frames = [Image.fromarray(pixels) for pixels in (GREY, 255 - GREY)]
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        for read in (read_image, read_ids):
            assert "2 frames" in refused(read, tmp_path / f"a.{ending}")

    def test_a_phones_picture_is_its_first(self, tmp_path):
        first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (200, 20))
        first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
        assert (read_image(tmp_path / "a.jpg") == 200).all()

    def test_a_picture_too_large_to_be_one_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        refused(read_image, saved(tmp_path / "a.png", COLOUR))


class TestOrientation:
    @pytest.mark.parametrize("number", TURNS)
    @pytest.mark.parametrize("ending", ["png", "tif", "webp"])
    def test_images_and_labels_are_turned_upright(self, tmp_path, number, ending):
        stored = np.ascontiguousarray(TURNS[number](COLOUR))
        how = {"lossless": True} if ending == "webp" else {}
        path = saved(tmp_path / f"a.{ending}", stored, exif=exif(number), **how)
        assert np.array_equal(read_image(path), COLOUR)
        assert sorted(header_size(path)) == sorted(stored.shape[:2])
        if ending != "webp":
            path = saved(tmp_path / f"ids.{ending}", np.ascontiguousarray(TURNS[number](IDS)), exif=exif(number))
            assert np.array_equal(read_ids(path), IDS)

    def test_jpegs_of_grey_too(self, tmp_path):
        path = saved(tmp_path / "a.jpg", np.rot90(np.full((8, 16), 77, np.uint8)).copy(), exif=exif(6))
        assert orientation(path) == 6
        assert read_image(path).shape == (8, 16, 3)

    def test_deep_grey_too(self, tmp_path):
        path = saved(tmp_path / "a.png", np.rot90(GREY).copy().astype(np.uint16) * 257, exif=exif(6))
        assert np.array_equal(read_image(path)[..., 0], GREY)

    @pytest.mark.parametrize("number", [0, 9])
    def test_numbers_that_mean_nothing_turn_nothing(self, tmp_path, number):
        assert np.array_equal(read_image(saved(tmp_path / "a.png", COLOUR, exif=exif(number))), COLOUR)

    @pytest.mark.parametrize("cache", [False, True])
    def test_a_turned_image_meets_its_upright_label(self, tmp_path, cache):
        data = self.opened(tmp_path, np.rot90(COLOUR).copy(), IDS, cache)
        ((_, labels),) = data.eval_loader("val", 1)
        assert labels.shape == (1, *SIZE)
        image, label = data.load("val", 0)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), COLOUR) and np.array_equal(label.numpy(), IDS)

    def test_a_label_drawn_on_the_unturned_image_is_refused_with_the_reason(self, tmp_path):
        data = self.opened(tmp_path, np.rot90(COLOUR).copy(), np.rot90(IDS).copy(), cache=False)
        text = refused(lambda _: data.load("val", 0), tmp_path / "val" / "a.png")
        assert "the image was turned as its EXIF orientation 6 says" in text and "6x9" in text and "9x6" in text

    def opened(self, root: Path, image: np.ndarray, label: np.ndarray, cache: bool) -> SegmentationData:
        for folder in ("val", "valannot"):
            (root / folder).mkdir()
        saved(root / "val" / "a.png", image, exif=exif(6))
        saved(root / "valannot" / "a.png", label)
        return SegmentationData(DataOptions("camvid", str(root), input_size=SIZE, num_workers=0, cache=cache))


class TestLabels:
    def test_ids_of_16_bits(self, tmp_path):
        assert np.array_equal(read_ids(saved(tmp_path / "a.png", IDS.astype(np.uint16))), IDS)
        wide = IDS.astype(np.uint16)
        wide[2, 3] = 300
        assert "holds id 300" in refused(read_ids, saved(tmp_path / "b.png", wide))
        assert "holds id 12; ids are 0 to 11" in refused(
            CamVid(tmp_path).decode_label, saved(tmp_path / "c.png", np.full(SIZE, 12, np.uint16))
        )

    def test_ids_of_32_bits(self, tmp_path):
        assert np.array_equal(read_ids(saved(tmp_path / "a.tif", IDS.astype(np.int32))), IDS)
        assert "id -1" in refused(read_ids, saved(tmp_path / "b.tif", np.full(SIZE, -1, np.int32)))

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_ids_of_few_bits_are_the_samples(self, tmp_path, bits):
        ids = IDS % 2**bits
        assert np.array_equal(read_ids(write_png(tmp_path / "a.png", packed(ids, bits), bits, 0)), ids)

    def test_a_17_of_eight_bits_is_no_1(self, tmp_path):
        assert (read_ids(saved(tmp_path / "a.png", np.full(SIZE, 17, np.uint8))) == 17).all()

    @pytest.mark.parametrize(("ending", "how"), [("jpg", {}), ("webp", {"lossless": False})])
    def test_lossy_files_are_refused_whatever_they_are_called(self, tmp_path, ending, how):
        Image.fromarray(IDS).save(tmp_path / "a.png", {"jpg": "JPEG", "webp": "WEBP"}[ending], **how)
        assert "does not keep class ids" in refused(read_ids, tmp_path / "a.png")

    def test_colours_are_refused_with_advice(self, tmp_path):
        assert "turn each into its class id" in refused(read_ids, saved(tmp_path / "a.png", COLOUR))
        assert "three channels are equal" in refused(read_ids, saved(tmp_path / "b.png", IDS, "RGB"))
        assert np.array_equal(read_ids(saved(tmp_path / "c.png", IDS, "LA")), IDS)

    def test_an_optimised_palette_of_greys_is_refused(self, tmp_path):
        image = Image.fromarray(np.where(IDS > 5, 1, 0).astype(np.uint8), "P")
        image.putpalette([3, 3, 3, 8, 8, 8])
        image.save(tmp_path / "a.png")
        assert "palette index 0 in the colour of class 3" in refused(read_ids, tmp_path / "a.png")

    def test_a_palette_of_another_order_of_the_classes_is_refused(self, tmp_path):
        palette = [*CamVid.classes.palette, (0, 0, 0)]
        for order, fits in ((palette, True), (palette[::-1], False)):
            image = Image.fromarray(IDS, "P")
            image.putpalette([channel for colour in order for channel in colour])
            image.save(tmp_path / "a.png")
            if fits:
                assert np.array_equal(CamVid(tmp_path).decode_label(tmp_path / "a.png"), IDS)
            else:
                assert "either may be meant" in refused(CamVid(tmp_path).decode_label, tmp_path / "a.png")

    def test_palettes_of_no_meaning_are_read_by_index(self, tmp_path):
        """As of Pascal VOC, some of whose colours are CamVid's of other classes."""
        image = Image.fromarray(IDS, "P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, *range(24)])
        image.save(tmp_path / "a.png")
        assert np.array_equal(CamVid(tmp_path).decode_label(tmp_path / "a.png"), IDS)

    def test_colour_labels_in_a_palette(self, tmp_path):
        (tmp_path / "val_labels").mkdir()
        colours = np.array(list(COLOURS), np.uint8).reshape(4, 8, 3)
        path = saved(tmp_path / "val_labels" / "a.png", colours)
        ids = CamVid(tmp_path).decode_label(path)
        Image.fromarray(colours).quantize(32).save(path)
        assert np.array_equal(read_colours(path), colours)
        assert np.array_equal(CamVid(tmp_path).decode_label(path), ids)


class TestNames:
    def test_labels_in_capitals(self, tmp_path):
        for folder, name in (("val", "a.BMP"), ("valannot", "a.PNG")):
            (tmp_path / folder).mkdir()
            saved(tmp_path / folder / name, IDS)
        ((image, label),) = CamVid(tmp_path).pairs("val")
        assert (image.name, label.name) == ("a.BMP", "a.PNG")

    def test_cityscapes_in_capitals_and_other_endings(self, tmp_path):
        for kind, name in (("leftImg8bit", "a_leftImg8bit.JPG"), ("gtFine", "a_gtFine_labelTrainIds.PNG")):
            (tmp_path / kind / "val" / "city").mkdir(parents=True)
            saved(tmp_path / kind / "val" / "city" / name, IDS)
        ((image, label),) = Cityscapes(tmp_path).pairs("val")
        assert image.name == "a_leftImg8bit.JPG"
        assert np.array_equal(Cityscapes(tmp_path).decode_label(label), IDS)

    def test_two_files_of_one_name_are_refused(self, tmp_path):
        for name in ("a.png", "a.tif", "b.png"):
            saved(tmp_path / name, IDS)
        text = refused(lambda path: list_images(path.parent), tmp_path / "a.tif")
        assert str(tmp_path / "a.png") in text
