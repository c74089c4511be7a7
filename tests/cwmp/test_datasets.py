import hashlib
import io
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.cifar_files import python_2_pickle, write_batches, write_class_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration_data import InvalidFileError, UsageError
from cwmp.training.cifar10 import CLASSES, open_cifar10
from cwmp.training.datasets import Dataset, even_choice, load_dataset


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_split_is_80_20_and_keeps_the_share_of_every_class(name: str) -> None:
    data = load_dataset(name, seed=3)
    total = len(data.train_y) + len(data.test_y)
    assert abs(len(data.test_y) / total - 0.2) < 0.005
    for label in range(data.classes):
        train = (data.train_y == label).sum().item()
        test = (data.test_y == label).sum().item()
        assert abs(test / (train + test) - 0.2) < 0.01


def test_digits_are_the_images_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits", seed=0)
    ours = np.concatenate([data.train_x.numpy(), data.test_x.numpy()]) * 16
    theirs = load_digits().data
    assert sorted(map(tuple, ours.astype(int).tolist())) == sorted(map(tuple, theirs.astype(int).tolist()))
    assert data.sample_shape == (64,)
    assert data.classes == 10


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = (load_dataset("digits", seed) for seed in (5, 5, 6))
    assert torch.equal(first.train_x, again.train_x)
    assert not torch.equal(first.train_x, other.train_x)


@pytest.mark.parametrize("part", ["train_x", "train_y", "test_x", "test_y"])
def test_the_digest_of_samples_sees_their_last_bit(part: str) -> None:
    """Over the shapes, formats and bytes of the four tensors, one after the other."""
    data = load_dataset("synthetic", seed=5)
    expected = hashlib.sha256()
    for tensor in (data.train_x, data.train_y, data.test_x, data.test_y):
        expected.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    assert data.sha256 == load_dataset("synthetic", seed=5).sha256 == expected.hexdigest()
    other = getattr(data, part).clone()
    other.view(torch.uint8)[-1] ^= 1
    assert replace(data, **{part: other}).sha256 != data.sha256


def test_unknown_data_set_is_named() -> None:
    with pytest.raises(UsageError, match=r"no data set 'mnist'.*digits, cifar10, synthetic"):
        load_dataset("mnist", seed=0)


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), count=st.integers(1, 80))
def test_a_choice_is_as_even_as_the_classes_allow(sizes: list[int], count: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chosen = even_choice(labels, count, np.random.default_rng(0))
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    assert len(np.unique(chosen)) == len(chosen) == min(count, len(labels))
    # A class that was not exhausted has at most one sample fewer than any other.
    for label, size in enumerate(sizes):
        assert taken[label] == size or taken[label] >= taken.max() - 1


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    labels = np.random.default_rng(1).integers(0, 10, 500)
    small, large = (even_choice(labels, count, np.random.default_rng(2)) for count in (40, 90))
    assert set(small) < set(large)


def test_fewer_samples_are_the_same_at_one_seed_and_leave_the_other_part_alone() -> None:
    whole = load_dataset("digits", seed=1)
    first, again = (load_dataset("digits", seed=1, train_samples=100, test_samples=50) for _ in range(2))
    assert torch.equal(first.train_x, again.train_x)
    assert torch.bincount(first.train_y).tolist() == [10] * 10
    assert torch.bincount(first.test_y).tolist() == [5] * 10
    assert torch.equal(load_dataset("digits", seed=1, train_samples=100).test_x, whole.test_x)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_official_batches_are_read_in_their_order(tmp_path: Path, inside: str) -> None:
    written = write_batches(tmp_path / inside, 20, np.random.default_rng(0))
    data = load_dataset("cifar10", seed=0, data_dir=tmp_path)
    expected = np.concatenate([pixels for name, pixels in written.items() if name != "test_batch"])
    assert data.train_y.tolist() == [index % 10 for index in range(20)] * 5
    assert data.sample_shape == (3, 32, 32)
    check_standardised(data, expected, written["test_batch"])


def check_standardised(data: Dataset, train: np.ndarray, test: np.ndarray) -> None:
    """Every channel of the training pixels gets zero mean and unit variance; the test is scaled like it."""
    train, test = (pixels.reshape(-1, 3, 32, 32).astype(float) for pixels in (train, test))
    mean, deviation = (part(train, axis=(0, 2, 3), keepdims=True) for part in (np.mean, np.std))
    np.testing.assert_allclose(data.train_x.numpy(), (train - mean) / deviation, atol=1e-6)
    np.testing.assert_allclose(data.test_x.numpy(), (test - mean) / deviation, atol=1e-6)


@pytest.mark.parametrize("protocol", [3, 4])
def test_batches_that_python_3_wrote_are_read_too(tmp_path: Path, protocol: int) -> None:
    written = write_batches(tmp_path, 10, np.random.default_rng(0))
    batch = {b"labels": list(range(10)), b"data": written["test_batch"]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    _, test = open_cifar10(tmp_path)
    assert np.array_equal(test.read(np.arange(10)).reshape(10, -1), written["test_batch"])


def test_class_folders_are_read_by_class_and_name(tmp_path: Path) -> None:
    write_class_folders(tmp_path, 3, np.random.default_rng(0))
    Image.new("RGB", (32, 32), (255, 0, 128)).save(tmp_path / "train" / "cat" / "9.jpeg", quality=100)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".thumbnails").mkdir()
    train, test = open_cifar10(tmp_path)
    assert np.bincount(train.labels).tolist() == [3, 3, 3, 4, 3, 3, 3, 3, 3, 3]
    assert test.labels.tolist() == [label for label in range(10) for _ in range(3)]
    last_cat = train.read(np.flatnonzero(train.labels == CLASSES.index("cat"))[-1:])[0]
    assert np.abs(last_cat.astype(int) - np.array([255, 0, 128])[:, None, None]).max() <= 3
    with Image.open(tmp_path / "test" / "dog" / "1.png") as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(test.read(np.array([5 * 3 + 1]))[0], expected)


def test_only_the_chosen_images_are_decoded(tmp_path: Path) -> None:
    write_class_folders(tmp_path, 2, np.random.default_rng(0))
    data = load_dataset("cifar10", seed=0, data_dir=tmp_path, train_samples=10, test_samples=10)
    assert data.train_y.tolist() == data.test_y.tolist() == list(range(10))
    train, _ = open_cifar10(tmp_path)
    (tmp_path / "train" / "dog" / "0.png").write_bytes(b"broken")
    assert train.read(np.array([0, 19])).shape == (2, 3, 32, 32)
    with pytest.raises(InvalidFileError, match=r"dog/0\.png: is no whole image"):
        train.read(np.array([10]))


def test_a_data_set_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cifar10 needs a folder.*data_dir"):
        load_dataset("cifar10", seed=0)
    missing = tmp_path / "nowhere"
    with pytest.raises(
        UsageError, match=f"no CIFAR-10 in {re.escape(str(missing))}: looked for data_batch_1"
    ):
        load_dataset("cifar10", seed=0, data_dir=missing)
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(UsageError, match=r"not unpacked.*tar -xzf"):
        load_dataset("cifar10", seed=0, data_dir=tmp_path)


def test_a_half_unpacked_data_set_names_what_is_missing(tmp_path: Path) -> None:
    write_batches(tmp_path, 10, np.random.default_rng(0))
    for name in ("data_batch_3", "test_batch"):
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=r"data_batch_3, test_batch missing.*Unpack"):
        load_dataset("cifar10", seed=0, data_dir=tmp_path)


