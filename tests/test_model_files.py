"""Files of networks and estimators: what comes back, what is refused, and what a fault leaves."""

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn
from fastnet import _state_file
from fastnet._state_file import read_state, write_state

hypothesis = pytest.importorskip("hypothesis")
from changed_files import change  # noqa: E402
from drawn_networks import ANY, losses, networks, optimizers, tried  # noqa: E402

given, some = hypothesis.given, hypothesis.strategies
GOLDEN = Path(__file__).parent / "golden"


def bits(net):
    return [(name, value.dtype, value.tobytes()) for name, value, _ in net.parameters()]


def there_and_back(net, **options):
    """What `load` makes of what `save` has written."""
    with temporary() as path:
        net.save(path, **options)
        return fn.load(path)


class temporary:
    """A path for one file, in memory where there is such a folder."""

    def __enter__(self):
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(dir=folder)
        return Path(self.folder.name, "net")

    def __exit__(self, *_):
        self.folder.cleanup()


def small_net(dtype="float32", optimizer="adam", **options):
    rng = np.random.default_rng(1)
    net = fn.Sequential([
        fn.Dense(5, 7, activation="gelu", dtype=dtype, rng=rng), fn.Dropout(0.3, rng=rng),
        fn.Residual([fn.LayerNorm(7, dtype=dtype), fn.Dense(7, 7, dtype=dtype, rng=rng),
                     fn.LeakyReLU(0.2)]),
        fn.Dense(7, 3, bias=False, dtype=dtype, rng=rng)])
    net.compile(optimizer, **options)
    return net


def data(n=50, n_in=5, n_out=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, n_in)), rng.integers(0, n_out, n)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


# ---- What comes back ---------------------------------------------------------------------------

