"""Where the parts of a checkpoint go, from the memory that is free and the sizes of the parts.

The first of these that fits, with a clip's own memory beside it, is taken:

    whole     all parts on the device
    released  text encoders in main memory; their layers visit the device while words are encoded
    parts     one part at a time on the device, for as long as it works
    blocks    of the denoisers one block at a time, at each step; text encoders as before

All four make the same film. Only where none fits is the autoencoder made to decode in tiles, which
changes pixels where tiles meet, and the list is gone through again. One means is taken at a time,
for several together are known to fail. Knows neither torch nor a device.
"""

from dataclasses import dataclass

GIB = 2**30
WORK = 2 * GIB  # of a clip besides the weights, at any size …
WORK_SHARE = 0.1  # … and of the largest denoiser
DECODING = 4096  # bytes of each pixel of a frame, while the autoencoder decodes it whole

WHOLE, RELEASED, PARTS, BLOCKS = LADDER = ("whole", "released", "parts", "blocks")


@dataclass(frozen=True)
class Sizes:
    """Of a checkpoint as it is loaded, in bytes, and of its largest film."""

    encoders: tuple[int, ...]  # of text
    denoisers: tuple[int, ...]
    others: tuple[int, ...]  # autoencoder, encoders of pictures
    block: int  # the largest of a denoiser
    pixels: int  # width * height

    def held(self, place: str) -> int:
        """Weights that are on the device at once, at most."""
        if place == WHOLE:
            return sum(self.encoders) + sum(self.denoisers) + sum(self.others)
        if place == RELEASED:
            return sum(self.denoisers) + sum(self.others)
        if place == PARTS:
            return max((*self.encoders, *self.denoisers, *self.others), default=0)
        return sum(self.others) + 3 * self.block  # one at work, its successor, what is in no block

    def work(self, *, tiled: bool) -> int:
        """What a clip takes besides."""
        denoising = WORK + round(WORK_SHARE * max(self.denoisers, default=0))
        return denoising if tiled else max(denoising, DECODING * self.pixels)


@dataclass(frozen=True)
class Plan:
    """Where parts go, and whether frames are decoded in tiles."""

    place: str = WHOLE
    tiled: bool = False

    def need(self, sizes: Sizes) -> int:
        """Bytes that it takes on the device."""
        return sizes.held(self.place) + sizes.work(tiled=self.tiled)


LEAST = Plan(BLOCKS, tiled=True)  # what is taken when nothing fits


def choose(free: int, sizes: Sizes) -> Plan:
    """The plan for so many free bytes."""
    plans = [Plan(place, tiled) for tiled in (False, True) for place in LADDER]
    return next((plan for plan in plans if plan.need(sizes) <= free), LEAST)
