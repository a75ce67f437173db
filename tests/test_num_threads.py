"""How many threads may work: what the process was given, what its user chose, what others limit."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastnet as fn
from fastnet import _pool, _threads


@pytest.fixture(autouse=True)
def as_before():
    yield
    fn.set_num_threads()


def cores():
    return _threads.processors()


def answer(script, **environment):
    kept = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    done = subprocess.run([sys.executable, "-c", script], env=kept | environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ASK = "import fastnet as fn; print(fn.get_num_threads())"


def test_by_default_as_many_as_the_process_may_use():
    assert answer(ASK) == str(cores())


@pytest.mark.parametrize("value, found", [
    ("1", 1), ("1,4", 1), (" 1 ", 1), ("1000", None), ("0", None), ("no", None), ("", None)])
def test_omp_num_threads(value, found):
    assert _threads.default_limit({"OMP_NUM_THREADS": value}) == (found or cores())
    if found:
        assert answer(ASK, OMP_NUM_THREADS=value) == str(found)


def test_openblas_num_threads_counts_as_numpy_follows_it():
    if not _pool.blas_limit():
        pytest.skip("NumPy's BLAS cannot be asked")
    assert answer(ASK, OPENBLAS_NUM_THREADS="1") == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_affinity_counts_at_once():
    assert answer("""
import os, fastnet as fn
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(fn.get_num_threads())""") == "1"


def test_what_is_chosen():
    fn.set_num_threads(1)
    assert fn.get_num_threads() == 1
    fn.set_num_threads(10**9)
    assert fn.get_num_threads() == cores()
    fn.set_num_threads(np.int64(1))
    assert fn.get_num_threads() == 1
    fn.set_num_threads()
    assert fn.get_num_threads() == min(_threads.default_limit(os.environ),
                                       _pool.blas_limit() or cores())


@pytest.mark.parametrize("set_to", [
    fn.set_num_threads, lambda n: fn.Sequential([fn.Dense(2, 2)], n_threads=n),
    lambda n: setattr(fn.Sequential([fn.Dense(2, 2)]), "n_threads", n)],
    ids=["process", "network", "attribute"])
@pytest.mark.parametrize("value, error", [
    (0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)])
def test_53_bad_numbers(set_to, value, error):
    with pytest.raises(error, match="n_threads"):
        set_to(value)


@pytest.mark.parametrize("api", [None, "blas"])
def test_threadpoolctl_limits_fastnet_too(api):
    """Also where it was imported later than fastnet, and where the user had chosen before."""
    pytest.importorskip("threadpoolctl")
    if not _pool.blas_limit():
        pytest.skip("NumPy's BLAS cannot be asked")
    found = answer(f"""
import fastnet as fn
from threadpoolctl import threadpool_limits
found = [fn.get_num_threads()]
for chosen in (False, True):
    if chosen:
        fn.set_num_threads({cores()})
    with threadpool_limits(1, {api!r}):
        found.append(fn.get_num_threads())
    found.append(fn.get_num_threads())
print(found)""")
    assert found == str([cores(), 1, cores(), 1, cores()])


def test_who_chooses_goes_before_the_environment():
    script = f"import fastnet as fn; fn.set_num_threads({cores()}); print(fn.get_num_threads())"
    assert answer(script, OMP_NUM_THREADS="1") == str(cores())


def test_56_joblib_leaves_each_process_its_share():
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        assert joblib.Parallel()(joblib.delayed(fn.get_num_threads)() for _ in range(2)) == [1, 1]


@pytest.mark.parametrize("lines, files, found", [
    ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                   "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 3),
    ("3:cpu,cpuacct:/job\n", {"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n",
                              "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}, 4),
    ("1:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                   "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
    ("1:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n"}, None),
    ("9:memory:/\n", {}, None)])
def test_control_groups(tmp_path, lines, files, found):
    files = {"proc/self/cgroup": lines, **files}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert _threads.group_limit(tmp_path) == found


def test_no_control_groups(tmp_path):
    assert _threads.group_limit(tmp_path) is None


def test_networks_and_their_copies_keep_the_limit():
    net = fn.Sequential([fn.Dense(3, 4), fn.Sequential([fn.Dense(4, 2)])], n_threads=3)
    assert net.n_threads == net.frozen().n_threads == 3
    assert pickle.loads(pickle.dumps(net)).n_threads == 3
    assert pickle.loads(pickle.dumps(net.frozen())).n_threads == 3
    net.n_threads = None
    assert net.n_threads is net.frozen().n_threads is None
    net.n_threads = 10**30              # as many as there are
    assert net.predict(np.zeros((2, 3))).shape == (2, 2)


def test_estimators_hand_the_limit_on():
    pytest.importorskip("sklearn")
    from fastnet.sklearn import MLPClassifier

    x = np.random.default_rng(0).normal(size=(40, 3))
    y = (x[:, 0] > 0).astype(int)
    model = MLPClassifier((5,), max_iter=3, n_threads=2).fit(x, y)
    assert model.network_.n_threads == 2
    model.set_params(n_threads=1).predict(x)
    assert model.network_.n_threads == 1
    assert model.frozen()._network.n_threads == 1
    assert "n_threads" not in model.to_sklearn().get_params()
    for bad in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="The 'n_threads' parameter"):
            MLPClassifier(n_threads=bad).fit(x, y)


def test_show_config_tells():
    config = fn.show_config("dict")
    assert config["threads"] == f"up to {fn.get_num_threads()}"
    for name in ("processors", "control group", "OMP_NUM_THREADS", "NumPy's BLAS",
                 "set_num_threads: not called"):
        assert name in config["threads by"]
    fn.set_num_threads(1)
    assert "set_num_threads: 1" in fn.show_config("dict")["threads by"]


def threads_used(limit):
    """How many threads there are after a large step of a network with this limit."""
    return int(answer(f"""
import os, numpy as np, fastnet as fn
net = fn.Sequential([fn.Dense(700, 900), fn.ReLU(), fn.Dense(900, 10)], n_threads={limit})
net.compile("sgd", "mse")
before = len(os.listdir("/proc/self/task"))
for _ in range(30):
    net.train_step(np.ones((200, 700)), np.ones((200, 10)))
    net.predict(np.ones((200, 700)))
print(1 + len(os.listdir("/proc/self/task")) - before)"""))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
def test_a_limit_of_one_never_makes_a_thread():
    assert threads_used(1) == 1
    assert threads_used(None) == cores()
