"""Training with several processes: what one process comes to with all samples, on every rank.

Cases stand in mpi_cases.py. For each number of ranks `mpiexec` runs all of them once.
"""

import functools
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import mpi_cases
import numpy as np
import pytest

import fastnet as fn

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
NEEDED = [name for name, there in [("mpi4py", importlib.util.find_spec("mpi4py")),
                                   ("mpiexec (of the wheel mpich, for example)", MPIEXEC)]
          if not there]
needs_mpi = pytest.mark.skipif(bool(NEEDED), reason=f"needs {' and '.join(NEEDED)}")

SIZES = 1, 2, 3, 4
# Of float64: sums are cut elsewhere, and 100 steps carry the difference along.
RELATIVE = 1e-12

SAME_AS_ALONE = [
    "fit_of_a_whole", "fit_of_own_parts", "steps_of_own_parts", "steps_of_a_whole",
    "every_optimizer", "every_loss", "layers_of_ones_own", "gradients_that_wait", "batches",
    "evaluation", "estimators", "callbacks", "early_stopping", "start_of_rank_0", "checkpoint",
    "memory_maps"]


def mpiexec(size, folder, *names, script=Path(mpi_cases.__file__), timeout=120):
    """Run the cases on so many ranks, which may be more than there are cores."""
    command = [MPIEXEC, "-n", str(size), sys.executable, str(script), str(folder), *names]
    yielding = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}        # of MPICH: 4 times as fast then
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder,
                          env=os.environ | yielding)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds with all samples."""
    mpi_cases.FOLDER = tmp_path_factory.mktemp("alone")
    @functools.cache
    def found(name, size):
        mpi_cases.SIZE = size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mpi_cases.CASES[name](None)
    return lambda name, size: found(name, size if name == "batches" else 1)


@pytest.fixture(scope="module")
def checkpoint_of_one(tmp_path_factory):
    """A checkpoint that one process has left after 3 of 6 epochs."""
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    mpi_cases.checkpointed(None, path, 3)
    return path


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, checkpoint_of_one):
    """What each rank has found, by case, and what they have printed."""
    @functools.cache
    def run(size):
        folder = tmp_path_factory.mktemp(f"ranks-{size}")
        shutil.copy(checkpoint_of_one, folder)
        done = mpiexec(size, folder)
        assert done.returncode == 0, done.stderr
        return [pickle.loads((folder / f"rank-{rank}-of-{size}.pickle").read_bytes())
                for rank in range(size)], done
    return run


def leaves(value, path=""):
    """Yield all arrays and numbers, each with where it stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}/{name}")
    elif isinstance(value, (list, tuple)) and not all(isinstance(v, (int, float)) for v in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{index}")
    else:
        yield path, np.asarray(value)


def assert_close(found, expected):
    found, expected = dict(leaves(found)), dict(leaves(expected))
    assert found.keys() == expected.keys()
    assert expected or importlib.util.find_spec("sklearn") is None
    for path, value in found.items():
        scale = np.abs(expected[path]).max(initial=0)
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=RELATIVE * scale,
                                   err_msg=path)


# ---- The same as alone, and on all ranks ---------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize("name", SAME_AS_ALONE)
@pytest.mark.parametrize("size", SIZES)
def test_ranks_come_to_what_one_process_does(name, size, ranks, alone):
    found = ranks(size)[0][0][name]
    if name == "checkpoint":
        expected = mpi_cases_checkpoint()
    else:
        expected = alone(name, size)
    assert_close(found, expected)


