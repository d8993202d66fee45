"""A vLLM KV connector that returns hidden states at the answer position.

With the speculative method ``extract_hidden_states`` vLLM keeps the chosen layers' outputs of every token in a KV cache
of its own, addressed by the same blocks as the keys and values. Only one row a request is needed: that of the last
prompt position, whose logits predict the answer. In the step that completes a request's prefill, the scheduler's half
of this connector notes the block and slot of that position (also with chunked prefill and prefix caching). The worker's
half copies it into a ``RowReader``'s ring after the forward pass. ``RequestOutput.kv_transfer_params`` holds the row's
stamp. Only requests that ask for it are copied.

    kv [blocks, layers, slots, hidden]
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import get_layers_from_vllm_config
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from sekd.inference.hidden_rows import RowWriter

CAPTURE = "sekd_capture"  # key in a request's kv_transfer_params that asks for its row
STAMP = "sekd_stamp"  # key in the result's kv_transfer_params that names the row


@dataclass
class RowsToCopy(KVConnectorMetadata):
    """The rows of this step's cache to copy: three parallel lists."""

    stamps: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)


class AnswerPositionConnector(KVConnectorBase_V1, SupportsHMA):
    """Both halves; vLLM makes one instance for the scheduler and one for each worker."""

    requires_kv_delivery = False  # a row is copied in the step that computes it, so preemption loses nothing

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._group, self._block_size = _hidden_state_group(kv_cache_config)
        self._prompt_lengths: dict[str, int] = {}
        self._stamps: dict[str, int] = {}
        self._last_stamp = 0
        self._copier: RowCopier | None = None

    # --- scheduler ---

    def on_new_request(self, request: Any) -> None:
        """Remember the requests that ask for their row."""
        if (request.kv_transfer_params or {}).get(CAPTURE):
            self._prompt_lengths[request.request_id] = request.num_prompt_tokens

    def build_connector_meta(self, scheduler_output: Any) -> RowsToCopy:
        """The rows that this step completes."""
        new, cached = scheduler_output.scheduled_new_reqs, scheduler_output.scheduled_cached_reqs
        starts = [(request.req_id, request.num_computed_tokens) for request in new]
        starts += zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        wanted = RowsToCopy()
        for request_id, start in starts:
            end = start + scheduler_output.num_scheduled_tokens[request_id]
            if start < self._prompt_lengths.get(request_id, 0) <= end:
                blocks = scheduler_output.kv_connector_block_state.get_block_ids(request_id)[self._group]
                self._request_row(wanted, request_id, blocks)
        return wanted

    def _request_row(self, wanted: RowsToCopy, request_id: str, blocks: list[int]) -> None:
        position = self._prompt_lengths[request_id] - 1
        self._last_stamp += 1  # a preempted request comes here again and gets a new row
        self._stamps[request_id] = self._last_stamp
        wanted.stamps.append(self._last_stamp)
        wanted.blocks.append(blocks[position // self._block_size])
        wanted.slots.append(position % self._block_size)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Free the blocks at once and return the row's stamp to the caller."""
        self._prompt_lengths.pop(request.request_id, None)
        stamp = self._stamps.pop(request.request_id, None)
        return False, None if stamp is None else {STAMP: stamp}

    # --- worker ---

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Find the cache of hidden states; of several tensor-parallel workers the first one copies."""
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
        from vllm.model_executor.models.extract_hidden_states import CacheOnlyAttentionLayer

        (name,) = get_layers_from_vllm_config(self._vllm_config, CacheOnlyAttentionLayer, list(kv_caches))
        kv = kv_caches[name]
        assert kv.shape[2] == self._block_size, (kv.shape, self._block_size)
        if get_tensor_model_parallel_rank() == 0:
            transfer: Any = self._vllm_config.kv_transfer_config
            ring = {key: transfer.get_from_extra_config(key, None) for key in ("path", "slots")}
            self._copier = RowCopier(kv, **ring)

    def wait_for_save(self) -> None:
        """After the step's forward pass: copy the requested rows."""
        wanted = self._get_connector_metadata() if self.has_connector_metadata() else None
        if self._copier is not None and isinstance(wanted, RowsToCopy) and wanted.stamps:
            self._copier.copy(wanted)

    def shutdown(self) -> None:
        """Finish the pending writes and release the ring."""
        if self._copier is not None:
            self._copier.close()
            self._copier = None

    # --- vLLM's required methods: nothing is loaded, and rows are not saved by layer ---

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None: ...
    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...
    def wait_for_layer_load(self, layer_name: str) -> None: ...
    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None: ...


class RowCopier:
    """Copies rows from the cache into the ring: synchronously on CPU; on CUDA through pinned memory, asynchronously.

    Args:
        kv: the cache, [blocks, layers, slots, hidden].
        path, slots: the ring.
    """

    def __init__(self, kv: torch.Tensor, *, path: str, slots: int) -> None:
        self._kv = kv
        row_bytes = kv.shape[1] * kv.shape[3] * kv.element_size()
        self._writer = RowWriter(path, slots=slots, row_bytes=row_bytes)
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="hidden-rows")

    def copy(self, wanted: RowsToCopy) -> None:
        """Copy one step's rows. The gather runs on the compute stream, hence after the pass and before the next."""
        blocks, slots = torch.tensor(wanted.blocks), torch.tensor(wanted.slots)
        if self._kv.device.type != "cuda":
            self._write(wanted.stamps, self._kv[blocks, :, slots])
            return
        blocks, slots = (place.pin_memory().to(self._kv.device, non_blocking=True) for place in (blocks, slots))
        rows = self._kv[blocks, :, slots]
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        writing = self._behind.submit(self._write, wanted.stamps, host, arrived)
        writing.add_done_callback(Future.result)  # an error is logged; the reader misses the row

    def _write(self, stamps: list[int], rows: torch.Tensor, arrived: torch.cuda.Event | None = None) -> None:
        if arrived is not None:
            arrived.synchronize()
        raw = rows.contiguous().view(torch.uint8).numpy().reshape(len(stamps), -1)
        for stamp, row in zip(stamps, raw, strict=True):
            self._writer.write(stamp, row)

    def close(self) -> None:
        """Finish the pending writes, then release the ring."""
        self._behind.shutdown()
        self._writer.close()


def _hidden_state_group(kv_cache_config: Any) -> tuple[int, int]:
    """Index and block size of the cache group that holds hidden states (its own, or the only one)."""
    from vllm.v1.kv_cache_interface import HiddenStateCacheSpec

    groups = kv_cache_config.kv_cache_groups
    own = [i for i, group in enumerate(groups) if isinstance(group.kv_cache_spec, HiddenStateCacheSpec)]
    assert len(own) == 1 or len(groups) == 1, groups
    index = own[0] if own else 0
    return index, groups[index].kv_cache_spec.block_size