@tried(100, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@given(networks(ANY, ["float32", "float64"]), some.data())
def test_any_network_comes_back_and_trains_on_with_the_same_bits(network, drawn):
    layers, dtype, n_in, n_out = network
    (loss, target_of), optimizer = drawn.draw(losses(n_out)), drawn.draw(optimizers())
    net = fn.Sequential(layers)
    net.compile(optimizer, loss, keep_gradients=drawn.draw(some.booleans()))
    rng = np.random.default_rng(drawn.draw(some.integers(0, 2**32 - 1)))
    x, y = rng.normal(size=(9, n_in)).astype(dtype), target_of(rng, 9)
    for _ in range(drawn.draw(some.integers(0, 2))):
        step(net, x, y)
    loaded = there_and_back(net)
    assert (repr(loaded), repr(loaded.optimizer), repr(loaded.loss)) == (
        repr(net), repr(net.optimizer), repr(net.loss))
    assert bits(loaded) == bits(net)
    frozen = [[layer.trainable for layer in one.layers if any(True for _ in layer.parameters())]
              for one in (net, loaded)]
    assert frozen[0] == frozen[1]
    assert loaded.predict(x).tobytes() == net.predict(x).tobytes()
    for _ in range(2):
        assert step(loaded, x, y) == step(net, x, y)
    assert bits(loaded) == bits(net)


def step(net, x, y):
    """The loss of a step, or what is wrong with it."""
    try:
        return net.train_step(x, y)
    except FloatingPointError as error:
        return str(error)


@pytest.mark.parametrize("schedule", [
    0.01, fn.schedules.StepDecay(0.01, 5), fn.schedules.Cosine(0.01, 40, 3, 0.001),
    fn.schedules.InverseScaling(0.01, 0.3)], ids=str)
@pytest.mark.parametrize("optimizer", [fn.SGD, fn.Adam, fn.AdamW, fn.RMSprop])
def test_a_fit_goes_on_with_the_same_bits(optimizer, schedule, path):
    """Its own order of samples, dropout, the optimizer's state and the schedule's place."""
    x, y = data()
    net = small_net(optimizer=optimizer(schedule), metrics=["accuracy", "top_2_accuracy"])
    net.fit(x, y, epochs=2, verbose=0)
    net.save(path)
    loaded = fn.load(path)
    first, second = (one.fit(x, y, epochs=3, verbose=0) for one in (net, loaded))
    assert bits(net) == bits(loaded) and vars(first) == vars(second)
    assert net.optimizer.steps == loaded.optimizer.steps == 10


def test_a_rate_that_was_changed_comes_back(path):
    net = small_net(optimizer=fn.SGD(0.5))
    net.optimizer.lr = 0.25
    net.save(path)
    assert fn.load(path).optimizer.lr == 0.25


def test_without_the_optimizer(path):
    net = small_net()
    net.fit(*data(), verbose=0)
    net.save(path, include_optimizer=False)
    loaded = fn.load(path)
    assert loaded.optimizer is None and loaded.loss is None and bits(loaded) == bits(net)
    with pytest.raises(TypeError, match="include_optimizer"):
        net.save(path, include_optimizer="no")


@pytest.mark.parametrize("loss", [
    fn.SoftmaxCrossEntropy("sum", weight=[1, 2, 3], ignore_index=-1, label_smoothing=0.2),
    fn.BinaryCrossEntropy(pos_weight=[1, 2, 0.1]), fn.MeanSquaredError("sum"),
    fn.Huber(delta=2.5), fn.Poisson()], ids=str)
def test_losses_with_all_their_options(loss, path):
    net = small_net(loss=loss)
    net.save(path)
    assert repr(fn.load(path).loss) == repr(loss)


def test_the_safetensors_package_reads_the_file(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    net = small_net()
    net.fit(*data(), verbose=0)
    net.save(path)
    found = safetensors.load_file(path)
    for name, value, _ in net.parameters():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    with sys.modules["safetensors"].safe_open(path, "np") as file:
        about = file.metadata()
    assert (about["format"], about["version"], about["kind"]) == ("fastnet", "1", "network")
    assert json.loads(about["content"])["network"]["layers"][0] == {
        "class": "Dense", "in_features": 5, "out_features": 7, "bias": True,
        "activation": {"class": "GELU", "approximate": "none"}, "dtype": "float32",
        "trainable": True}
    assert "optimizer.states.0.0.0" in found


def test_arrays_lie_at_multiples_of_their_entries(path):
    write_state(path, "network", {"a": np.ones(3, np.uint8), "b": np.ones(1), "c": True,
                                  "d": np.ones(3, np.float32)})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for name, about in json.loads(content[8:header]).items():
        if name != "__metadata__":
            size = {"U8": 1, "F64": 8, "F32": 4}[about["dtype"]]
            assert (header + about["data_offsets"][0]) % size == 0


@pytest.mark.parametrize("state", [
    None, [], {}, 3, "text \u00e9 \0", [1.5, None, True, -2**70], {"a": (1, (2,))},
    {1: "one", None: 2, (1, 2): [3]}, {"a.b": np.ones(2), "a": {"b": np.zeros(2)}},
    {"inf": float("inf")}, [np.float32(0.1), np.int8(3), np.bool_(True)],
    *(np.arange(6).reshape(2, 3).astype(kind) for kind in "?bBhHiIlLefd"),
    np.zeros((0, 3)), np.array(2.5), np.ones((2, 3)).T, np.ones(3, ">f4")], ids=repr)
def test_states_come_back(state, path):
    write_state(path, "test", state)
    found = read_state(path, "test")
    np.testing.assert_equal(found, state)
    if isinstance(state, np.ndarray):
        assert found.dtype == state.dtype.newbyteorder("=") and found.shape == state.shape


@pytest.mark.parametrize("copied", [
    lambda net: pickle.loads(pickle.dumps(net)), copy.copy, copy.deepcopy])
def test_copies(copied):
    net = small_net()
    net.fit(*data(), verbose=0)
    other = copied(net)
    assert bits(other) == bits(net)
    before = bits(net)
    other.fit(*data(), verbose=0)
    assert bits(net) == before != bits(other)


def test_joblib(tmp_path):
    joblib = pytest.importorskip("joblib")
    net = small_net()
    joblib.dump(net, tmp_path / "net.joblib")
    assert bits(joblib.load(tmp_path / "net.joblib")) == bits(net)


# ---- What cannot be saved ----------------------------------------------------------------------

class Own(fn.Layer):
    def forward(self, x, out=None):
        return np.array(x)

    def backward(self, dy, out=None):
        return np.array(dy)

    def __repr__(self):
        return "Own()"


@pytest.mark.parametrize("make, match", [
    (lambda: fn.Sequential([fn.Dense(5, 3), Own()]), r"Own\(\) cannot be saved"),
    (lambda: fn.Sequential([fn.Dense(5, 3, activation=Own())]), r"Own\(\) cannot be saved"),
    (lambda: small_net(optimizer=fn.SGD(lambda step: 0.1)), "function.* cannot be saved"),
    (lambda: small_net(optimizer=type("Mine", (fn.SGD,), {})(0.1)), "Mine.* cannot be saved"),
    (lambda: small_net(loss=type("Mine", (fn.MeanSquaredError,), {})()), "Mine.* cannot be saved"),
    (lambda: small_net(metrics=[lambda scores, target: 1.0]), "metric .*lambda.* cannot be saved"),
])
def test_what_is_not_built_in_is_named_and_the_file_stays(make, match, path):
    path.write_text("old")
    with pytest.raises(ValueError, match=match):
        make().save(path)
    assert path.read_text() == "old" and os.listdir(path.parent) == [path.name]


def test_functions_of_the_metrics_are_built_in(path):
    small_net(metrics=[fn.accuracy]).save(path)
    assert fn.load(path).evaluate(*data()).accuracy is not None


# ---- Files that are none -----------------------------------------------------------------------

def built(header, arrays=b""):
    """A file with this header, and a checksum that is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + arrays
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(b"0" * 64, digest, 1)


def about(content="null", **changed):
    return {"sha256": "0" * 64, "format": "fastnet", "version": "1", "kind": "network",
            "content": content, **changed}


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NOTHING = {"network": {}, "parameters": {}}


def holding(content, **tensors):
    return built({"__metadata__": about(json.dumps(content)), **tensors},
                 bytes(max((t["data_offsets"][1] for t in tensors.values()), default=0)))


@pytest.mark.parametrize("content, match", [
    (b"", "no safetensors file"), (b"1234567", "no safetensors file"),
    (b"\0" * 8, "no safetensors file"), (b"\xff" * 100, "no safetensors file"),
    (pickle.dumps({}), "no safetensors file"),
    (built(b"[]"), "no safetensors file"), (built(b"{"), "header is damaged"),
    (built(b'{"a": 1, "a": 1}'), "came twice"), (built(b"{\xff}"), "no text"),
    (built(b'{"a":' * 100_000), "nested too deeply"), (built(b"{}"), "none of fastnet's"),
    (built({"__metadata__": {"format": "pt"}}), "none of fastnet's"),
    (built({"__metadata__": 3}), "none of fastnet's"),
    (built({"__metadata__": {"format": "fastnet"}}), "version is missing"),
    (built({"__metadata__": about(sha256="0")}), "sha256 is missing"),
    (built({"__metadata__": about(kind=3)}), "kind is missing"),
    (built({"__metadata__": about(kind="tree")}), "nothing is known of a tree"),
    (built({"__metadata__": about(version="2")}), "format version 2; .* reads 1"),
    (built({"__metadata__": about()})[:-1] + b" ", "damaged"),
    (built({"__metadata__": about("{")}), "header is damaged"),
    (built({"__metadata__": about('{"a": 1, "a": 2}')}), "came twice"),
    (built({"__metadata__": about("[" * 100_000)}), "nested too deeply"),
    (built({"__metadata__": about("1" * 5000)}), "damaged"),
    (built({"__metadata__": about()}, b"more"), "arrays end at .*, but the file at"),
    (built({"__metadata__": about(), "a": ONE}), "does not fit"),
    (built({"__metadata__": about(), "a": ONE}, b"1234567"), "does not fit"),
    (built({"__metadata__": about(), "a": ONE, "b": ONE}, b"12345678"), "does not fit"),
    (built({"__metadata__": about(), "a": {**ONE, "data_offsets": [8, 16]}}, bytes(16)), "not fit"),
    (built({"__metadata__": about(), "a": {**ONE, "dtype": "F8"}}, bytes(8)), "shape or type"),
    (built({"__metadata__": about(), "a": {**ONE, "dtype": []}}, bytes(8)), "shape or type"),
    (built({"__metadata__": about(), "a": {**ONE, "shape": [-2]}}, bytes(8)), "shape or type"),
    (built({"__metadata__": about(), "a": {**ONE, "shape": [2.0]}}, bytes(8)), "shape or type"),
    (built({"__metadata__": about(), "a": {**ONE, "shape": [10**30]}}, bytes(8)), "shape or type"),
    (built({"__metadata__": about(), "a": {**ONE, "shape": [2**62, 2**62]}}, bytes(8)), "not fit"),
    (built({"__metadata__": about(), "a": {**ONE, "shape": [2] + [1] * 64}}, bytes(8)), "shape"),
    (built({"__metadata__": about(), "a": {**ONE, "shape": [0, 2**40, 2**40],
                                           "data_offsets": [0, 0]}}), "shape|tells"),
    (built({"__metadata__": about(), "a": {**ONE, "more": 1}}, bytes(8)), "not described"),
    (built({"__metadata__": about(), "a": 1}), "not described"),
    (holding(None, a=ONE), "nothing tells what a is"),
    (holding({"$array": "a"}), "a is missing"), (holding({"$array": ["a"]}), "is missing"),
    (holding([{"$array": "a"}, {"$array": "a"}], a=ONE), "missing, or there twice"),
    (holding({"$tuple": 3}), "tuple"), (holding({"$pairs": [3]}), "table"),
    (holding({"$pairs": [[[], 1]]}), "table"),
    (holding(None), "cannot be read"), (holding([]), "cannot be read"),
    (holding({}), "cannot be read"), (holding(NOTHING), "cannot be read"),
])
def test_59_60_what_is_no_model(content, match, path):
    path.write_bytes(content)
    with pytest.raises(fn.ModelFileError, match=match) as caught:
        fn.load(path)
    assert str(caught.value).startswith(f"{path} cannot be read: ")


HUGE = {"class": "Dense", "in_features": 10**7, "out_features": 10**7, "bias": False,
        "activation": None, "dtype": "float32", "trainable": True}


@pytest.mark.parametrize("way, value", [
    ("network", None), ("network/class", "Dense"), ("network/class", "SGD"),
    ("network/class", "eval"), ("network/class", 3), ("network/layers", None),
    ("network/layers", 3), ("network/layers", {}), ("network/layers", []),
    ("network/layers/0", 3), ("network/layers/0", None), ("network/layers/0", lambda one: [one]),
    ("network/layers/0/class", "LayerNorm"), ("network/layers/0/more", 1),
    ("network/layers/0/in_features", None), ("network/layers/0/in_features", 6),
    ("network/layers/0/in_features", 10**15), ("network/layers/0/in_features", 5.0),
    ("network/layers/0/in_features", True), ("network/layers/0/bias", False),
    ("network/layers/0/bias", 1), ("network/layers/0/dtype", "float64"),
    ("network/layers/0/dtype", "object"), ("network/layers/0/activation", "gelu!"),
    ("network/layers/0/activation", {"class": "GELU"}),
    ("network/layers/0/activation", {"class": "SGD"}), ("network/layers/0/activation", HUGE),
    ("network/compiled/loss", HUGE), ("network/compiled/optimizer", HUGE),
    ("network/compiled/optimizer/lr", HUGE),
    ("network/layers/0/activation", {"class": "Residual", "layers": [HUGE]}),
    ("network/layers/0/activation/approximate", "more"), ("network/layers/0/trainable", None),
    ("network/layers/0/trainable", 2), ("network/layers/1/p", 1.0),
    ("network/layers/1/p", float("nan")), ("network/layers/1/p", "0"),
    ("network/layers/1", lambda one: {"class": "Add"}),
    ("network/layers/1", lambda one: {"class": "Scale", "factor": float("inf")}),
    ("network/layers/2/layers", []), ("network/layers/2/layers/0/eps", 0.0),
    ("network/layers/2/layers/0/affine", False), ("network/layers/2/layers/0/features", 8),
    ("network/layers/2/layers/2/negative_slope", "x"), ("network/layers/3/bias", True),
    ("network/compiled/optimizer", None), ("network/compiled/optimizer", {"class": "ReLU"}),
    ("network/compiled/optimizer/class", "AdamX"), ("network/compiled/optimizer/lr", -1.0),
    ("network/compiled/optimizer/lr", {"class": "ReLU"}),
    ("network/compiled/optimizer/betas", [2.0, 0.5]), ("network/compiled/loss", 3),
    ("network/compiled/loss/reduction", "none"), ("network/compiled/loss/label_smoothing", 2.0),
    ("network/compiled/loss/weight", np.ones(4)), ("network/compiled/metrics", "accuracy"),
    ("network/compiled/metrics", ["os.system"]), ("network/compiled/keep_gradients", 1),
    ("network/orders", {}), ("network/orders", {"bit_generator": "MT19937"}),
    ("network/orders/state", {"state": -1, "inc": 1}), ("network/orders/has_uint32", "x"),
    ("parameters", None), ("parameters", 3), ("parameters/0.weight", None),
    ("parameters/0.weight", 3), ("parameters/0.weight", np.zeros((7, 5), np.float32)),
    ("parameters/0.weight", np.zeros((5, 7))), ("parameters/0.weight", np.zeros(35, np.float32)),
    ("parameters/more", np.zeros(1, np.float32)), ("parameters/3.bias", np.zeros(3, np.float32)),
    ("dropout", []), ("dropout", [[1]]), ("dropout", [[1, -1]]), ("dropout", [[1, 2**64]]),
    ("dropout", [["a", 1]]), ("optimizer/name", "SGD"), ("optimizer/steps", -1),
    ("optimizer/steps", 1.5), ("optimizer/steps", 10**400), ("optimizer/lr", -1.0),
    ("optimizer/lr", "x"), ("optimizer/states", []), ("optimizer/states", 3),
    ("optimizer/states/0", 3), ("optimizer/states/0", []), ("optimizer/states/0/0", (1, 2, 3)),
    ("optimizer/states/0/0", (None, None)), ("optimizer/states/0/0", None),
    ("optimizer/states/0/0", (np.zeros(3), None, None)), ("optimizer", 3)])
def test_60_61_parts_that_do_not_fit(way, value, path):
    net = small_net()
    net.fit(*data(), verbose=0)
    net.save(path)
    fn.load(path)                       # as it is, it is read
    change(path, way, value)
    tracemalloc.start()
    with pytest.raises(fn.ModelFileError, match=r"cannot be read: ."):
        fn.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_58_a_flipped_bit_anywhere(path):
    net = fn.Sequential([fn.Dense(2, 2)])
    net.save(path)
    content = path.read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(fn.ModelFileError):
            fn.load(path)


def test_57_a_file_that_is_cut_or_grew(path):
    fn.Sequential([fn.Dense(2, 2)]).save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(fn.ModelFileError):
            fn.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(fn.ModelFileError):
        fn.load(path)


def test_59_memory_is_bounded_by_the_size_of_the_file(path):
    net = fn.Sequential([fn.Dense(300, 300)])
    net.save(path)
    size = path.stat().st_size
    tracemalloc.start()
    fn.load(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * size
    change(path, "network/layers/0/in_features", 10**9)
    for content in (path.read_bytes(), (2**62).to_bytes(8, "little") + b"{" + bytes(1000)):
        path.write_bytes(content)
        tracemalloc.reset_peak()
        with pytest.raises(fn.ModelFileError):
            fn.load(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    tracemalloc.stop()


@pytest.mark.parametrize("given", ["/dev/zero", "/dev/null"])
def test_59_devices_are_no_files(given):
    with pytest.raises(fn.ModelFileError, match="no file of its own|no safetensors"):
        fn.load(given)


def test_59_a_pipe_is_no_file(path):
    """Nobody writes to it, so to wait for that would take for ever."""
    os.mkfifo(path)
    with pytest.raises(fn.ModelFileError, match="no file of its own"):
        fn.load(path)


def test_65_a_pickle_is_no_model_file(path):
    path.write_bytes(pickle.dumps(small_net()))
    with pytest.raises(fn.ModelFileError):
        fn.load(path)


def test_65_a_pickle_of_an_older_version():
    """The network of network-1.safetensors."""
    expected = json.loads((GOLDEN / "network-1.json").read_text())
    net = pickle.loads((GOLDEN / "network-0.1.pickle").read_bytes())
    x = np.array(expected["x"])
    np.testing.assert_allclose(net.predict(x), expected["predictions"], rtol=1e-12, atol=1e-14)
    loss = net.train_step(x, np.array(expected["y"]))
    np.testing.assert_allclose(loss, expected["next loss"], rtol=1e-12)


@pytest.mark.parametrize("given, kind", [
    ("missing", FileNotFoundError), ("missing/net", FileNotFoundError), (".", IsADirectoryError),
    (None, TypeError), (3.5, TypeError), ("a" * 300, OSError)])
def test_66_paths_that_cannot_be_read_or_written(given, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind):
        fn.load(given)
    if given != "missing":
        with pytest.raises(kind):
            small_net().save(given)
        assert os.listdir() == []


@pytest.mark.parametrize("given", [None, 3.5, "the number of an open file"])
def test_66_what_is_no_path_is_named(given, path):
    """A number would be that of an open file, which is the caller's."""
    with open(path, "wb") as file:
        given = file.fileno() if isinstance(given, str) else given
        for call in (fn.load, small_net().save, fn.callbacks.Checkpoint):
            with pytest.raises(TypeError, match=f"path must be a str, bytes or .*, got {given}"):
                call(given)
        os.fstat(file.fileno())         # still open


def test_66_a_path_may_be_bytes(path):
    net, place = small_net(), os.fsencode(path.with_name("net-\udcff"))
    net.save(place)
    assert os.listdir(os.path.dirname(place)) == [os.path.basename(place)]
    assert bits(fn.load(place)) == bits(net)
    fn.to_c(fn.Sequential([fn.Dense(2, 2)]), os.fsencode(path))
    assert path.read_text().startswith("/*")


# ---- Faults ------------------------------------------------------------------------------------

def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)],
                          capture_output=True, text=True, timeout=60)


