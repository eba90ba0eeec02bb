import math
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sharpmask.torch7.format import Torch7Error, TorchObject, read_torch7
from tolerances import SINGLE
from torch7_writer import (
    CLASS_PREFIXES,
    LuaFunction,
    LuaObject,
    LuaStorage,
    LuaTensor,
    class_header,
    ints,
    mutated,
    torch7_bytes,
    write_torch7,
)

REAL_FOLDER = Path(__file__).parents[2].parent / "shared" / "torch7"
REAL_MODELS = sorted(REAL_FOLDER.rglob("*.t7"))
SIX, DOUBLES = LuaStorage(np.zeros(6, np.float32)), LuaStorage(np.zeros(6))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.t7"


def round_trip(path, value, *, cuda=False):
    return read_torch7(write_torch7(path, value, cuda=cuda))


@pytest.mark.parametrize("value", [None, True, False, 1.5, 7.0, -0.0, math.inf, "", "h\u00e9"])
def test_plain_values(path, value):
    # As text, which tells 7.0 from 7 and -0.0 from 0.0.
    assert repr(round_trip(path, value)) == repr(value)


def test_strings_that_are_not_utf8_lose_nothing(path):
    assert round_trip(path, b"\xff\x00a").encode("utf-8", "surrogateescape") == b"\xff\x00a"


def test_the_format_as_bytes(path):
    # Spelled out, lest the reader and the tests' writer agree on an error: a table, its id, one
    # entry; a string of one byte; a number.
    table, key = "03000000 01000000 01000000", "02000000 01000000 78"
    value = "01000000 000000000000f03f"
    path.write_bytes(bytes.fromhex(table + key + value))
    assert read_torch7(path) == {"x": 1.0}


def test_a_table_keeps_its_keys_and_whole_ones_are_int(path):
    table = {0: "zero", 1: "one", 7: "gap", -2: "minus", 0.5: "half", "1": "text", "none": None}
    result = round_trip(path, table)
    assert result == table
    assert [type(key) for key in result] == [int, int, int, int, float, str, str]
    assert round_trip(path, {True: "yes", False: "no"}) == {True: "yes", False: "no"}


@pytest.mark.parametrize("dtype", CLASS_PREFIXES)
@pytest.mark.parametrize("cuda", [False, True])
def test_tensors_and_storages_of_every_class(path, dtype, cuda):
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    tensor, storage = round_trip(path, {1: array, 2: LuaStorage(array.base)}, cuda=cuda).values()
    assert tensor.dtype == storage.dtype == dtype
    np.testing.assert_array_equal(tensor, array)
    np.testing.assert_array_equal(storage, np.arange(6))
    assert tensor.base is storage
    assert storage.flags.aligned
    assert storage.flags.writeable


def test_an_empty_tensor_and_an_empty_storage(path):
    empty = np.empty(0, np.float32)
    tensor, storage = round_trip(path, {1: empty, 2: LuaStorage(empty)}).values()
    assert tensor.shape == storage.shape == (0,)
    assert tensor.dtype == storage.dtype == np.float32


def test_views_share_one_storage(path):
    flat = np.arange(100, dtype=np.float32)
    views = {
        "weight": flat[10:40].reshape(5, 6),
        "bias": flat[40:45],
        "transposed": flat[10:40].reshape(5, 6).T,
        "every third": flat[1::3],
        "expanded": np.broadcast_to(flat[7:8], (4, 5)),
    }
    result = round_trip(path, views)
    for name, view in views.items():
        np.testing.assert_array_equal(result[name], view)
        assert result[name].base is result["weight"].base
    result["weight"][0, 0] = -1
    assert result["transposed"][0, 0] == -1


def test_strides_of_zero_are_not_copied_and_unused_ones_may_be_any_number(path):
    path.write_bytes(float_tensor([2**20, 1, 2**20], [0, 2**62, 0]))
    assert peak_bytes(lambda: read_torch7(path)) < 100_000
    assert read_torch7(path).shape == (2**20, 1, 2**20)