@functools.cache
def mpi_cases_checkpoint():
    """A fit of 6 epochs that was never stopped."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return mpi_cases.checkpointed(None, Path(folder) / "other.safetensors", 6)


@needs_mpi
@pytest.mark.parametrize("size", SIZES[1:])
def test_all_ranks_have_the_same_bits(size, ranks):
    first, *others = ranks(size)[0]
    for other in others:
        for name in first:
            same = [dict(leaves({key: value for key, value in of_rank[name].items() if key not in (
                "messages of each rank", "seen of rank 0", "seeds", "dropped")}))
                for of_rank in (first, other)]
            assert same[0].keys() == same[1].keys()
            for path, value in same[0].items():
                assert value.tobytes() == same[1][path].tobytes(), (name, path)


def test_parts_are_uneven_and_some_are_empty():
    """What the cases say of their parts."""
    for size in SIZES[1:]:
        class Comm:
            pass

        counts = []
        for rank in range(size):
            comm = Comm()
            comm.rank, comm.size = rank, size
            part = mpi_cases.own(comm, 180)
            counts.append(part.stop - part.start)
        assert sum(counts) == 180 and 0 in counts
        assert size == 2 or len(set(counts)) > 2


# ---- Once for all --------------------------------------------------------------------------------


@needs_mpi
def test_callbacks_are_called_on_rank_0_alone(ranks):
    found = [of_rank["callbacks"]["seen of rank 0"] for of_rank in ranks(3)[0]]
    assert len(found[0]) == 4 and found[1:] == [[], []]


@needs_mpi
def test_rank_0_alone_prints(ranks):
    alone, together = (ranks(size)[1].stdout + ranks(size)[1].stderr for size in (1, 4))
    assert together.count("2/2") == alone.count("2/2") == 1


@needs_mpi
def test_any_rank_can_stop_all(ranks):
    for size in SIZES[1:]:
        for of_rank in ranks(size)[0]:
            found = of_rank["stop_of_another_rank"]
            assert found["stop"] and 4 <= found["steps"] <= 6


@needs_mpi
def test_equal_parts_are_told_of_on_rank_0(ranks):
    warned = [of_rank["warning_of_equal_parts"]["messages of each rank"]["warned"]
              for of_rank in ranks(2)[0]]
    assert len(warned[0]) == 1 and "shard='split'" in warned[0][0] and warned[1] == []


# ---- Dropout and checkpoints -------------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize("size", SIZES[1:])
def test_dropout_gives_the_same_bits_again_and_after_a_stop(size, ranks):
    for of_rank in ranks(size)[0]:
        found = of_rank["dropout"]
        for one, again, resumed in zip(
                found["parameters"], found["again"], found["resumed"], strict=True):
            assert np.array_equal(one, again) and np.array_equal(one, resumed)
        assert found["history"] == found["resumed history"]


@needs_mpi
def test_each_rank_drops_entries_of_its_own_and_keeps_rank_0s_seeds(ranks):
    found = [of_rank["dropout"] for of_rank in ranks(4)[0]]
    masks = [np.array(one["dropped"]) for one in found]
    assert len({mask.tobytes() for mask in masks}) == 4
    assert all(0.3 < mask.mean() < 0.7 for mask in masks)
    assert all(one["seeds"] == found[0]["seeds"] for one in found)


@needs_mpi
def test_a_checkpoint_of_several_ranks_is_for_any_number(tmp_path):
    """One process and four each go on from what 3 ranks have left (4 from 1: see above)."""
    path = tmp_path / "checkpoint.safetensors"
    script = ("import sys; sys.path.insert(0, {!r}); import mpi_cases; from mpi4py import MPI; "
              "mpi_cases.checkpointed(MPI.COMM_WORLD, {!r}, 3)")
    (tmp_path / "begin.py").write_text(script.format(
        str(Path(mpi_cases.__file__).parent), str(path)))
    done = mpiexec(3, tmp_path, script=tmp_path / "begin.py")
    assert done.returncode == 0, done.stderr
    found = mpi_cases.checkpointed(None, path, 6)
    assert found["epoch"] == [1, 2, 3, 4, 5, 6]
    assert_close(found, mpi_cases_checkpoint())


@needs_mpi
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("stored", ["float32", "float64"])
def test_maps_and_batches_may_be_larger_than_memory(stored, tmp_path):
    """float32 is read where it lies; float64 is converted on the way."""
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", stored, (24_000, 1_000)).flush()
    done = mpiexec(2, tmp_path, "larger_than_memory")
    assert done.returncode == 0, done.stderr
    assert "no limit" not in done.stdout
    steps = 1 + 48 + 24 + 48            # 10 rows; in parts of the whole; two halves; batches
    assert done.stdout.count(f"{steps} steps, dict_keys(['accuracy', 'top_2_accuracy'])") == 2


# ---- Ranks that fail -----------------------------------------------------------------------------

# What rank 1 raises, which all others name; or what all raise alike.
OWN = {
    "features": "ValueError: X must have 7 features, got 5",
    "features of a step": "ValueError: X must have 7 features, got 5",
    "labels": "labels must be whole numbers from 0 to 2",
    "iterator": "OSError: the disk fails",
    "interrupt": "KeyboardInterrupt",
    "no more": "ValueError: x has no more batches at step 5 of 9",
    "option": "ValueError: epochs must be in the interval [1, inf), got 0",
    "validation": "labels must be whole numbers from 0 to 2",
    "evaluate": "labels must be whole numbers from 0 to 2",
    "weights": "ValueError: the sum of sample_weight must lie between",
    "balanced": "labels must be whole numbers from 0 to 2",
}
ALL = {
    "batch_size": "ValueError: batch_size must be the same on all ranks, but is 30 on rank 0 and "
                  "20 on rank 1",
    "epochs": "ValueError: epochs must be the same on all ranks, but is 1 on rank 0 and 2 on rank",
    "network": "ValueError: the network must be the same on all ranks",
    "data": "ValueError: with shard='split' all ranks must be given the same x and y",
    "no validation": "ValueError: whether there is validation data must be the same on all ranks",
    "not finite": "FloatingPointError: the loss is nan at epoch 1, step 1, and the step was not",
    "not finite step": "FloatingPointError: the loss is nan, and the step was not applied",
    "nothing": "ValueError: a mean over 0 rows is not defined",
    "no batches": "ValueError: a mean over 0 rows is not defined",
    "no rows of a step": "ValueError: a mean over 0 rows is not defined",
    "comm": "TypeError: comm must be an mpi4py communicator, such as MPI.COMM_WORLD, got 7",
    "shard": "ValueError: shard must be 'own' or 'split', got 'mine'",
}


@needs_mpi
@pytest.mark.parametrize("size", SIZES[1:])
def test_an_error_of_one_rank_reaches_all_and_none_waits(size, ranks):
    found = [of_rank["errors"]["messages of each rank"] for of_rank in ranks(size)[0]]
    assert found[0].keys() == {*OWN, *ALL, "callback"}
    for rank, of_rank in enumerate(found):
        for name, message in OWN.items():
            assert message in of_rank[name], (rank, name)
            assert ("RuntimeError: rank 1 failed: " in of_rank[name]) == (rank != 1), (rank, name)
        for name, message in ALL.items():
            assert of_rank[name].startswith(message), (rank, name)
        assert of_rank["callback"] == ("LookupError: a callback fails" if rank == 0 else
                                       "RuntimeError: rank 0 failed: LookupError: a callback fails")


@needs_mpi
@pytest.mark.parametrize("size", SIZES[1:])
def test_after_an_error_training_goes_on_as_if_it_had_not_been(size, ranks):
    found = ranks(size)[0][0]["errors"]
    assert all(map(np.array_equal, found["parameters"], found["again"]))


@needs_mpi
def test_an_error_that_nobody_catches_ends_all_with_its_text(tmp_path):
    done = mpiexec(3, tmp_path, "uncaught")
    assert done.returncode != 0
    assert "ValueError: X must have 7 features, got 5" in done.stderr
    assert done.stderr.count("RuntimeError: rank 1 failed: ValueError") == 2


@needs_mpi
def test_an_error_between_messages_ends_all_with_its_text(tmp_path):
    done = mpiexec(3, tmp_path, "fails_between_messages")
    assert done.returncode != 0
    assert "MemoryError: no memory on rank 1" in done.stderr
    assert "rank 1 of 3 ends all others, which would wait for it" in done.stderr


@needs_mpi
def test_a_rank_that_is_killed_ends_all(tmp_path):
    done = mpiexec(3, tmp_path, "killed")
    assert done.returncode != 0


# ---- Without MPI ---------------------------------------------------------------------------------


class One:
    """A communicator of one process, without more methods than are needed."""

    def Get_size(self):
        return 1

    def Allreduce(self, *arguments):
        raise AssertionError("there is nobody to talk to")


def test_one_process_is_as_no_communicator_and_needs_no_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    expected, found = (mpi_cases.fit_of_a_whole(comm) for comm in (None, One()))
    assert all(map(np.array_equal, expected["parameters"], found["parameters"]))
    for name in ("fit_of_own_parts", "steps_of_a_whole", "evaluation"):
        mpi_cases.CASES[name](type("One", (One,), {"rank": 0, "size": 1})())


def test_several_processes_need_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    net = fn.Sequential([fn.Dense(7, 3)])
    net.compile()
    comm = One()
    comm.Get_size = lambda: 2
    with pytest.raises(ImportError, match="mpi4py"):
        net.fit(np.ones((4, 7)), [0, 1, 2, 0], verbose=0, comm=comm)