def test_63_a_limit_of_file_sizes(path):
    small_net().save(path)
    before = path.read_bytes()
    done = run("""
import resource, signal, sys
import fastnet as fn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    fn.Sequential([fn.Dense(100, 100)]).save(sys.argv[1])
except OSError as error:
    print(error.strerror)
""", path)
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_63_a_full_file_system(path):
    """Where the process may mount one."""
    folder = path.parent / "small"
    folder.mkdir()
    done = run("""
import ctypes, os, sys
import fastnet as fn
folder = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
# A mount of this process alone, which is gone with it.
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None) or libc.mount(
        b"none", folder.encode(), b"tmpfs", 0, b"size=64k"):
    print("skip")
    sys.exit()
path = folder + "/net"
fn.Sequential([fn.Dense(5, 5)]).save(path)
before = open(path, "rb").read()
try:
    fn.Sequential([fn.Dense(200, 200)]).save(path)
except OSError as error:
    print(error.strerror, open(path, "rb").read() == before, os.listdir(folder))
""", folder)
    if done.stdout == "skip\n":
        pytest.skip("needs the right to mount a file system")
    assert done.stdout == "No space left on device True ['net']\n", done.stderr


def test_63_kill_at_random_moments(path):
    """A few of them; scripts/kill_saves.py has hundreds."""
    script = Path(__file__).parents[1] / "scripts" / "kill_saves.py"
    if not script.is_file():
        pytest.skip("needs the source tree")
    done = subprocess.run([sys.executable, str(script), "10"], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


def test_64_a_file_that_is_replaced_or_removed_while_a_network_of_it_lives(path):
    net = small_net()
    net.save(path)
    loaded = fn.load(path)
    fn.Sequential([fn.Dense(5, 3)]).save(path)
    assert bits(loaded) == bits(net)
    os.truncate(path, 0)
    assert loaded.predict(data()[0]).tobytes() == net.predict(data()[0]).tobytes()


def test_64_readers_see_the_old_file_or_the_new_one(path):
    nets = [fn.Sequential([fn.Dense(30, width)]) for width in (10, 20)]
    nets[0].save(path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for net in nets:
                net.save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = {fn.load(path).layers[0].out_features for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert found <= {10, 20} and os.listdir(path.parent) == [path.name]


def test_a_link_stays_one(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    small_net().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and bits(fn.load(path)) == bits(small_net())


def test_files_have_the_usual_permissions(path, tmp_path):
    (tmp_path / "usual").touch()
    small_net().save(path)
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("kind, way, value", [
    (np.random.MT19937, "pos", 625), (np.random.MT19937, "pos", -1),
    (np.random.Philox, "buffer_pos", 5), (np.random.Philox, "buffer_pos", -1)])
def test_59_positions_of_random_numbers(kind, way, value, path):
    """NumPy would take them, and read outside of its buffer."""
    def fit(net, **options):
        net.fit(*data(), epochs=2, rng=np.random.Generator(kind(3)), verbose=0,
                callbacks=[fn.callbacks.Checkpoint(path, **options)])

    fit(small_net())
    fit(small_net(), resume=True)
    state = read_state(path, "network")
    orders = state["fit"]["orders"]
    (orders["state"] if way == "pos" else orders)[way] = value
    write_state(path, "network", state)
    with pytest.raises(fn.ModelFileError, match=f"{way} of random numbers"):
        fit(small_net(), resume=True)


# ---- Every version that was ever released --------------------------------------------------------

def test_62_files_of_released_versions_are_read():
    """Never write them anew: they are what users have."""
    found = sorted(GOLDEN.glob("network-*.safetensors"))
    assert [file.stem for file in found] == ["network-1"]
    for file in found:
        expected = json.loads(file.with_suffix(".json").read_text())
        net = fn.load(file)
        assert repr(net) == expected["layers"] and repr(net.optimizer) == expected["optimizer"]
        assert repr(net.loss) == expected["loss"] and net.optimizer.steps == expected["steps"]
        x = np.array(expected["x"])
        np.testing.assert_allclose(net.predict(x), expected["predictions"], rtol=1e-12, atol=1e-14)
        loss = net.train_step(x, np.array(expected["y"]))
        np.testing.assert_allclose(loss, expected["next loss"], rtol=1e-12)


def test_62_checkpoints_of_released_versions_are_gone_on_from(path):
    expected = json.loads((GOLDEN / "checkpoint-1.json").read_text())
    path.write_bytes((GOLDEN / "checkpoint-1.safetensors").read_bytes())
    net = fn.Sequential([fn.Dense(4, 5, activation="tanh", dtype="float64"), fn.Dropout(0.2),
                         fn.Dense(5, 3, dtype="float64")])
    net.compile(fn.SGD(0.1, 0.9), metrics=["accuracy"])
    history = net.fit(
        np.array(expected["x"]), np.array(expected["y"]), epochs=5, batch_size=10, rng=4, verbose=0,
        callbacks=[fn.callbacks.EarlyStopping("loss", patience=4),
                   fn.callbacks.Checkpoint(path, resume=True)])
    np.testing.assert_allclose(history.loss, expected["loss"], rtol=1e-12)


def test_62_estimators_of_released_versions_are_read():
    pytest.importorskip("sklearn")
    expected = json.loads((GOLDEN / "estimator-1.json").read_text())
    found = fn.load(GOLDEN / "estimator-1.safetensors")
    assert (found.loss_, found.classes_.tolist()) == (expected["loss"], expected["classes"])
    x, y = np.array(expected["x"]), np.array(expected["y"])
    np.testing.assert_allclose(found.predict_proba(x), expected["probabilities"], rtol=1e-12)
    found.partial_fit(x, y)
    np.testing.assert_allclose(found.loss_, expected["next loss"], rtol=1e-12)


def test_an_estimator_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastnet.sklearn", None)
    monkeypatch.delattr(fn, "sklearn", raising=False)
    with pytest.raises(ImportError, match="estimator, which needs scikit-learn"):
        fn.load(GOLDEN / "estimator-1.safetensors")


@pytest.mark.parametrize("version", ["0", "2", "10", "x"])
def test_62_other_versions_are_named(version, path, monkeypatch):
    monkeypatch.setattr(_state_file, "VERSION", version)
    small_net().save(path)
    monkeypatch.undo()
    with pytest.raises(fn.ModelFileError, match=f"format version {version}; .* reads 1"):
        fn.load(path)


# ---- Estimators --------------------------------------------------------------------------------

def make_estimator(kind, **options):
    sklearn = pytest.importorskip("fastnet.sklearn")
    return getattr(sklearn, kind)(hidden_layer_sizes=(6, 4), random_state=1, max_iter=8, **options)


def some_targets(kind, n=60):
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, n)
    return {"labels": y, "two labels": y > 0, "one label": 0 * y, "words": np.array(list("abc"))[y],
            "objects": np.array(["x", "yy", "zzz"], object)[y],
            "several": rng.integers(0, 2, (n, 4)), "numbers": rng.normal(size=n),
            "rows": rng.normal(size=(n, 2))}[kind]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("targets", [
    "labels", "two labels", "one label", "words", "objects", "several", "numbers", "rows"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_estimators_come_back_and_go_on(targets, solver, dtype, path):
    kind = "MLPRegressor" if targets in ("numbers", "rows") else "MLPClassifier"
    own = make_estimator(kind, solver=solver)
    x, y = np.random.default_rng(2).normal(size=(60, 5)).astype(dtype), some_targets(targets)
    own.fit(x, y)
    own.save(path)
    other = fn.load(path)
    assert other.get_params() == own.get_params() and type(other) is type(own)
    np.testing.assert_array_equal(other.predict(x), own.predict(x))
    for name in ("classes_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "n_layers_",
                 "n_outputs_", "out_activation_", "n_features_in_"):
        assert hasattr(own, name) == hasattr(other, name)
        if hasattr(own, name):
            np.testing.assert_array_equal(getattr(other, name), getattr(own, name))
    if kind == "MLPClassifier":
        assert other.classes_.dtype == own.classes_.dtype
        np.testing.assert_array_equal(other.predict_proba(x), own.predict_proba(x))
    if solver != "lbfgs":
        for one in (own, other):
            one.partial_fit(x, y)
        for a, b in zip(own.coefs_, other.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        assert own.loss_ == other.loss_


@pytest.mark.filterwarnings("ignore")
def test_parameters_of_estimators(path):
    options = {"class_weight": {0: 1.0, 1: 2.5, 2: 1.0}, "activation": ["gelu", "logistic"],
               "dropout": 0.1, "layer_norm": True, "weight_decay": 0.1, "clip_norm": 1.0,
               "dtype": np.float32, "early_stopping": True, "batch_size": 7}
    own = make_estimator("MLPClassifier", **options)
    x = np.random.default_rng(2).normal(size=(60, 5))
    own.fit(x, some_targets("labels"))
    own.save(path)
    other = fn.load(path)
    assert other.get_params() == own.get_params() | {"dtype": "float32"}
    assert other.validation_scores_ == own.validation_scores_
    assert other.validation_loss_curve_ == own.validation_loss_curve_
    assert vars(other.history_) == vars(own.history_)
    own.set_params(random_state=np.random.RandomState(7))
    own.save(path)
    other = fn.load(path)
    assert other.random_state.randint(2**30) == np.random.RandomState(7).randint(2**30)
    own.set_params(callbacks=[fn.callbacks.EarlyStopping("loss")])
    with pytest.raises(ValueError, match="callbacks cannot be saved"):
        own.save(path)


def test_an_estimator_that_was_not_fitted(path):
    own = make_estimator("MLPRegressor", loss="poisson")
    own.save(path)
    other = fn.load(path)
    assert other.get_params() == own.get_params() and not hasattr(other, "coefs_")


@pytest.mark.filterwarnings("ignore")
def test_names_of_features(path):
    pandas = pytest.importorskip("pandas")
    own = make_estimator("MLPClassifier")
    x = pandas.DataFrame(np.random.default_rng(2).normal(size=(60, 2)), columns=["a", "b"])
    own.fit(x, some_targets("words"))
    own.save(path)
    other = fn.load(path)
    assert list(other.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(other.predict(x), own.predict(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way, value", [
    ("estimator", None), ("estimator/class", "SVC"), ("estimator/parameters/more", 1),
    ("estimator/parameters", 3), ("estimator/books/n_features_in_", 6),
    ("estimator/books/n_outputs_", 4), ("estimator/books/n_outputs_", None),
    ("estimator/books/classes_", np.arange(4)), ("estimator/books/classes_", 3),
    ("estimator/books/predict", 1), ("estimator/books/out_activation_", "eval"),
    ("estimator/books/n_iter_", "3"), ("estimator/books/n_iter_", None),
    ("estimator/books/t_", -1), ("estimator/books/n_layers_", 2.5),
    ("estimator/books/n_features_in_", 5.0), ("estimator/books/loss_", []),
    ("estimator/books/loss_curve_", 3), ("estimator/books/loss_curve_", ["a"]),
    ("estimator/books/loss_curve_", None), ("estimator/books/best_loss_", "x"),
    ("estimator/books/validation_loss_curve_", {"array": [], "dtype": "U1"}),
    ("estimator/books/validation_scores_", "none"), ("estimator/books/out_activation_", []),
    ("estimator/books/best_validation_score_", [1]),
    ("estimator/books/_no_improvement_count", "1"),
    ("estimator/books/feature_names_in_", [1, 2]),
    ("estimator/books/feature_names_in_", np.zeros(5)),
    ("estimator/books/classes_", np.zeros(3)), ("estimator/books/classes_", np.zeros((3, 1))),
    ("estimator/history", 3), ("estimator/history/loss", "x"), ("estimator/history/plot", []),
    ("estimator/y_type", "multilabel-indicator!"), ("estimator/y_type", None),
    ("estimator/random_state", 3), ("estimator/random_state", {"state": {"pos": 10**6}}),
    ("network/layers", lambda layers: layers[1:]), ("network/layers", lambda layers: layers[:-1]),
    ("optimizer/name", "_SGD"), ("optimizer/steps", -1), ("optimizer/options", 3),
    ("optimizer/options/more", 1), ("optimizer/options/solver", "sgd"),
    ("optimizer/options/power_t", "1"), ("optimizer/options/momentum", 5)])
def test_estimators_whose_parts_do_not_fit(way, value, path):
    own = make_estimator("MLPClassifier")
    own.fit(np.random.default_rng(2).normal(size=(60, 5)), some_targets("labels")).save(path)
    change(path, way, value, kind="estimator")
    with pytest.raises(fn.ModelFileError):
        fn.load(path)


@pytest.mark.filterwarnings("ignore")
def test_59_text_is_as_wide_as_it_is(path):
    """And not as a file claims."""
    own = make_estimator("MLPClassifier")
    own.fit(np.random.default_rng(2).normal(size=(60, 5)), some_targets("words")).save(path)
    change(path, "estimator/books/classes_/dtype", "<U100000000", kind="estimator")
    tracemalloc.start()
    assert fn.load(path).classes_.dtype == own.classes_.dtype
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
