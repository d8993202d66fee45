"""Hidden states keep their bits, and what cannot be kept is refused."""

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from store_passes import data_bytes, fill, layout, new_store, shard

from sekd.errors import SekdError
from sekd.store import Plan, as_float32, bfloat16_bits
from sekd.store.hidden import E4M3, chunk_rows, e4m3_bits, encode, open_chunks, row_scales, write_hidden
from sekd.store.verify import verify


def test_every_bfloat16_survives_bit_for_bit(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    finite = bits[(bits & 0x7F80) != 0x7F80]
    shape = layout(layers=(1, 3, 5), hidden_size=17)
    hidden = np.resize(finite, (-(-len(finite) // 51), 3, 17))
    store = new_store(tmp_path, layers=(1, 3, 5), hidden_size=17)
    assert np.shares_memory(encode(hidden, shape), hidden)
    rows, _ = shard(store, 0)
    for stored in (hidden, as_float32(hidden, "bfloat16")):
        np.testing.assert_array_equal(encode(stored, shape), hidden)
    store.write_shard(0, rows, hidden[: len(rows)], {})
    np.testing.assert_array_equal(store.hidden(0)[:], hidden[: len(rows)])
    as_torch = torch.from_numpy(store.hidden_chunks(0).read(0)).view(torch.bfloat16)
    np.testing.assert_array_equal(as_torch.float().numpy(), as_float32(hidden[: len(rows)], "bfloat16"))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_bfloat16_rounds_as_torch_does(values):
    array = np.array(values, dtype=np.float32)
    expected = torch.from_numpy(array).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(bfloat16_bits(array), expected)


@given(st.lists(st.floats(width=32, min_value=-448, max_value=448), min_size=1))
def test_float8_rounds_as_torch_does(values):
    array = np.array(values, dtype=np.float32)
    expected = torch.from_numpy(array).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(e4m3_bits(array), expected.view(torch.uint8).numpy())


def test_every_float8_means_what_torch_says():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(E4M3, torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy())


@pytest.mark.parametrize(("dtype", "error"), [("float8_e4m3", 0.03), ("int8", 0.01)])
def test_eight_bits_are_torchs_cast_of_each_row_over_its_own_scale(tmp_path, dtype, error):
    rng = np.random.default_rng(0)
    store = new_store(tmp_path, hidden_dtype=dtype, hidden_size=512)
    rows, hidden = shard(store, 0)
    hidden *= 10.0 ** rng.integers(-6, 7, (*hidden.shape[:2], 1))  # rows of any size, and one of nothing
    hidden[1, 0] = 0
    store.write_shard(0, rows, hidden, {})
    read = store.hidden(0)
    scale = torch.from_numpy(row_scales(hidden, dtype))[..., None]
    codes = torch.from_numpy(hidden) / scale
    cast = codes.to(torch.float8_e4m3fn).float() if dtype == "float8_e4m3" else torch.round(codes)
    np.testing.assert_array_equal(read, (cast * scale).numpy())
    assert np.isfinite(read).all()
    assert np.abs(hidden).max(2)[0, 0] == pytest.approx(np.abs(read).max(2)[0, 0], rel=1e-3)
    norms = np.linalg.norm(read - hidden, axis=2) / np.maximum(np.linalg.norm(hidden, axis=2), 1e-30)
    assert error / 5 < np.median(norms) < norms.max() < error
    assert {fault.what for fault in verify(store)} == {"the shard is missing, not written yet"}


@pytest.mark.parametrize("dtype", ["float8_e4m3", "int8"])
def test_what_was_read_of_eight_bits_is_written_as_the_same_bytes(tmp_path, dtype):
    store = fill(new_store(tmp_path / "one", hidden_dtype=dtype))
    copy = new_store(tmp_path / "two", hidden_dtype=dtype)
    for index in copy.missing():
        copy.write_shard(index, store.read_targets(index), store.hidden(index), {})
    assert data_bytes(copy) == data_bytes(store)
    assert verify(copy) == []


@pytest.mark.parametrize("file", ["hidden.zarr/c/0/0/0", "scale.zarr/c/0/0"])
def test_a_changed_byte_of_eight_bits_or_of_their_scales_is_found(tmp_path, file):
    store = fill(new_store(tmp_path, hidden_dtype="int8"))
    path = store.path / "shards/00001" / file
    raw = bytearray(path.read_bytes())
    raw[3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SekdError, match=file):
        store.hidden(1)
    assert [(fault.shard, fault.file) for fault in verify(store)] == [(1, f"shards/00001/{file}")]


def test_a_value_beyond_float16_is_refused_with_its_place():
    hidden = np.zeros((3, 2, 16), np.float32)
    hidden[1, 1, 7] = -70000
    with pytest.raises(SekdError, match=r"-70000 at row 1, layer 4, dimension 7 is beyond float16's 65504: set"):
        encode(hidden, layout(hidden_dtype="float16"))
    hidden[1, 1, 7] = -65504
    assert encode(hidden, layout(hidden_dtype="float16"))[1, 1, 7] == -65504


def test_a_value_beyond_bfloat16_is_refused():
    hidden = np.full((1, 2, 16), np.finfo(np.float32).max, np.float32)
    with pytest.raises(
        SekdError, match=r"at row 0, layer 2, dimension 0 is beyond bfloat16's 3\.39e\+38: set hidden_dtype=float32"
    ):
        encode(hidden, layout())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3", "int8"])
def test_what_is_not_finite_is_refused(bad, dtype):
    hidden = np.zeros((3, 2, 16), np.float32)
    hidden[2, 0, 5] = bad
    with pytest.raises(SekdError, match="not finite: row 2, layer 2, dimension 5"):
        encode(hidden, layout(hidden_dtype=dtype))


@pytest.mark.parametrize(
    ("dtype", "given"),
    [("float32", np.float16), ("float32", np.float64), ("float16", np.uint16), ("bfloat16", np.float16)],
)
def test_another_type_is_refused(dtype, given):
    with pytest.raises(SekdError, match="hidden states of"):
        encode(np.zeros((1, 2, 16), given), layout(hidden_dtype=dtype))


def test_another_shape_is_refused():
    with pytest.raises(SekdError, match=r"\[rows, 2, 16\], not \[1, 3, 16\]"):
        encode(np.zeros((1, 3, 16), np.float32), layout())


def test_chunks_waste_less_than_one_percent_but_in_small_shards():
    rows = np.arange(65, 20000)
    chunks = np.array([chunk_rows(n) for n in rows])
    waste = (-rows % chunks) / rows
    assert chunks.min() > 32
    assert chunks.max() == 64
    assert waste[rows > 435].max() <= 0.01
    assert waste.max() < 0.016  # a shard of few rows, one of which is wasted


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_row_takes_its_own_bytes_and_one_percent(tmp_path, dtype):
    shape = layout(hidden_size=512, hidden_dtype=dtype)
    hidden = encode(np.random.default_rng(0).standard_normal((1003, 2, 512)).astype(np.float32), shape)
    write_hidden(tmp_path / "hidden.zarr", hidden, shape, {})
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert hidden.nbytes == 1003 * 2 * 512 * (4 if dtype == "float32" else 2)
    assert hidden.nbytes <= stored <= 1.01 * hidden.nbytes


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 131, 300])
def test_chunks_and_zarr_agree_at_every_length(tmp_path, rows):
    from sekd.store.manifest import file_digest, files_below

    shape = layout()
    hidden = np.random.default_rng(rows).integers(0, 0x7F80, (rows, 2, 16)).astype(np.uint16)
    folder = tmp_path / "hidden.zarr"
    write_hidden(folder, hidden, shape, {})
    chunks = open_chunks(folder, files={name: file_digest(folder / name) for name in files_below(folder)})
    pieces = [chunks.read(i) for i in range(len(chunks))]
    np.testing.assert_array_equal(np.concatenate(pieces), hidden)
    assert [len(chunks.rows(i)) for i in range(len(chunks))] == [len(piece) for piece in pieces]
    assert all(piece.flags.writeable for piece in pieces)


def test_the_files_say_what_they_hold(tmp_path):
    store = fill(new_store(tmp_path, plan=Plan(n_examples=3, shard_size=3)))
    attributes = dict(zarr.open_array(store.path / "shards/00000/hidden.zarr", mode="r").attrs)
    assert attributes == {
        "format": "1",
        "fingerprint": store.fingerprint,
        "shard": "0",
        "dtype": "bfloat16",
        "layers": [2, 4],
    }
