"""A small ring of hidden-state rows in memory that the engine's worker writes and the caller reads.

vLLM's worker may be another process, and on CUDA it copies rows out behind the forward pass. So each row carries
a stamp, written after its payload: the reader waits for its own row's stamp and cannot read a stale row or half a row.
The ring is anonymous memory, gone with the process that made it however that ends.

    row = [stamp: uint64 | payload: layers × hidden × itemsize bytes]
"""

import os
import time
from pathlib import Path

import numpy as np

STAMP_BYTES = 8


class HiddenRowsError(RuntimeError):
    """A row that was promised did not arrive, or was overwritten before it was read."""


class RowWriter:
    """The worker's side: writes payloads of one fixed size at ``stamp % slots``."""

    def __init__(self, path: str, *, slots: int, row_bytes: int) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._slots, self._row_bytes = slots, row_bytes

    def write(self, stamp: int, payload: np.ndarray) -> None:
        """Store the row of one stamp; stamps count up from 1 and are used once."""
        assert stamp > 0, stamp
        assert payload.nbytes == self._row_bytes, (payload.nbytes, self._row_bytes)
        start = (stamp % self._slots) * (STAMP_BYTES + self._row_bytes)
        os.pwrite(self._fd, payload.tobytes(), start + STAMP_BYTES)
        os.pwrite(self._fd, stamp.to_bytes(STAMP_BYTES, "little"), start)

    def close(self) -> None:
        """Release the ring."""
        os.close(self._fd)


class RowReader:
    """The caller's side, and the owner of the memory.

    Args:
        shape: [layers, hidden] of a row.
        dtype: numpy dtype of its elements (bfloat16 as uint16).
        slots: rows the ring holds: at least as many as there are requests that may be unread at once.
    """

    def __init__(self, *, shape: tuple[int, int], dtype: np.dtype, slots: int) -> None:
        self._fd = os.memfd_create("sekd-hidden-rows")
        self._shape, self._dtype, self._slots = shape, dtype, slots
        self.row_bytes = int(np.prod(shape)) * dtype.itemsize
        os.ftruncate(self._fd, slots * (STAMP_BYTES + self.row_bytes))
        self.path = str(Path("/proc") / str(os.getpid()) / "fd" / str(self._fd))

    def read(self, stamp: int, *, timeout: float = 30.0) -> np.ndarray:
        """The row of one stamp, [layers, hidden]; waits for it to be written.

        Raises:
            HiddenRowsError: not written within ``timeout`` seconds, or already overwritten.
        """
        start = (stamp % self._slots) * (STAMP_BYTES + self.row_bytes)
        deadline = time.monotonic() + timeout
        while (found := self._stamp(start)) < stamp:
            if time.monotonic() > deadline:
                raise HiddenRowsError(f"hidden-state row {stamp} was not written within {timeout} s")
            time.sleep(1e-4)
        payload = os.pread(self._fd, self.row_bytes, start + STAMP_BYTES)
        if found != stamp or self._stamp(start) != stamp:
            raise HiddenRowsError(
                f"hidden-state row {stamp} was overwritten by row {self._stamp(start)} before it was read"
            )
        return np.frombuffer(payload, self._dtype).reshape(self._shape)

    def _stamp(self, start: int) -> int:
        return int.from_bytes(os.pread(self._fd, STAMP_BYTES, start), "little")

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._fd)