@pytest.mark.parametrize("version", ["V 1", "V 2", None])
def test_objects_of_any_class(path, version):
    result = round_trip(path, LuaObject("nn.Linear", {"weight": np.ones((2, 2))}, version))
    np.testing.assert_array_equal(result.fields["weight"], np.ones((2, 2)))
    assert repr(result) == "TorchObject(class_name='nn.Linear')"  # never a whole model


def test_tensors_older_than_class_versions(path):
    data = torch7_bytes(np.arange(3.0))
    path.write_bytes(data.replace(struct.pack("<i", 3) + b"V 1", b""))
    np.testing.assert_array_equal(read_torch7(path), [0, 1, 2])


def test_what_is_one_object_in_the_file_is_one_object_here(path):
    shared = [{"a": 1.0}, LuaObject("nn.ReLU"), np.ones(3), LuaFunction()]
    result = round_trip(path, dict(enumerate(shared + shared)))
    assert all(result[i] is result[i + 4] for i in range(4))
    tables = round_trip(path, {1: {}, 2: {}})
    assert tables[1] is not tables[2]
    objects = round_trip(path, {1: LuaObject("nn.ReLU"), 2: LuaObject("nn.ReLU")})
    assert objects[1] != objects[2]


def test_tables_and_objects_may_contain_themselves(path):
    table = {}
    parent, child = LuaObject("nn.A", {"table": table}), LuaObject("nn.B")
    table.update(itself=table, parent=parent)
    parent.fields["child"], child.fields["parent"] = child, parent
    result = round_trip(path, table)
    assert result["itself"] is result
    assert result["parent"].fields["table"] is result
    assert result["parent"].fields["child"].fields["parent"] is result["parent"]


@pytest.mark.parametrize("kind", [6, 7, 8])
def test_functions_are_stepped_over(path, kind):
    shared = {"n": 1.0}
    function = LuaFunction(kind, b"\x1bLJ not to be run", {1: {"name": "up", "value": shared}})
    result = round_trip(path, {"f": function, "shared": shared, "last": "end"})
    assert (result["f"].class_name, result["f"].fields) == ("function", {})
    assert result["shared"] == {"n": 1.0}
    assert result["last"] == "end"


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_refused(path, data, offset, cause):
    path.write_bytes(data)

    def read():
        with pytest.raises(Torch7Error) as caught:
            read_torch7(path)
        assert str(caught.value).startswith(f"{path}: byte {offset}: ")
        assert cause in str(caught.value)

    assert issubclass(Torch7Error, ValueError)
    assert peak_bytes(read) < 150_000 + 3 * len(data)


def float_tensor(sizes, strides, offset=1, storage=SIX):
    return torch7_bytes(LuaTensor("torch.FloatTensor", sizes, strides, offset, storage))


def in_table(key):
    """A table of one entry, whose key lies at byte 12."""
    return ints(3, 99, 1) + torch7_bytes(key) + ints(5, 0)


FLOATS, LONGS = class_header("torch.FloatTensor"), class_header("torch.LongStorage")
TENSOR, STORAGE = len(FLOATS), len(LONGS)  # 36 and 36: where the content begins
EXPANDED = LuaTensor("torch.FloatTensor", [99], [0], 1, LuaStorage(np.zeros(1, np.float32)))
ONE_FLOAT = FLOATS + struct.pack("<iqqq", 1, 1, 1, 1)  # then comes its storage
TRUE_AND_ONE = ints(3, 1, 2) + ints(5, 1, 0) + ints(1) + struct.pack("<d", 1) + ints(0)

