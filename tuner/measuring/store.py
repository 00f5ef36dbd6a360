"""Where blocks of prompts live: on the model's device, then in host memory; the rest is read again when needed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tuner.measuring.batch import PromptBatch
from tuner.measuring.memory import Room

Block = list[PromptBatch]


class Store:
    """Blocks placed in order, device first, then host, as long as there is room; deterministic.

    A block is kept only where another of its size can still be read beside it, because the block in hand needs memory
    too. The first one that fits nowhere ends the placing: it and all after it are read again each time.

    Args:
        read: reads a block onto the device.
        count: blocks in all.
        device: the model's.
        room: bytes for blocks on the device and on the host, the block in hand included.
    """

    def __init__(
        self,
        read: Callable[[int], Block],
        count: int,
        device: torch.device | str,
        room: Room,
    ) -> None:
        self._read, self._count, self._device = read, count, device
        self._on_device: list[Block] = []
        self._on_host: list[Block] = []
        on_device = on_host = 0
        for index in range(count):
            block = read(index)
            size = nbytes(block)
            in_hand = size if index + 1 < count or self._on_host else 0
            if not self._on_host and on_device + size + in_hand <= room.device:
                self._on_device.append(block)
                on_device += size
            elif on_host + size <= room.host:
                self._on_host.append([batch.to("cpu") for batch in block])
                on_host += size
            else:
                break
            del block  # on the device it would stand beside the one that is read next

    @property
    def n_stored(self) -> int:
        """Blocks that are held somewhere: the first ones."""
        return len(self._on_device) + len(self._on_host)

    @property
    def recomputes(self) -> bool:
        """True if some block is not stored."""
        return self.n_stored < self._count

    def change(self, changed: Callable[[Block], Block]) -> None:
        """Put something else in the place of every block that is held, one after the other."""
        for held in (self._on_device, self._on_host):
            for index, block in enumerate(held):
                held[index] = changed(block)

    def load(self, index: int) -> Block:
        """Block `index` on the device."""
        on_device = len(self._on_device)
        if index < on_device:
            return self._on_device[index]
        if index < self.n_stored:
            return [batch.to(self._device) for batch in self._on_host[index - on_device]]
        return self._read(index)


def nbytes(block: Block) -> int:
    """Bytes of all tensors of a block."""
    return sum(batch.nbytes for batch in block)
