"""Pictures from strangers become upright sRGB pixels of the wanted shape, and nothing else."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.pictures import (
    Box,
    Unusable,
    as_frame,
    as_reference,
    centre_crop,
    develop,
    measure,
    save,
)
from tests.service.media import bomb, encoded, halves, picture

RED, BLUE = (220, 30, 30), (30, 30, 220)
PLENTY = 40_000_000


def written(folder: Path, data: bytes) -> Path:
    path = folder / "picture"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("orientation", "at_top_left"), [(1, RED), (2, BLUE), (3, BLUE), (6, RED), (8, BLUE)]
)
def test_a_picture_is_turned_upright(tmp_path, orientation, at_top_left):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path, encoded(halves((64, 32), RED, BLUE), exif=exif))
    image = develop(path, PLENTY)
    size = (32, 64) if orientation in (6, 8) else (64, 32)
    assert image.size == measure(path, PLENTY) == size
    assert image.getpixel((2, 2)) == at_top_left


def test_colours_are_brought_to_srgb_by_the_embedded_profile(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    shown = develop(written(tmp_path, picture(colour=RED, icc_profile=lab.tobytes())), PLENTY)
    assert shown.getpixel((0, 0)) == RED, "a profile of another colour space is no profile"
    xyz_swapped = swapped_srgb()
    image = develop(written(tmp_path, picture(colour=RED, icc_profile=xyz_swapped)), PLENTY)
    red, _, blue = image.getpixel((0, 0))
    assert blue > 180 > 60 > red, "the profile says that red is blue"
    assert "icc_profile" not in image.info


def swapped_srgb() -> bytes:
    """sRGB's profile with the red and the blue primary exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = {}
    for index in range(int.from_bytes(data[128:132], "big")):
        at = 132 + 12 * index
        place[bytes(data[at : at + 4])] = at
    red, blue = place[b"rXYZ"], place[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = data[blue : blue + 4], data[red : red + 4]
    return bytes(data)


def test_a_broken_profile_counts_as_none(tmp_path):
    image = develop(written(tmp_path, picture(colour=RED, icc_profile=b"not a profile")), PLENTY)
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_eight_bit_colour(tmp_path, mode):
    grey = Image.new("RGB", (8, 8), (255, 255, 255))
    if mode == "I;16":
        source = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        source = grey.convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = develop(written(tmp_path, encoded(source, kind)), PLENTY)
    assert image.mode == "RGB"
    assert min(image.getpixel((4, 4))) >= 254


def test_alpha_is_kept_for_references_and_filled_for_frames(tmp_path):
    path = written(tmp_path, picture(colour=(200, 40, 40, 0)))
    kept = as_reference(develop(path, PLENTY), 1024)
    assert (kept.mode, kept.getpixel((0, 0))[3]) == ("RGBA", 0)
    frame = as_frame(develop(path, PLENTY), (32, 32))
    assert (frame.mode, frame.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_a_frame_is_cropped_around_its_centre():
    assert centre_crop((300, 100), (1, 1)).left == 100
    assert centre_crop((100, 300), (1, 1)).top == 100
    assert centre_crop((64, 64), (32, 32)) == Box(0, 0, 64, 64)
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(Image.new("RGB", (100, 100), BLUE), (100, 0))
    assert as_frame(wide, (50, 50)).getcolors() == [(2500, BLUE)]


def test_references_keep_their_shape_and_lose_size():
    assert as_reference(Image.new("RGB", (4000, 1000)), 1024).size == (1024, 256)
    assert as_reference(Image.new("RGB", (40, 10)), 1024).size == (40, 10)


def test_nothing_but_pixels_is_saved(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    image = develop(written(tmp_path, picture(kind="JPEG", exif=exif, comment=b"secret")), PLENTY)
    save(image, tmp_path / "saved.png")
    assert b"secret" not in (tmp_path / "saved.png").read_bytes()
    with Image.open(BytesIO((tmp_path / "saved.png").read_bytes())) as saved:
        assert not saved.info
        assert not saved.getexif()


def test_pixels_are_counted_before_they_are_decoded(tmp_path):
    path = written(tmp_path, bomb(30_000, 30_000))
    for look in (measure, develop):
        with pytest.raises(Unusable, match="30000x30000"):
            look(path, PLENTY)