WRONG = {
    "empty": (b"", 0, "integer of 4 bytes, 0 bytes remain"),
    "text": (b"4\n1\n3\nV 1\n", 0, "is this a binary Torch7 file"),
    "type 9": (ints(9), 0, "got 9"),
    "boolean 2": (ints(5, 2), 4, "expected a boolean, 0 or 1, got 2"),
    "string -1": (ints(2, -1), 8, "string of -1 bytes"),
    "string huge": (ints(2, 2**31 - 1), 8, "string of 2147483647 bytes, 0 bytes remain"),
    "table -1": (ints(3, 1, -1), 8, "table of -1 entries"),
    "table huge": (ints(3, 1, 2**31 - 1), 8, "table of 2147483647 entries, 0 bytes remain"),
    "table of one too many": (ints(3, 1, 2, 5, 1, 0, 5), 8, "table of 2 entries, 16 bytes remain"),
    "function huge": (ints(8, 1, 2**31 - 1), 12, "function of 2147483647 bytes"),
    "storage -1": (LONGS + struct.pack("<q", -1), STORAGE + 8, "storage of -8 bytes"),
    "storage huge": (LONGS + struct.pack("<q", 2**62), STORAGE + 8, "0 bytes remain"),
    "dimensions -1": (FLOATS + ints(-1), TENSOR, "got -1"),
    "dimensions 33": (FLOATS + ints(33), TENSOR, "got 33"),
    "sizes missing": (FLOATS + ints(32), TENSOR + 4, "long integers of 256"),
    "view beyond memory": (float_tensor([2**31] * 2, [0, 0]), TENSOR, "larger than any memory"),
    "no storage": (ONE_FLOAT + ints(0), TENSOR, "expected a storage"),
    "its own storage": (ONE_FLOAT + ints(4, 1), TENSOR, "expected a storage"),
    "a tensor as storage": (float_tensor([99], [1], 1, EXPANDED), TENSOR, "expected a storage"),
    "doubles as storage": (float_tensor([1], [1], 1, DOUBLES), TENSOR, "float32, got float64"),
    "table as key": (in_table({}), 12, "table key, got dict"),
    "tensor as key": (in_table(np.ones(2)), 12, "table key, got ndarray"),
    "nil as key": (in_table(None), 12, "table key, got NoneType"),
    "NaN as key": (in_table(math.nan), 12, "a table key is NaN"),
    "true and 1": (TRUE_AND_ONE, 24, "table key 1 appears twice"),
    "fields not a table": (class_header("nn.A") + ints(5, 1), 23, "fields of 'nn.A' as a table"),
    "bytes after the end": (torch7_bytes({"a": 1}) + b"\0", 33, "end of the file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_with_the_place_and_the_cause(path, name):
    check_refused(path, *WRONG[name])


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [
        ([7], [1], 1),
        ([2, 3], [3, 1], 2),
        ([2], [1], 0),
        ([2], [1], -1),
        ([2, 2], [-1, 2], 2),
        ([0, 2], [1, 1], 1),
        ([-1, 3], [1, 1], 1),
        ([2, 2], [2**62, 1], 1),  # 2^62 elements are 0 bytes in 64 bits
        ([2**32 + 1], [2**32], 1),  # and so is the place of the last element here
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(path, sizes, strides, offset):
    cause = f"sizes {sizes}, strides {strides}, offset {offset} in a storage of 6 elements"
    check_refused(path, float_tensor(sizes, strides, offset), TENSOR, cause)


def test_nesting_has_a_limit(path):
    def nested(depth):
        return b"".join(ints(3, i, 1, 5, 1) for i in range(depth - 1)) + ints(0)

    path.write_bytes(nested(128))
    read_torch7(path)
    # The key in the 128th table is the first value of the 129th level.
    for depth in (129, 100_000):
        check_refused(path, nested(depth), 2552, "nested deeper than 128 levels")


def test_an_error_does_not_print_a_table_that_is_longer_than_the_file(path):
    key = {}
    for _ in range(18):
        key = {1: key, 2: key}  # its text would be that of 2^18 tables
    check_refused(path, in_table(key), 12, "table key, got dict")


def everything():
    """A value with one of each: small, so that a mutation hits something that matters."""
    flat = np.arange(20, dtype=np.float32)
    table = {"name": "text", 1: True, 2: None, 2.5: -1.0}
    table["itself"] = table
    linear = LuaObject("nn.Linear", {"weight": flat[2:14].reshape(3, 4), "bias": flat[14:17]})
    old = LuaObject("nn.Old", {"t": flat[:16:2].reshape(2, 4).T}, version=None)
    function = LuaFunction(8, b"code", {1: {"name": "up", "value": linear}})
    sizes = LuaStorage(np.array([2, 3]))
    return {"m": linear, "t": table, "f": function, "o": old, "s": sizes, "same": linear}


def arrays_in(value, seen):
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | TorchObject):
        for content in (value if isinstance(value, dict) else value.fields).values():
            yield from arrays_in(content, seen)


def test_mutated_files_are_read_or_refused(path, monkeypatch):
    # Not through the disk: a busy one needs minutes for so many small files.
    monkeypatch.setattr(Path, "read_bytes", lambda _: data)
    whole = torch7_bytes(everything())
    rng = random.Random(5)
    refusals, arrays = [], 0
    for _ in range(10_000):
        data = mutated(whole, rng)
        try:
            value = read_torch7(path)
        except Torch7Error as error:
            refusals.append(str(error))
            continue
        for array in arrays_in(value, set()):
            arrays += 1
            owner = array if array.base is None else array.base
            begin = array.ctypes.data - owner.ctypes.data
            steps = zip(array.shape, array.strides, strict=True)
            end = begin + sum((size - 1) * step for size, step in steps) + array.itemsize
            assert array.size == 0 or 0 <= begin < end <= owner.nbytes
    assert all(refusal.startswith(f"{path}: byte ") for refusal in refusals)
    assert min(len(refusals), arrays) > 1_000


def test_every_truncation_is_refused(path, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda _: data)
    whole = torch7_bytes(everything())
    for size in range(len(whole)):
        data = whole[:size]
        with pytest.raises(Torch7Error, match=r"bytes remain"):
            read_torch7(path)


def module(parent, *indices):
    """The module at Lua's 1-based indices."""
    for index in indices:
        parent = parent.fields["modules"][index]
    return parent


@pytest.mark.skipif(not REAL_MODELS, reason=f"no Torch7 models in {REAL_FOLDER}")
def test_models_written_by_torch7():
    golden = np.load(REAL_FOLDER / "tiny" / "golden_patch.npz")
    for real_path in REAL_MODELS:
        model = read_torch7(real_path)["model"]
        trunk, score = model.fields["trunk"], model.fields["scoreBranch"]
        assert list(trunk.fields["modules"]) == list(range(1, 13))
        weight = module(trunk, 12).fields["weight"]
        assert weight.shape == (16, 800)
        assert module(trunk, 1, 2).fields["weight"].base is weight.base

        # Weights that give FAIR's own scores were read from the right places.
        first, last = module(score, 2).fields, module(score, 5).fields
        hidden = golden["trunk"] @ first["weight"].T + first["bias"]
        hidden = np.where(hidden > 0, hidden, 1e-6)
        result = hidden @ last["weight"].T + last["bias"]
        np.testing.assert_allclose(result, golden["score"], **SINGLE)

        assert model.class_name in ("nn.DeepMask", "nn.SharpMask")
        if model.class_name == "nn.SharpMask":
            refs, neths, netvs = (model.fields[key] for key in ("refs", "neths", "netvs"))
            assert sorted(refs) == sorted(netvs) == [0, 1, 2, 3, 4]
            assert refs[0] is netvs[0]
            for i in range(1, 5):
                assert module(refs[i], 1, 1) is neths[i]
                assert module(refs[i], 1, 2) is netvs[i]
