"""A film on its way from the model to the encoder: one piece at a time, checked, its stills kept.

What is held does not grow with the length of the film. Nothing here knows jobs or files.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from models.protocol import Frames
from worker.media import spread


class Reel:
    """Counts and checks what passes, and keeps the frames that become pictures.

    count, height, width  of the whole film, as it was ordered
    """

    def __init__(self, count: int, height: int, width: int, tiles: int = 16) -> None:
        self._size = (height, width, 3)
        self._count = count
        self._passed = 0
        self._sheet = spread(count, tiles)
        self._kept: dict[int, Frames] = {}

    def pieces(self, film: Iterable[Frames]) -> Iterator[Frames]:
        """The film again, piece by piece.

        raises ValueError for frames of another size, or more or fewer of them, than ordered
        """
        for piece in film:
            begun, self._passed = self._passed, self._passed + len(piece)
            if piece.shape[1:] != self._size or self._passed > self._count:
                raise self._misfit(piece)
            for index in (*self._sheet, self._count // 2, self._count - 1):
                if begun <= index < self._passed:
                    self._kept[index] = piece[index - begun][None].copy()
            yield piece
            del piece  # the next one is made without this one in memory
        if self._passed != self._count:
            raise self._misfit(np.empty((0, *self._size), np.uint8))

    @property
    def middle(self) -> Frames:
        """The middle frame, (1, H, W, 3). After the film has passed."""
        return self._kept[self._count // 2]

    @property
    def last(self) -> Frames:
        """The last frame, (1, H, W, 3). After the film has passed."""
        return self._kept[self._count - 1]

    @property
    def stills(self) -> Frames:
        """Frames evenly spaced from first to last, (n, H, W, 3). After the film has passed."""
        return np.concatenate([self._kept[index] for index in self._sheet])

    def _misfit(self, piece: Frames) -> ValueError:
        made = (self._passed, *piece.shape[1:])
        return ValueError(f"the model made frames {made}, asked were {(self._count, *self._size)}")
