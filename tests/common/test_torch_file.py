"""Torch files of others: what they unpack to is counted, and nothing in them runs."""

import io
import pickle
import zipfile
from pathlib import Path

import torch

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.torch_file import read_pickle
from tests.helpers.errors import raises_input_error


def repacked(source: Path, target: Path, **changes: bytes) -> Path:
    """The same archive, deflated, with other entries by the end of their names."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            ending = entry.filename.rpartition("/")[2]
            packed.writestr(entry.filename, changes.get(ending.replace(".", "_"), archive.read(entry)))
    return target


def test_what_an_archive_unpacks_to_is_counted_before_it_is_read(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1 << 22)}, tmp_path / "plain.ckpt")  # 16 MiB of zeros deflate to 16 KiB
    packed = repacked(tmp_path / "plain.ckpt", tmp_path / "packed.ckpt")
    assert packed.stat().st_size < 1 << 18
    with raises_input_error(ErrorCode.out_of_range, str(packed)):
        read_pickle(packed)
    assert read_pickle(tmp_path / "plain.ckpt")["x"].shape == (1 << 22,)


def test_values_that_repeat_a_small_storage_are_counted(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "repeated.pt")
    with raises_input_error(ErrorCode.out_of_range, str(tmp_path / "repeated.pt"), 1 << 42):
        read_pickle(tmp_path / "repeated.pt")


def test_only_dense_tensors_are_read(tmp_path: Path) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (1 << 40,))
    for number, tensor in enumerate([sparse, torch.empty(1 << 40, device="meta")]):
        path = tmp_path / f"{number}.pt"
        torch.save({"x": tensor}, path)
        with raises_input_error(ErrorCode.malformed_file, str(path)):
            read_pickle(path)


def test_shared_containers_and_tensors_are_visited_once(tmp_path: Path) -> None:
    nested: object = [torch.ones(2)]
    for _ in range(40):  # 2 to the power of 40 entries if each were visited
        nested = [nested, nested]
    torch.save(nested, tmp_path / "nested.pt")
    assert isinstance(read_pickle(tmp_path / "nested.pt"), list)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def damaged_files(folder: Path) -> dict[str, bytes]:
    plain = io.BytesIO()
    torch.save({"x": torch.ones(300)}, plain)
    old = io.BytesIO()
    torch.save({"x": torch.ones(300)}, old, _use_new_zipfile_serialization=False)
    bad_length = zipfile.Path(io.BytesIO(plain.getvalue()))
    (root,) = bad_length.iterdir()
    data = (root / "data.pkl").read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", data[: data.index(b"X") + 3])  # ends within a length
        file.writestr("x/version", b"3\n")
    return {
        "broken length": archive.getvalue(),
        "text": b"weights",
        "nothing": b"",
        "cut archive": plain.getvalue()[:-200],
        "cut old file": old.getvalue()[:-200],
        "half an opcode": b"\x80\x02X\xff",
        "long of any size": b"\x80\x02\x8b\xff\xff\xff\x7f",
        "code": pickle.dumps(Touch(folder / "touched")),
        "tar": b"\0" * 257 + b"ustar\x0000" + b"\0" * 500,
        "archive without pickle": repack_empty(),
    }


def repack_empty() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/version", b"3\n")
    return archive.getvalue()


def test_damaged_files_end_in_one_line_and_run_nothing(tmp_path: Path) -> None:
    for case, content in damaged_files(tmp_path).items():
        path = tmp_path / "file.ckpt"
        path.write_bytes(content)
        with raises_input_error(ErrorCode.malformed_file, str(path)) as error:
            read_pickle(path)
        assert "\n" not in str(error.value), case
    assert not (tmp_path / "touched").exists()
