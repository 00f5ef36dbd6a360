"""Where blocks of prompts live: on the model's device, then in host memory; the rest is read again when needed."""

from __future__ import annotations

from collections.abc import Callable

from tuner.measuring.batch import Places, PromptBatch
from tuner.measuring.memory import Room

Block = list[PromptBatch]


class Store:
    """Blocks placed in order, device first, then host, as long as there is room; deterministic.

    Where the device cannot take all blocks as they are, all are held without what can be made again from the rest.
    A block is kept only where another of its size can still be read beside it, because the block in hand needs memory
    too. The first one that fits nowhere ends the placing: it and all after it are read again each time.

    Args:
        read: reads a block onto the device, or the devices of its layers.
        count: blocks in all.
        room: bytes for blocks on the device and on the host, the block in hand included.
    """

    def __init__(
        self,
        read: Callable[[int], Block],
        count: int,
        room: Room,
    ) -> None:
        self._read, self._count = read, count
        self._on_device: list[Block] = []
        self._on_host: list[Block] = []
        self._places: Places | None = None
        self._is_light = False
        for index in range(count):
            block = read(index)
            in_hand = nbytes(block) if index + 1 < count else 0
            if not self._is_light and not self._fits(block, in_hand, room):
                self.lighten()
            if self._is_light:
                block = _lighter(block)
            if self._fits(block, in_hand, room):
                self._on_device.append(block)
            elif sum(map(nbytes, self._on_host)) + nbytes(block) <= room.host:
                self._places = block[0].places
                self._on_host.append([batch.to(self._places.on_host) for batch in block])
            else:
                break
            del block  # on the device it would stand beside the one that is read next

    def _fits(self, block: Block, in_hand: int, room: Room) -> bool:
        """True if `block` can stand on the device, beside one of `in_hand` bytes."""
        return not self._on_host and sum(map(nbytes, self._on_device)) + nbytes(block) + in_hand <= room.device

    @property
    def n_stored(self) -> int:
        """Blocks that are held somewhere: the first ones."""
        return len(self._on_device) + len(self._on_host)

    @property
    def held(self) -> int:
        """Bytes of all blocks that are held."""
        return sum(map(nbytes, (*self._on_device, *self._on_host)))

    @property
    def recomputes(self) -> bool:
        """True if some block is not stored."""
        return self.n_stored < self._count

    def change(self, changed: Callable[[Block], Block]) -> None:
        """Put something else in the place of every block that is held, one after the other."""
        for held in (self._on_device, self._on_host):
            for index, block in enumerate(held):
                held[index] = changed(block)

    def lighten(self) -> None:
        """Hold nothing that can be made again from the rest."""
        self._is_light = True
        self.change(_lighter)

    def load(self, index: int) -> Block:
        """Block `index` on the device, or the devices of its layers."""
        on_device = len(self._on_device)
        if index < on_device:
            return self._on_device[index]
        if index < self.n_stored:
            assert self._places is not None
            return [batch.to(self._places) for batch in self._on_host[index - on_device]]
        return self._read(index)


def _lighter(block: Block) -> Block:
    return [batch.lighter() for batch in block]


def nbytes(block: Block) -> int:
    """Bytes of all tensors of a block."""
    return sum(batch.nbytes for batch in block)
