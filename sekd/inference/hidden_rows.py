"""A ring buffer of hidden-state rows in shared memory: the engine's worker writes, the caller reads.

vLLM's worker may be another process, and on CUDA it copies rows asynchronously. So each row is one record with its
stamp and a checksum over stamp and payload, written by one call and read by one call. The reader waits for the record
of its stamp and accepts it only if the checksum matches. A record that is being written or overwritten does not match.
The ring is anonymous memory, which the system frees when the process ends.

    record = [stamp: uint64 | checksum: uint32 | payload: layers × hidden × itemsize bytes]
"""

import os
import struct
import time
import zlib

import numpy as np

HEADER = struct.Struct("<QI")
STAMP = struct.Struct("<Q")


class HiddenRowsError(RuntimeError):
    """A row did not arrive, or was overwritten before it was read."""


class RowWriter:
    """The worker's side: writes payloads of one fixed size at ``stamp % slots``."""

    def __init__(self, path: str, *, slots: int, row_bytes: int) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._slots, self._row_bytes = slots, row_bytes

    def write(self, stamp: int, payload: np.ndarray) -> None:
        """Store the row of one stamp; stamps count up from 1 and are used once."""
        assert stamp > 0, stamp
        assert payload.nbytes == self._row_bytes, (payload.nbytes, self._row_bytes)
        raw = payload.tobytes()
        record = HEADER.pack(stamp, _checksum(stamp, raw)) + raw
        written = os.pwrite(self._fd, record, (stamp % self._slots) * len(record))
        assert written == len(record), (written, len(record))

    def close(self) -> None:
        """Release the ring."""
        os.close(self._fd)


class RowReader:
    """The caller's side, which owns the memory.

    Args:
        shape: [layers, hidden] of a row.
        dtype: numpy dtype of its elements (bfloat16 as uint16).
        slots: rows of the ring: at least the number of requests that may be unread at a time.
    """

    def __init__(self, *, shape: tuple[int, int], dtype: np.dtype, slots: int) -> None:
        self._fd = os.memfd_create("sekd-hidden-rows")
        self._shape, self._dtype, self._slots = shape, dtype, slots
        self.row_bytes = int(np.prod(shape)) * dtype.itemsize
        os.ftruncate(self._fd, slots * (HEADER.size + self.row_bytes))
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def read(self, stamp: int, *, timeout: float = 30.0) -> np.ndarray:
        """The row of one stamp, [layers, hidden]; waits for it to be written.

        Raises:
            HiddenRowsError: not written within ``timeout`` seconds, or already overwritten.
        """
        size = HEADER.size + self.row_bytes
        deadline = time.monotonic() + timeout
        while True:
            record = os.pread(self._fd, size, (stamp % self._slots) * size)
            found, expected = HEADER.unpack_from(record)
            payload = memoryview(record)[HEADER.size :]
            if found == stamp and _checksum(stamp, payload) == expected:
                return np.frombuffer(payload, self._dtype).reshape(self._shape)
            if found > stamp:
                raise HiddenRowsError(f"hidden-state row {stamp} was overwritten by row {found} before it was read")
            if time.monotonic() > deadline:
                raise HiddenRowsError(f"hidden-state row {stamp} was not written within {timeout} s")
            time.sleep(1e-4)

    def close(self) -> None:
        """Free the memory."""
        os.close(self._fd)


def _checksum(stamp: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(STAMP.pack(stamp)))