def test_wrong_class_folders_are_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, 1, np.random.default_rng(0))
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "katze")
    with pytest.raises(UsageError, match="test are not those of CIFAR-10: cat missing; katze unknown"):
        load_dataset("cifar10", seed=0, data_dir=tmp_path)
    (tmp_path / "test" / "katze").rename(tmp_path / "test" / "cat")
    (tmp_path / "train" / "ship" / "0.png").unlink()
    with pytest.raises(UsageError, match=r"train/ship holds no JPEG or PNG image"):
        load_dataset("cifar10", seed=0, data_dir=tmp_path)


def jpeg(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (jpeg((64, 48)), "64x48 pixels, not 32x32"),
        (jpeg((32, 32))[:-200], "no whole image"),
        (b"", "no whole image"),
        (b"GIF89a\x20\x00\x20\x00\x00\x00\x00", "no whole image"),
    ],
)
def test_a_broken_image_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    write_class_folders(tmp_path, 1, np.random.default_rng(0))
    (tmp_path / "train" / "frog" / "0.png").write_bytes(content)
    with pytest.raises(InvalidFileError, match=rf"train/frog/0\.png: .*{problem}"):
        load_dataset("cifar10", seed=0, data_dir=tmp_path)


class Hostile:
    """Makes a folder where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.trace,)


PIXELS = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (python_2_pickle(PIXELS, [0, 1, 2, 3])[:-500], "no whole batch"),
        (b"", "no whole batch"),
        (b"\x80\x02]q\x00.", "no whole batch"),
        (pickle.dumps({b"data": PIXELS}, 4), "no whole batch.*labels"),
        (python_2_pickle(PIXELS, [0, 1, 2]), "no 3 images"),
        (python_2_pickle(PIXELS, [0, 1, 2, 10]), "labels are not all from 0 to 9"),
        (python_2_pickle(PIXELS[:, :3000], [0, 1, 2, 3]), "no 4 images"),
        (pickle.dumps({b"data": PIXELS.astype(float), b"labels": [0] * 4}, 4), "no 4 images"),
        (pickle.dumps({b"data": [[0] * 3072], b"labels": [0]}, 4), "no 1 images"),
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
    ],
)
def test_a_broken_batch_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    write_batches(tmp_path, 4, np.random.default_rng(0))
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(InvalidFileError, match=f"data_batch_2: .*{problem}"):
        load_dataset("cifar10", seed=0, data_dir=tmp_path)


def test_nothing_in_a_batch_is_executed(tmp_path: Path) -> None:
    write_batches(tmp_path, 4, np.random.default_rng(0))
    trace = tmp_path / "executed"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Hostile(trace), b"labels": []}, 4))
    with pytest.raises(InvalidFileError, match="which no batch needs"):
        open_cifar10(tmp_path)
    assert not trace.exists()


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_batch_with_one_wrong_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "one-wrong-byte"
    if not folder.exists():
        write_batches(folder, 4, np.random.default_rng(0))
    content = bytearray(python_2_pickle(PIXELS, [0, 1, 2, 3]))
    # The head, or the tail behind the pixels.
    content[place if place < 350 else 350 - place - 1] = value
    (folder / "test_batch").write_bytes(bytes(content))
    try:
        _, test = open_cifar10(folder)
    except InvalidFileError as error:
        refused = error.path.name
    else:
        assert test.read(np.arange(4)).dtype == np.uint8
        return
    assert refused == "test_batch"
