"""The plan of a large run and its parts, without any cluster."""

import json
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from sharpmask.integrations.arrow import Propose, schema
from sharpmask.integrations.parts import PLAN, Run, failures, write_part


@dataclass(frozen=True, kw_only=True)
class Counted(Propose):
    """In place of a model: photos whose name is odd fail, unless all is well."""

    asked: list[str] = field(default_factory=list, compare=False)
    well: bool = False
    fingerprint = "0123"

    def __call__(self, table):
        rows = []
        for row in table.to_pylist():
            self.asked.append(row["path"])
            bad = not self.well and int(row["path"].rpartition("/")[2].split(".")[0]) % 2
            proposal = {"score": 0.5, "bbox": [0, 0, 1, 1], "area": 1, "rle": "011"}
            error = f"{row['path']}: is odd" if bad else None
            found = {"proposals": [] if bad else [proposal], "error": error, "seconds": 0.1}
            rows.append(row | found | {"width": 2, "height": 1, "model": self.fingerprint})
        return pa.Table.from_pylist(rows, schema())


def listed(*numbers):
    return pa.table({"path": [f"/p/{number}.jpg" for number in numbers]})


@pytest.fixture(params=["", "memory://top/"])
def folder(request, tmp_path):
    return f"{request.param}{tmp_path}/out"


def rows(folder, run):
    return [row for part in run.parts() for row in write_part(folder, part, Counted()).to_pylist()]


def test_each_photo_is_in_one_part_and_parts_have_fixed_names(folder):
    run = Run(folder, Counted(), 4)
    assert run.add(listed(*range(10))) == run.photos == 10
    parts = list(run.parts())
    assert run.part_count == len(parts) == 3
    assert [len(part.photos) for part in parts] == [4, 4, 2]
    again = list(Run(folder, Counted(), 4).parts())
    assert [(p.name, p.photos) for p in again] == [(p.name, p.photos) for p in parts]
    assert [row for part in parts for row in part.photos["id"].to_pylist()] == list(range(10))


def test_parts_that_are_written_are_not_left(folder):
    run = Run(folder, Counted(), 4)
    run.add(listed(*range(0, 20, 2)))
    first, second, third = run.left()
    write_part(folder, second, Counted())
    assert [part.name for part in Run(folder, Counted(), 4).left()] == [first.name, third.name]


def test_photos_that_came_later_are_added_and_the_others_keep_their_parts(folder):
    run = Run(folder, Counted(), 4)
    run.add(listed(3, 5))
    before = [(part.name, part.photos) for part in run.parts()]
    run = Run(folder, Counted(), 4)
    assert run.add(listed(1, 3, 5, 7)) == 2
    assert run.add(listed(1, 3)) == 0
    after = [(part.name, part.photos) for part in Run(folder, Counted(), 4).parts()]
    assert after[:1] == before
    assert after[1][1].to_pydict() == {"id": [1, 7], "path": ["/p/1.jpg", "/p/7.jpg"]}


@pytest.mark.parametrize(
    ("first", "then", "ids"),
    [
        ([3, 9], ["new"], [10]),  # numbers first, a name then: from the highest
        (["a", "b"], ["c", "1"], [3, 4]),  # names: positions go on
        ([3, 9], [10], [10]),
    ],
)
def test_ids_of_photos_that_came_later_are_new(folder, first, then, ids):
    run = Run(folder, Counted(), 4)
    run.add(listed(*first))
    run.add(listed(*then))
    assert list(run.parts())[1].photos["id"].to_pylist() == ids


def test_id_of_two_photos_is_refused(folder):
    run = Run(folder, Counted(), 4)
    run.add(listed(1).append_column("id", [[5]]))
    with pytest.raises(ValueError, match="id 5 would be that of two photos"):
        run.add(listed(2).append_column("id", [[5]]))


def test_part_holds_its_photos_in_order_with_its_failures(folder):
    run = Run(folder, Counted(), 4)
    run.add(listed(*range(6)))
    found = rows(folder, run)
    assert [row["path"] for row in found] == listed(*range(6))["path"].to_pylist()
    odd = [f"/p/{number}.jpg: is odd" for number in (1, 3, 5)]
    assert [error for _, error in failures(folder)] == odd
    assert run.left() == []
    assert len(run.left(retry=True)) == 2


def test_retry_asks_for_the_failed_photos_alone_and_keeps_the_order(folder):
    run = Run(folder, Counted(), 4)
    run.add(listed(*range(6)))
    before = rows(folder, run)
    better = Counted(well=True)
    after = [
        row for part in run.left(retry=True) for row in write_part(folder, part, better).to_pylist()
    ]
    assert better.asked == ["/p/1.jpg", "/p/3.jpg", "/p/5.jpg"]
    assert [row["id"] for row in after] == list(range(6))
    assert after[::2] == before[::2]
    assert list(failures(folder)) == []
    assert run.left(retry=True) == []


def test_part_that_another_process_wrote_is_not_computed_again(folder):
    run = Run(folder, Counted(), 4)
    run.add(listed(0, 2))
    (part,) = run.parts()
    written = write_part(folder, part, Counted())
    again = Counted()
    assert write_part(folder, part, again).equals(written)
    assert again.asked == []


@pytest.mark.parametrize(
    ("change", "size", "said"),
    [
        ({"num_proposals": 5}, 4, "num_proposals 100, not 5"),
        ({"scales": (0.0, -1.0)}, 4, r"scales default, not \[0.0, -1.0\]"),
        ({}, 5, "part_size 4, not 5"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(folder, change, size, said):
    Run(folder, Counted(), 4)
    with pytest.raises(ValueError, match=f"out: was begun with {said}; give another --output"):
        Run(folder, replace(Counted(), **change), size)


def test_another_model_or_version_is_refused_but_not_another_place_of_it(tmp_path):
    folder = str(tmp_path)
    Run(folder, Counted(weights="here"), 4)
    Run(folder, Counted(weights="there", cores=7), 4)
    file = tmp_path / PLAN / "run.json"
    settings = json.loads(file.read_text())
    for name in ("model", "version"):
        file.write_text(json.dumps(settings | {name: "other"}))
        with pytest.raises(ValueError, match=f"was begun with {name} other, not {settings[name]}"):
            Run(folder, Counted(), 4)


def test_folder_with_other_parquet_files_is_refused_and_left_alone(tmp_path):
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "proposals.parquet")
    with pytest.raises(ValueError, match="holds Parquet files of something else"):
        Run(str(tmp_path), Counted(), 4)
    assert [path.name for path in tmp_path.iterdir()] == ["proposals.parquet"]


def test_failures_of_what_is_no_run_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="absent: sharpmask batch has written nothing there"):
        list(failures(str(tmp_path / "absent")))
    Run(str(tmp_path), Counted(), 4)
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: is not a part of a run"):
        list(failures(str(tmp_path)))
    (tmp_path / "x.parquet").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"x\.parquet: is not a part of a run"):
        list(failures(str(tmp_path)))


def test_readers_of_a_folder_see_the_parts_alone(tmp_path):
    run = Run(str(tmp_path), Counted(), 4)
    run.add(listed(*range(6)))
    rows(str(tmp_path), run)
    whole = parquet.read_table(tmp_path)
    assert whole.schema.equals(schema())
    assert whole["id"].to_pylist() == list(range(6))
