"""Checked entry to the kernels: every argument is examined before native code starts.

Each function takes NumPy arrays of one dtype (float32 or float64), C-contiguous, aligned and in
native byte order; anything else is an error here, and the layers above convert it beforehand.
Outputs may be handed over to be written to, else they are allocated; they are returned. An output
must not overlap an input. Arrays are checked by hand through NumPy's C interface, which costs a
few nanoseconds where a typed memoryview costs a hundred.

On import the module takes the kernels of the best instruction set that this processor offers, or
the one that the environment variable FASTNET_ISA names.
"""
import importlib
import os

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pystate cimport PyThreadState
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, frexp, ldexp, pow, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from fastnet import _convert
from fastnet._parts cimport (
    ACTIVATION, DENSE, RELU, SHARED_WORK, SURE_WORK, WORK_CLASSES, Kind, Operation, Work, back,
    through, tuner_of, weights_back)
from fastnet._pool cimport allowed
from fastnet._table cimport (
    ADAM, BINARY_CROSS_ENTROPY, ELU, GELU, GELU_TANH, HUBER, LEAKY_RELU, MEAN_SQUARED_ERROR,
    PLAIN_SGD, POISSON, RMSPROP, SGD, SIGMOID, SILU, TANH, KernelTable, Update, real)
from fastnet._tuner cimport Tuner, seconds_now, threads_for, took

cnp.import_array()

cdef extern from "Python.h":
    object PyObject_CallObject(object function, object arguments)
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *thread)
    const Py_ssize_t PY_SSIZE_T_MIN

cdef extern from "_machine.h":
    const unsigned long FLUSH       # the bits of the mode in which subnormal numbers count as 0
    unsigned long fp_mode()
    void set_fp_mode(unsigned long mode)
    int cpu_has_x86_64_v3()
    int cpu_has_x86_64_v4()
    const char *VERSION "__VERSION__"


# ---- The kernels in use ----------------------------------------------------------------------

cdef const KernelTable *float32_kernels
cdef const KernelTable *float64_kernels


def available_isas():
    """Return the instruction sets that this processor and this build offer, best first."""
    isas = ["baseline"]
    if cpu_has_x86_64_v3():
        isas.insert(0, "x86-64-v3")
    if cpu_has_x86_64_v4():
        isas.insert(0, "x86-64-v4")
    return tuple(isas)


def compiler():
    """Return name and version of the compiler that built this module."""
    version = VERSION.decode()          # clang's names it, gcc's is the bare number
    return f"gcc {version}" if version[0].isdigit() else version


cdef const KernelTable *load(str dtype, str isa) except NULL:
    name = f"fastnet._kernels_{dtype}_{isa}".replace("-", "_")
    capsule = importlib.import_module(name).table
    return <const KernelTable *>PyCapsule_GetPointer(capsule, "fastnet.KernelTable")


isa = os.environ.get("FASTNET_ISA") or available_isas()[0]
if isa not in available_isas():
    raise ImportError(
        f"FASTNET_ISA is {isa!r}, but available here are: {', '.join(available_isas())}")
float32_kernels = load("float32", isa)
float64_kernels = load("float64", isa)


# ---- Around every call of a kernel -----------------------------------------------------------

cdef enum:
    LONG_WORK = 500_000     # multiplications: 2 to 10 us, against 0.1 us to let the GIL go
    PER_ENTRY = 16          # multiplications that take as long as a pass over one entry of an array
    HOLD = 0                # keeps the GIL: checked labels, which are indices, must not change


cdef Caller enter(double multiplications) noexcept:
    """Treat subnormal numbers as 0, and let the GIL go if the work is long, until `leave`.

    In between, nothing may be done but to call kernels and to read fields of arrays.
    """
    cdef Caller caller
    caller.mode = fp_mode()
    set_fp_mode(caller.mode | FLUSH)
    caller.thread = PyEval_SaveThread() if multiplications >= LONG_WORK else NULL
    return caller


cdef inline Caller enter_pass(cnp.ndarray array) noexcept:
    """As `enter`, for a pass over an array."""
    return enter(<double>PER_ENTRY * cnp.PyArray_SIZE(array))


cdef void leave(Caller caller) noexcept:
    if caller.thread != NULL:
        PyEval_RestoreThread(caller.thread)
    set_fp_mode(caller.mode)


# ---- Work on several threads -----------------------------------------------------------------

cdef enum Purpose:              # of work that is measured, each for itself
    FORWARD
    BACKWARD
    ENTRIES
    PURPOSES

cdef Tuner tuners[PURPOSES][WORK_CLASSES]
cdef int forced = 0

cdef struct Sharing:
    int threads                 # that are to work
    Tuner *tuner                # which knows, or NULL
    double work, begin
    Caller caller


def force_threads(int threads):
    """Let so many threads work in every call, or, if 0, as many as pay; for tests."""
    global forced
    forced = threads


cdef inline Sharing begin(Purpose purpose, double multiplications) noexcept:
    """As `enter`, with the number of threads that are to work, until `end`."""
    cdef Sharing s
    cdef int most = forced
    s.threads, s.tuner, s.work = max(forced, 1), NULL, multiplications
    if forced == 0 and multiplications >= SHARED_WORK:
        most = allowed()
        if most > 1:
            s.tuner = tuner_of(tuners[<int>purpose], multiplications)
            s.threads = threads_for(s.tuner, most, multiplications >= SURE_WORK)
            s.begin = seconds_now()
    s.caller = enter(multiplications)
    return s


cdef inline void end(Sharing s) noexcept:
    cdef double now
    leave(s.caller)
    if s.tuner != NULL:
        now = seconds_now()
        took(s.tuner, now - s.begin, s.work, now)


cdef inline Work work_of(
        Operation *op, Kind kind, const KernelTable *kernels, Py_ssize_t itemsize,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """An operation on n rows, without its arrays."""
    cdef Work w
    memset(op, 0, sizeof(op[0]))
    memset(&w, 0, sizeof(w))
    op.kind, op.n_in, op.n_out = kind, n_in, n_out
    w.kernels, w.op, w.itemsize, w.n = kernels, op, itemsize, n
    w.x_row, w.y_row = n_in, n_out
    return w


# ---- Checks ----------------------------------------------------------------------------------

cdef enum:
    FLOAT32 = cnp.NPY_FLOAT32
    FLOAT64 = cnp.NPY_FLOAT64
    ANY_DTYPE = -1
    ANY_NDIM = -1


cdef const KernelTable *kernels_of(int dtype) noexcept:
    return float32_kernels if dtype == FLOAT32 else float64_kernels


cdef inline const KernelTable *kernels_for(cnp.ndarray array) noexcept:
    return kernels_of(cnp.PyArray_TYPE(array))


cdef cnp.ndarray floats(object value, str name, int ndim, int dtype):
    """`value` as an ndarray, if it is one that kernels take; else TypeError or ValueError."""
    if not cnp.PyArray_CheckExact(value):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(value).__name__}")
    cdef cnp.ndarray array = value
    cdef int found = cnp.PyArray_TYPE(array)
    if not (found == FLOAT32 or found == FLOAT64) or not (dtype == ANY_DTYPE or dtype == found):
        wanted = "float32 or float64" if dtype == ANY_DTYPE else cnp.PyArray_DescrFromType(dtype)
        raise ValueError(f"{name} must be {wanted}, got {array.dtype}")
    if not cnp.PyArray_ISCARRAY_RO(array):
        raise ValueError(f"{name} must be C-contiguous, aligned and in native byte order")
    if not (ndim == ANY_NDIM or ndim == cnp.PyArray_NDIM(array)):
        raise ValueError(f"{name} must have {ndim} dimension{'s' if ndim > 1 else ''}, "
                         f"got {cnp.PyArray_NDIM(array)}")
    return array


cdef cnp.ndarray matrix(object value, str name, int dtype):
    """As `floats`, for a matrix with at least one column."""
    array = floats(value, name, 2, dtype)
    if cnp.PyArray_DIM(array, 1) == 0:
        raise ValueError(f"{name} must have at least 1 column, got 0")
    return array


cdef int check_shape(cnp.ndarray array, str name, int ndim, const cnp.npy_intp *dims) except -1:
    """ValueError unless the array, of `ndim` dimensions, has these lengths."""
    for i in range(ndim):
        if cnp.PyArray_DIM(array, i) != dims[i]:
            raise ValueError(f"{name} must have shape {as_tuple(ndim, dims)}, got "
                             f"{as_tuple(ndim, cnp.PyArray_DIMS(array))}")
    return 0


cdef tuple as_tuple(int ndim, const cnp.npy_intp *dims):
    return tuple([dims[i] for i in range(ndim)])


cdef cnp.ndarray like(object value, str name, cnp.ndarray model):
    """As `floats`, with the dtype and shape of another array."""
    array = floats(value, name, cnp.PyArray_NDIM(model), cnp.PyArray_TYPE(model))
    check_shape(array, name, cnp.PyArray_NDIM(model), cnp.PyArray_DIMS(model))
    return array


cdef cnp.ndarray output(object value, str name, int ndim, cnp.npy_intp *dims, int dtype):
    """The array to write to: `value` if it fits, or a new one for None."""
    if value is None:
        return cnp.PyArray_EMPTY(ndim, dims, dtype, 0)
    array = floats(value, name, ndim, dtype)
    check_shape(array, name, ndim, dims)
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{name} is read-only, but the result is written to it")
    return array


cdef cnp.ndarray output_like(object value, str name, cnp.ndarray model):
    return output(value, name, cnp.PyArray_NDIM(model), cnp.PyArray_DIMS(model),
                  cnp.PyArray_TYPE(model))


cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef char *a_start = cnp.PyArray_BYTES(a)
    cdef char *b_start = cnp.PyArray_BYTES(b)
    return a_start < b_start + cnp.PyArray_NBYTES(b) and b_start < a_start + cnp.PyArray_NBYTES(a)


cdef int apart(cnp.ndarray out, str name, cnp.ndarray a, str a_name,
               cnp.ndarray b=None, str b_name="", cnp.ndarray c=None, str c_name="") except -1:
    """ValueError if an output shares memory with another array. Any of them may be None."""
    if out is not None:
        if a is not None and overlap(out, a):
            raise ValueError(f"{name} must not overlap {a_name}")
        if b is not None and overlap(out, b):
            raise ValueError(f"{name} must not overlap {b_name}")
        if c is not None and overlap(out, c):
            raise ValueError(f"{name} must not overlap {c_name}")
    return 0


cdef int check_features(cnp.ndarray array, str name, cnp.npy_intp n_features) except -1:
    if cnp.PyArray_DIM(array, 1) != n_features:
        raise ValueError(
            f"{name} must have {n_features} features, got {cnp.PyArray_DIM(array, 1)}")
    return 0


cdef int check_rows(cnp.ndarray array, str name, cnp.npy_intp n) except -1:
    if cnp.PyArray_DIM(array, 0) != n:
        raise ValueError(f"{name} must have {n} rows, got {cnp.PyArray_DIM(array, 0)}")
    return 0


cdef inline real *pointer(cnp.ndarray array) noexcept:
    """Where the array's numbers begin; NULL for None."""
    return <real *>cnp.PyArray_DATA(array) if array is not None else NULL


cdef Update sgd_numbers(double rate, double momentum, bint nesterov) noexcept:
    """v = momentum v + g, and the step is v, or g + momentum v if nesterov."""
    cdef Update u
    u.rule = SGD
    u.rate, u.momentum, u.gain = rate, momentum, 1
    u.look, u.direct = momentum if nesterov else 1.0, 1.0 if nesterov else 0.0
    u.scale, u.clip, u.decay, u.shrink = 1, INFINITY, 0, 1
    u.memory = u.eps = 0
    u.root = 1
    return u


cdef Update plain_or_not(Update u) noexcept nogil:
    """The same numbers, with the rule that takes the least work."""
    if (u.rule == SGD and u.gain == 1 and u.look == 1 and u.direct == 0 and u.scale == 1
            and u.clip == INFINITY and u.decay == 0 and u.shrink == 1):
        u.rule = PLAIN_SGD
    return u


cdef int check_rate(double lr, int dtype) except -1:
    """ValueError if a learning rate is more than the dtype can say."""
    if lr > FLT_MAX and dtype == FLOAT32:
        raise ValueError(f"lr must be in the interval [0, {FLT_MAX:.4g}] for float32, got {lr}")
    return 0


def adam_rates(list lrs, Py_ssize_t taken, Py_ssize_t steps, double beta1, double beta2,
               double own_decay, double decay, bint corrected=True):
    """Return rate, root, shrink and decay of Adam's next steps, as `Update` in _table.pxd has them.

    lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - lr * own_decay and decay.

    Unless `corrected`, epsilon is added to the root of a mean that is not, as in section 2 of
    Kingma and Ba: lr * sqrt(1 - beta2^t) / (1 - beta1^t) and 1.

    Parameters
    ----------
    lrs : list of float
        Of each step; the last stands for more.
    taken, steps : int
        Steps that were taken before, and that are to come.
    beta1, beta2, own_decay, decay : float
    corrected : bool

    Returns
    -------
    rates : ndarray of float64 (steps, 4)
    """
    cdef cnp.npy_intp *dims = [steps, 4]
    cdef cnp.ndarray found = cnp.PyArray_EMPTY(2, dims, cnp.NPY_FLOAT64, 0)
    cdef double *rates = <double *>cnp.PyArray_DATA(found)
    cdef Py_ssize_t i, known = len(lrs)
    cdef double lr = 0, t
    for i in range(steps):
        if i < known:
            lr = lrs[i]
        t = taken + 1 + i
        rates[4 * i] = lr / (1 - pow(beta1, t))
        rates[4 * i + 1] = 1 / sqrt(1 - pow(beta2, t))
        if not corrected:
            rates[4 * i] /= rates[4 * i + 1]
            rates[4 * i + 1] = 1
        rates[4 * i + 2] = 1 - lr * own_decay
        rates[4 * i + 3] = decay
    return found


def as_floats(value, str name, cnp.dtype dtype=None):
    """Return `value` itself if kernels take it, else a converted copy.

    Parameters
    ----------
    value : array_like
    name : str
        What messages call it.
    dtype : numpy.dtype, optional
        float32 or float64; by default `value` stays what it is of the two, float16 becomes float32
        and everything else float64.

    Raises
    ------
    TypeError, ValueError
        As `fastnet._convert.floats`.
    """
    cdef int found
    if cnp.PyArray_CheckExact(value) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value):
        found = cnp.PyArray_TYPE(<cnp.ndarray>value)
        if dtype is None:
            if found == FLOAT32 or found == FLOAT64:
                return value
        elif found == dtype.type_num:
            return value
    return _convert.floats(value, name, dtype)


def at_once(list calls):
    """Make calls of compiled functions, `(function, arguments)` each, one after the other.

    Signals are looked for between what Python code does: Ctrl-C comes before all, or after.
    """
    cdef tuple call
    for call in calls:
        PyObject_CallObject(call[0], call[1])


def counts(cnp.ndarray taken, steps):
    """Return whether the int64 in an array is this number; for when memory has run out."""
    return (<int64_t *>cnp.PyArray_DATA(taken))[0] == <int64_t>steps


def same_objects(list a, list b):
    """Return whether two lists hold the same objects, whatever these take for equal."""
    cdef Py_ssize_t i
    if len(a) != len(b):
        return False
    for i in range(len(a)):
        if a[i] is not b[i]:
            return False
    return True


def check_out(out, model):
    """Refuse an `out` that is unlike `model` or shares its memory, before anything is written.

    Parameters
    ----------
    out : ndarray or None
    model : ndarray
        An input with the shape and dtype of the result.

    Raises
    ------
    TypeError, ValueError
        As `relu_forward` of `model` into `out`.
    """
    cdef cnp.ndarray like_this = floats(model, "model", ANY_NDIM, ANY_DTYPE)
    if out is not None:
        apart(output_like(out, "out", like_this), "out", like_this, "the input")


def as_target(value, scores, ignored=None):
    """Return `value` itself if it is labels or rows that losses on `scores` take, else a copy.

    Raises
    ------
    TypeError, ValueError
        As `fastnet._convert.target`.
    """
    cdef cnp.ndarray array
    cdef cnp.ndarray model = matrix(scores, "scores", ANY_DTYPE)
    if cnp.PyArray_CheckExact(value):
        array = value
        if cnp.PyArray_ISCARRAY_RO(array):
            if cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_TYPE(array) == cnp.NPY_INTP:
                return value
            if cnp.PyArray_NDIM(array) == 2 and cnp.PyArray_TYPE(array) == cnp.PyArray_TYPE(model):
                return value
    return _convert.target(value, cnp.PyArray_DIM(model, 1), model.dtype, ignored)


# ---- Dense -----------------------------------------------------------------------------------

def dense_forward(X, W, b=None, Z=None, bint relu=False):
    """Z := X W + b, then max(Z, 0) if `relu`.

    Parameters
    ----------
    X : ndarray (n, n_in)
    W : ndarray (n_in, n_out)
    b : ndarray (n_out,), optional
    Z : ndarray (n, n_out), optional
        Overwritten.
    relu : bool

    Returns
    -------
    Z : ndarray (n, n_out)

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take, shapes that do not fit, Z overlapping an input.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE)
    cdef int dtype = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray w = matrix(W, "W", dtype)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0)
    cdef cnp.npy_intp n_in = cnp.PyArray_DIM(w, 0), n_out = cnp.PyArray_DIM(w, 1)
    cdef cnp.npy_intp *dims = [n, n_out]
    cdef cnp.ndarray bias = None
    check_features(x, "X", n_in)
    if b is not None:
        bias = floats(b, "b", 1, dtype)
        check_shape(bias, "b", 1, &n_out)
    cdef cnp.ndarray z = output(Z, "Z", 2, dims, dtype)
    apart(z, "Z", x, "X", w, "W", bias, "b")
    cdef Operation op
    cdef Work work
    cdef Sharing s = begin(FORWARD, <double>n * n_in * n_out)
    if s.threads == 1:
        kernels_for(x).dense_forward(
            pointer(x), pointer(w), pointer(bias), pointer(z), n, n_in, n_out, relu, n, 0, n_out)
    else:
        work = work_of(&op, DENSE, kernels_for(x), cnp.PyArray_ITEMSIZE(x), n, n_in, n_out)
        op.relu = relu
        work.x, work.weight, work.bias, work.y = pointer(x), pointer(w), pointer(bias), pointer(z)
        through(&work, 1, n, s.threads, False)
    end(s)
    return z


def dense_backward(X, W, dZ, dX=None, dW=None, db=None, bint input_gradient=True,
                   bint relu=False, bint add=False):
    """dX := dZ W^T,   dW := X^T dZ,   db := sum of the rows of dZ; each may be left out.

    Parameters
    ----------
    X : ndarray (n, n_in)
        As it was given to `dense_forward`.
    W : ndarray (n_in, n_out)
    dZ : ndarray (n, n_out)
        Gradient of the loss by Z.
    dX : ndarray (n, n_in), optional
        Overwritten; allocated if not given.
    dW : ndarray (n_in, n_out), optional
        Overwritten; left out if not given.
    db : ndarray (n_out,), optional
        Overwritten; left out if not given.
    input_gradient : bool
        False leaves dX out.
    relu : bool
        X is the output of a ReLU, and dX the gradient by its input: 0 where X <= 0.
    add : bool
        Add to what dW and db hold, in place of overwriting it.

    Returns
    -------
    dX : ndarray (n, n_in), or None if left out

    Raises
    ------
    TypeError, ValueError
        As `dense_forward`; also for two outputs that overlap.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE)
    cdef int dtype = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray w = matrix(W, "W", dtype), dz = matrix(dZ, "dZ", dtype)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0)
    cdef cnp.npy_intp n_in = cnp.PyArray_DIM(w, 0), n_out = cnp.PyArray_DIM(w, 1)
    cdef cnp.ndarray dx = None, dw = None, bias_gradient = None
    check_features(x, "X", n_in)
    check_features(dz, "dZ", n_out)
    check_rows(dz, "dZ", n)
    if dW is not None:
        dw = output_like(dW, "dW", w)
    if db is not None:
        bias_gradient = output(db, "db", 1, &n_out, dtype)
    if input_gradient:
        dx = output_like(dX, "dX", x)
    elif dX is not None:
        raise ValueError("dX is given, but input_gradient is False")
    apart(dx, "dX", x, "X", w, "W", dz, "dZ")
    apart(dw, "dW", x, "X", w, "W", dz, "dZ")
    apart(bias_gradient, "db", x, "X", w, "W", dz, "dZ")
    apart(dx, "dX", dw, "dW", bias_gradient, "db")
    apart(dw, "dW", bias_gradient, "db")
    cdef Operation op
    cdef Work work
    cdef Sharing s = begin(BACKWARD, 2.0 * n * n_in * n_out)
    if s.threads == 1 or dw is None:
        kernels_for(x).dense_backward(
            pointer(x), pointer(w), pointer(dz), pointer(dx), pointer(dw), pointer(bias_gradient),
            n, n_in, n_out, relu, add)
    else:
        work = work_of(&op, DENSE, kernels_for(x), cnp.PyArray_ITEMSIZE(x), n, n_in, n_out)
        op.after_relu = relu
        work.x, work.weight, work.dy = pointer(x), pointer(w), pointer(dz)
        work.dx, work.gradient, work.bias = pointer(dx), pointer(dw), pointer(bias_gradient)
        work.add = add
        if dx is not None:
            back(&work, s.threads)
        weights_back(&work, s.threads)
    end(s)
    return dx


def pack_weights(W, packed=None):
    """packed := W, in the order in which `dense_forward_packed` reads it.

    Parameters
    ----------
    W : ndarray (n_in, n_out)
    packed : ndarray, as returned by an earlier call, optional
        Overwritten.

    Returns
    -------
    packed : ndarray, with one dimension

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take, a `packed` of another size, `packed` overlapping W.
    """
    cdef cnp.ndarray w = matrix(W, "W", ANY_DTYPE)
    cdef cnp.npy_intp n_in = cnp.PyArray_DIM(w, 0), n_out = cnp.PyArray_DIM(w, 1)
    cdef cnp.npy_intp size = kernels_for(w).pack_weights(NULL, NULL, n_in, n_out)
    cdef cnp.ndarray p = output(packed, "packed", 1, &size, cnp.PyArray_TYPE(w))
    apart(p, "packed", w, "W")
    kernels_for(w).pack_weights(pointer(w), pointer(p), n_in, n_out)
    return p


def dense_forward_packed(X, packed, Py_ssize_t n_out, b=None, Z=None, bint relu=False):
    """Z := X W + b, then max(Z, 0) if `relu`, with weights packed once for repeated use.

    Parameters
    ----------
    X : ndarray (n, n_in)
    packed : ndarray
        What `pack_weights` made of W (n_in, n_out).
    n_out : int
    b : ndarray (n_out,), optional
    Z : ndarray (n, n_out), optional
        Overwritten.
    relu : bool

    Returns
    -------
    Z : ndarray (n, n_out)

    Raises
    ------
    TypeError, ValueError
        As `dense_forward`; also for packed weights of another size.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE)
    cdef int dtype = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray p = floats(packed, "packed", 1, dtype)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0), n_in = cnp.PyArray_DIM(x, 1)
    cdef cnp.npy_intp size
    cdef cnp.npy_intp *dims = [n, n_out]
    cdef cnp.ndarray bias = None
    if n_out < 1:
        raise ValueError(f"n_out must be at least 1, got {n_out}")
    size = kernels_for(x).pack_weights(NULL, NULL, n_in, n_out)
    check_shape(p, "packed", 1, &size)
    if b is not None:
        bias = floats(b, "b", 1, dtype)
        check_shape(bias, "b", 1, &dims[1])
    cdef cnp.ndarray z = output(Z, "Z", 2, dims, dtype)
    apart(z, "Z", x, "X", p, "packed", bias, "b")
    cdef Caller caller = enter(<double>n * n_in * n_out)
    kernels_for(x).dense_forward_packed(
        pointer(x), pointer(p), pointer(bias), pointer(z), n, n_in, n_out, relu, n, 0, n_out)
    leave(caller)
    return z


def dense_sgd_update(X, dZ, W, V=None, dX=None, *, double lr, double momentum=0.0,
                     bint nesterov=False, bint relu=False, Py_ssize_t rows=0):
    """dX as `dense_backward`, and `sgd_update` of W and V with dW := X^T dZ, some rows at a time.

    The same numbers as `dense_backward` and `sgd_update`, to the last bit, without going to memory
    with dW in between.

    Parameters
    ----------
    X : ndarray (n, n_in)
    dZ : ndarray (n, n_out)
    W : ndarray (n_in, n_out)
        Changed in place.
    V : ndarray (n_in, n_out), optional
        Changed in place. Without it there is no momentum.
    dX : ndarray (n, n_in), optional
        Overwritten; left out if not given.
    lr, momentum : float
    nesterov : bool
    relu : bool
        X is the output of a ReLU, and dX the gradient by its input: 0 where X <= 0.
    rows : int
        So many at a time; by default as many as suit the caches.

    Raises
    ------
    TypeError, ValueError
        Arrays that kernels do not take, shapes that do not fit, read-only W or V, arrays that
        overlap, an lr beyond float32 for such arrays.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE)
    cdef int dtype = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray dz = matrix(dZ, "dZ", dtype)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0)
    cdef cnp.npy_intp n_in = cnp.PyArray_DIM(x, 1), n_out = cnp.PyArray_DIM(dz, 1)
    cdef cnp.npy_intp *dims = [n_in, n_out]
    cdef cnp.ndarray v = None, dx = None
    check_rows(dz, "dZ", n)
    if W is None:
        raise TypeError("W must be a numpy.ndarray, got None")
    cdef cnp.ndarray w = output(W, "W", 2, dims, dtype)
    if V is not None:
        v = output(V, "V", 2, dims, dtype)
    if dX is not None:
        dx = output_like(dX, "dX", x)
    apart(w, "W", x, "X", dz, "dZ", v, "V")
    apart(v, "V", x, "X", dz, "dZ")
    apart(dx, "dX", x, "X", dz, "dZ", w, "W")
    apart(dx, "dX", v, "V")
    check_rate(lr, dtype)
    if rows <= 0:
        rows = 32
    cdef cnp.npy_intp size = min(rows, n_in) * n_out
    cdef cnp.ndarray dw = cnp.PyArray_EMPTY(1, &size, dtype, 0)
    cdef Update u = plain_or_not(sgd_numbers(lr, momentum, nesterov))
    cdef Caller caller = enter(<double>n * n_in * n_out)
    if dx is not None and n != 1:
        kernels_for(x).input_gradient(pointer(w), pointer(dz), pointer(x) if relu else NULL,
                                      pointer(dx), n, n_in, n_out, n, 0, n_in)
    kernels_for(x).dense_update(
        pointer(x), pointer(dz), pointer(dx), pointer(dw), pointer(w), pointer(v), NULL, NULL,
        n, n_in, n_out, relu, 0, n_in, rows, &u)
    leave(caller)


# ---- Element by element ----------------------------------------------------------------------

def exp_forward(X, Y=None):
    """Y := exp(X), for arrays of any shape.

    Within 1 unit in the last place where multiplication and addition are fused, else within 1.3.

    Parameters
    ----------
    X : ndarray
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).exp_forward(pointer(x), pointer(y), cnp.PyArray_SIZE(x))
    leave(caller)
    return y


def log_forward(X, Y=None):
    """Y := log(X), for arrays of any shape; -Inf for 0, NaN below.

    Within 0.5001 units in the last place in float32, within 3 in float64.

    Parameters
    ----------
    X : ndarray
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).log_forward(pointer(x), pointer(y), cnp.PyArray_SIZE(x))
    leave(caller)
    return y


cdef inline void entries_forward(
        cnp.ndarray x, cnp.ndarray y, Kind kind, int function=0, double alpha=0) noexcept:
    """What is done to each entry by itself."""
    cdef Operation op
    cdef Work w
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x)
    cdef Sharing s = begin(ENTRIES, <double>PER_ENTRY * size)
    if s.threads > 1:
        w = work_of(&op, kind, kernels_for(x), cnp.PyArray_ITEMSIZE(x), size, 1, 1)
        op.function, op.factor = function, alpha
        w.x, w.y = pointer(x), pointer(y)
        through(&w, 1, size, s.threads, False)
    elif kind == RELU:
        kernels_for(x).relu_forward(pointer(x), pointer(y), size)
    else:
        kernels_for(x).activation_forward(pointer(x), pointer(y), size, function, alpha)
    end(s)


cdef inline void entries_backward(
        cnp.ndarray x, cnp.ndarray y, cnp.ndarray dy, cnp.ndarray dx, Kind kind,
        int function=0, double alpha=0) noexcept:
    """Its mirror."""
    cdef Operation op
    cdef Work w
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x)
    cdef Sharing s = begin(ENTRIES, <double>PER_ENTRY * size)
    if s.threads > 1:
        w = work_of(&op, kind, kernels_for(x), cnp.PyArray_ITEMSIZE(x), size, 1, 1)
        op.function, op.factor = function, alpha
        w.x, w.y, w.dy, w.dx = pointer(x), pointer(y), pointer(dy), pointer(dx)
        back(&w, s.threads)
    elif kind == RELU:
        kernels_for(x).relu_backward(pointer(x), pointer(dy), pointer(dx), size)
    else:
        kernels_for(x).activation_backward(
            pointer(x), pointer(y), pointer(dy), pointer(dx), size, function, alpha)
    end(s)


def relu_forward(X, Y=None):
    """Y := max(X, 0), for arrays of any shape; NaN stays NaN.

    Parameters
    ----------
    X : ndarray
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take, another shape, Y overlapping X.
    """
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    entries_forward(x, y, RELU)
    return y


def relu_backward(X, dY, dX=None):
    """dX := 0 where X <= 0, else dY (so the derivative at 0 is 0, and a NaN in X lets dY pass).

    X may be the output of `relu_forward` as well as its input: both are positive together.

    Parameters
    ----------
    X, dY : ndarray
        Of one shape.
    dX : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    dX : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), dy = like(dY, "dY", x)
    cdef cnp.ndarray dx = output_like(dX, "dX", x)
    apart(dx, "dX", x, "X", dy, "dY")
    entries_backward(x, None, dy, dx, RELU)
    return dx


ACTIVATIONS = {"leaky_relu": LEAKY_RELU, "elu": ELU, "sigmoid": SIGMOID, "tanh": TANH,
               "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU}


def activation_forward(X, str kind, double alpha=0.0, Y=None):
    """Y := f(X), for arrays of any shape; NaN stays NaN.

    ============  =============================================  =======================
    kind          f(x)                                           ulp
    ============  =============================================  =======================
    "leaky_relu"  x, or alpha x where x <= 0                     0.5
    "elu"         x, or alpha (e^x - 1) where x <= 0             1.6; alpha not 1: 3.1
    "sigmoid"     1 / (1 + e^-x)                                 3
    "tanh"        tanh(x)                                        3
    "gelu"        x Phi(x), with the normal distribution Phi     8
    "gelu_tanh"   x (1 + tanh u) / 2  with                       3 + 3 |2 u| where x < 0
                  u = sqrt(2 / pi) (x + 0.044715 x^3)            else 3
    "silu"        x / (1 + e^-x)                                 3
    ============  =============================================  =======================

    ulp is the largest error, in units in the last place, that was found in all instruction sets.
    The last three are 0 where their factor is below the smallest normal number.

    Parameters
    ----------
    X : ndarray
    kind : str
    alpha : float
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    KeyError
        Another kind.
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef int number = ACTIVATIONS[kind]
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    entries_forward(x, y, ACTIVATION, number, alpha)
    return y


def activation_backward(X, Y, dY, str kind, double alpha=0.0, dX=None):
    """dX := f'(X) dY.

    Parameters
    ----------
    X, Y, dY : ndarray
        Of one shape; Y is what `activation_forward` made of X.
    kind : str
    alpha : float
    dX : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    dX : ndarray

    Raises
    ------
    KeyError, TypeError, ValueError
        As `activation_forward`.
    """
    cdef int number = ACTIVATIONS[kind]
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE)
    cdef cnp.ndarray y = like(Y, "Y", x), dy = like(dY, "dY", x), dx = output_like(dX, "dX", x)
    apart(dx, "dX", x, "X", y, "Y", dy, "dY")
    entries_backward(x, y, dy, dx, ACTIVATION, number, alpha)
    return dx


def dropout(X, double p, uint64_t seed, uint64_t first=0, Y=None):
    """Y := 0 where an entry is dropped, else X / (1 - p); with dY for X its own backward.

    Which entries are dropped depends on the seed and on their numbers alone: entry e belongs to
    word (e % 64) // 16 of Philox4x32-10 of the counter e // 64 * 16 + e % 16, under the key
    `seed`, and is dropped where that is below p 2^32.

    Parameters
    ----------
    X : ndarray
    p : float
        Share of the entries that are dropped, in [0, 1).
    seed : int
    first : int
        The number of the first entry.
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`; a p outside its interval.
    OverflowError
        A seed or number that is negative or has more than 64 bits.
    """
    if not 0 <= p < 1:
        raise ValueError(f"p must be in the interval [0, 1), got {p}")
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).dropout(pointer(x), pointer(y), cnp.PyArray_SIZE(x), p, seed, first)
    leave(caller)
    return y


def add_forward(A, B, Y=None):
    """Y := A + B, for arrays of one shape; nothing is broadcast.

    Parameters
    ----------
    A, B : ndarray
    Y : ndarray, shape of A, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray a = floats(A, "A", ANY_NDIM, ANY_DTYPE), b = like(B, "B", a)
    cdef cnp.ndarray y = output_like(Y, "Y", a)
    apart(y, "Y", a, "A", b, "B")
    cdef Caller caller = enter_pass(a)
    kernels_for(a).add_forward(pointer(a), pointer(b), pointer(y), cnp.PyArray_SIZE(a))
    leave(caller)
    return y


def add_backward(dY, dA=None, dB=None):
    """dA := dY,   dB := dY.

    Parameters
    ----------
    dY : ndarray
    dA, dB : ndarray, shape of dY, optional
        Overwritten.

    Returns
    -------
    dA, dB : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`; also for two outputs that overlap.
    """
    cdef cnp.ndarray dy = floats(dY, "dY", ANY_NDIM, ANY_DTYPE)
    cdef cnp.ndarray da = output_like(dA, "dA", dy), db = output_like(dB, "dB", dy)
    apart(da, "dA", dy, "dY", db, "dB")
    apart(db, "dB", dy, "dY")
    cdef Caller caller = enter_pass(dy)
    kernels_for(dy).add_backward(pointer(dy), pointer(da), pointer(db), cnp.PyArray_SIZE(dy))
    leave(caller)
    return da, db


def maximum_forward(A, B, Y=None):
    """Y := max(A, B), for arrays of one shape; NaN where either is NaN.

    Parameters
    ----------
    A, B : ndarray
    Y : ndarray, shape of A, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray a = floats(A, "A", ANY_NDIM, ANY_DTYPE), b = like(B, "B", a)
    cdef cnp.ndarray y = output_like(Y, "Y", a)
    apart(y, "Y", a, "A", b, "B")
    cdef Caller caller = enter_pass(a)
    kernels_for(a).maximum_forward(pointer(a), pointer(b), pointer(y), cnp.PyArray_SIZE(a))
    leave(caller)
    return y


def maximum_backward(A, B, dY, dA=None, dB=None):
    """dA := dY where A is the maximum and 0 elsewhere;   dB the other way round.

    On a tie, and where A is NaN, A is the maximum; where only B is NaN, B is.

    Parameters
    ----------
    A, B, dY : ndarray
        Of one shape.
    dA, dB : ndarray, shape of A, optional
        Overwritten.

    Returns
    -------
    dA, dB : ndarray

    Raises
    ------
    TypeError, ValueError
        As `add_backward`.
    """
    cdef cnp.ndarray a = floats(A, "A", ANY_NDIM, ANY_DTYPE)
    cdef cnp.ndarray b = like(B, "B", a), dy = like(dY, "dY", a)
    cdef cnp.ndarray da = output_like(dA, "dA", a), db = output_like(dB, "dB", a)
    apart(da, "dA", a, "A", b, "B", dy, "dY")
    apart(db, "dB", a, "A", b, "B", dy, "dY")
    apart(da, "dA", db, "dB")
    cdef Caller caller = enter_pass(a)
    kernels_for(a).maximum_backward(
        pointer(a), pointer(b), pointer(dy), pointer(da), pointer(db), cnp.PyArray_SIZE(a))
    leave(caller)
    return da, db


def scale_forward(X, double factor, Y=None):
    """Y := factor X, for arrays of any shape.

    Parameters
    ----------
    X : ndarray
    factor : float
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).scale(pointer(x), pointer(y), cnp.PyArray_SIZE(x), factor)
    leave(caller)
    return y


def scale_backward(dY, double factor, dX=None):
    """dX := factor dY: the same sum as `scale_forward`.

    Parameters
    ----------
    dY : ndarray
    factor : float
    dX : ndarray, shape of dY, optional
        Overwritten.

    Returns
    -------
    dX : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray dy = floats(dY, "dY", ANY_NDIM, ANY_DTYPE), dx = output_like(dX, "dX", dy)
    apart(dx, "dX", dy, "dY")
    cdef Caller caller = enter_pass(dy)
    kernels_for(dy).scale(pointer(dy), pointer(dx), cnp.PyArray_SIZE(dy), factor)
    leave(caller)
    return dx


# ---- Softmax ---------------------------------------------------------------------------------

def softmax_forward(X, Y=None):
    """Y := exp(X) / row sum of exp(X), with the row's maximum subtracted first.

    Parameters
    ----------
    X : ndarray (n, n_classes)
    Y : ndarray (n, n_classes), optional
        Overwritten.

    Returns
    -------
    Y : ndarray (n, n_classes)

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take, another shape, Y overlapping X.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).softmax_forward(
        pointer(x), pointer(y), cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1))
    leave(caller)
    return y


def softmax_backward(Y, dY, dX=None):
    """dX := Y (dY - row sum of dY Y): the transposed Jacobian diag(Y) - Y Y^T times dY.

    Parameters
    ----------
    Y : ndarray (n, n_classes)
        The output of `softmax_forward`.
    dY : ndarray (n, n_classes)
    dX : ndarray (n, n_classes), optional
        Overwritten.

    Returns
    -------
    dX : ndarray (n, n_classes)

    Raises
    ------
    TypeError, ValueError
        As `softmax_forward`.
    """
    cdef cnp.ndarray y = matrix(Y, "Y", ANY_DTYPE), dy = like(dY, "dY", y)
    cdef cnp.ndarray dx = output_like(dX, "dX", y)
    apart(dx, "dX", y, "Y", dy, "dY")
    cdef Caller caller = enter_pass(y)
    kernels_for(y).softmax_backward(
        pointer(y), pointer(dy), pointer(dx), cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1))
    leave(caller)
    return dx


def log_softmax_forward(X, Y=None):
    """Y := X - log(row sum of exp(X)): the logarithm of the softmax, exact for any finite scores.

    Parameters
    ----------
    X : ndarray (n, n_classes)
    Y : ndarray (n, n_classes), optional
        Overwritten.

    Returns
    -------
    Y : ndarray (n, n_classes)

    Raises
    ------
    TypeError, ValueError
        As `softmax_forward`.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE), y = output_like(Y, "Y", x)
    apart(y, "Y", x, "X")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).log_softmax_forward(
        pointer(x), pointer(y), cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1))
    leave(caller)
    return y


def log_softmax_backward(Y, dY, dX=None):
    """dX := dY - exp(Y) row sum of dY.

    Parameters
    ----------
    Y : ndarray (n, n_classes)
        The output of `log_softmax_forward`.
    dY : ndarray (n, n_classes)
    dX : ndarray (n, n_classes), optional
        Overwritten.

    Returns
    -------
    dX : ndarray

    Raises
    ------
    TypeError, ValueError
        As `softmax_forward`.
    """
    cdef cnp.ndarray y = matrix(Y, "Y", ANY_DTYPE), dy = like(dY, "dY", y)
    cdef cnp.ndarray dx = output_like(dX, "dX", y)
    apart(dx, "dX", y, "Y", dy, "dY")
    cdef Caller caller = enter_pass(y)
    kernels_for(y).log_softmax_backward(
        pointer(y), pointer(dy), pointer(dx), cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1))
    leave(caller)
    return dx


def scale_rows(X, factors, Y=None):
    """Y := each row of X times its factor.

    Parameters
    ----------
    X : ndarray (n, ...)
    factors : ndarray (n,), or of the shape of X
    Y : ndarray, shape of X, optional
        Overwritten.

    Returns
    -------
    Y : ndarray

    Raises
    ------
    TypeError, ValueError
        As `relu_forward`.
    """
    cdef cnp.ndarray x = floats(X, "X", ANY_NDIM, ANY_DTYPE), y = output_like(Y, "Y", x), f
    cdef cnp.npy_intp n
    if np_ndim(factors) == cnp.PyArray_NDIM(x):
        f = like(factors, "factors", x)
        n = cnp.PyArray_SIZE(x)
    else:
        f = floats(factors, "factors", 1, cnp.PyArray_TYPE(x))
        n = cnp.PyArray_DIM(x, 0) if cnp.PyArray_NDIM(x) else 0
        check_shape(f, "factors", 1, &n)
    apart(y, "Y", x, "X", f, "factors")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).scale_rows(
        pointer(x), pointer(f), pointer(y), n, cnp.PyArray_SIZE(x) // max(n, 1))
    leave(caller)
    return y


# ---- Layer normalization ---------------------------------------------------------------------

cdef cnp.ndarray per_column(object value, str name, cnp.ndarray rows):
    """A vector with a number for each column of a matrix, or None."""
    if value is None:
        return None
    array = floats(value, name, 1, cnp.PyArray_TYPE(rows))
    check_shape(array, name, 1, cnp.PyArray_DIMS(rows) + 1)
    return array


def layer_norm_forward(X, weight=None, bias=None, double eps=1e-5, Y=None, stats=None):
    """Y := weight (X - mean) / sqrt(variance + eps) + bias, with mean and variance of each row.

    Parameters
    ----------
    X : ndarray (n, width)
    weight, bias : ndarray (width,), optional
        1 and 0 where they are left out.
    eps : float
        At least 0.
    Y : ndarray (n, width), optional
        Overwritten.
    stats : ndarray of float64 (n, 2), optional
        Overwritten.

    Returns
    -------
    Y : ndarray (n, width)
    stats : ndarray (n, 2)
        Mean and 1 / sqrt(variance + eps) of each row, which `layer_norm_backward` needs.

    Raises
    ------
    TypeError, ValueError
        Arrays that kernels do not take, shapes that do not fit, outputs overlapping an input.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE), w = per_column(weight, "weight", x)
    cdef cnp.ndarray b = per_column(bias, "bias", x), y = output_like(Y, "Y", x)
    cdef cnp.npy_intp *dims = [cnp.PyArray_DIM(x, 0), 2]
    cdef cnp.ndarray s = output(stats, "stats", 2, dims, FLOAT64)
    apart(y, "Y", x, "X", w, "weight", b, "bias")
    apart(s, "stats", x, "X", w, "weight", b, "bias")
    apart(s, "stats", y, "Y")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).layer_norm_forward(
        pointer(x), pointer(w), pointer(b), pointer(y), <double *>cnp.PyArray_DATA(s),
        dims[0], cnp.PyArray_DIM(x, 1), eps)
    leave(caller)
    return y, s


def layer_norm_backward(X, weight, stats, dY, dX=None, dweight=None, dbias=None,
                        bint input_gradient=True, bint add=False):
    """With h = (X - mean) / sqrt(variance + eps) and g = weight dY, means taken along the row:

    dX := (g - mean(g) - h mean(g h)) / sqrt(variance + eps),   dweight := column sums of dY h,
    dbias := column sums of dY; the latter two only if given.

    Parameters
    ----------
    X : ndarray (n, width)
    weight : ndarray (width,) or None
    stats : ndarray of float64 (n, 2)
        From `layer_norm_forward`.
    dY : ndarray (n, width)
    dX : ndarray (n, width), optional
        Overwritten; allocated if not given.
    dweight, dbias : ndarray (width,), optional
        Overwritten; left out if not given.
    input_gradient : bool
        False leaves dX out.
    add : bool
        Add to what dweight and dbias hold, in place of overwriting it.

    Returns
    -------
    dX : ndarray (n, width), or None if left out

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_forward`.
    """
    cdef cnp.ndarray x = matrix(X, "X", ANY_DTYPE), w = per_column(weight, "weight", x)
    cdef cnp.ndarray s = floats(stats, "stats", 2, FLOAT64), dy = like(dY, "dY", x)
    cdef int dtype = cnp.PyArray_TYPE(x)
    cdef cnp.npy_intp *dims = [cnp.PyArray_DIM(x, 0), 2]
    cdef cnp.npy_intp width = cnp.PyArray_DIM(x, 1)
    cdef cnp.ndarray dx = None, dw = None, db = None
    check_shape(s, "stats", 2, dims)
    if input_gradient:
        dx = output_like(dX, "dX", x)
    elif dX is not None:
        raise ValueError("dX is given, but input_gradient is False")
    if dweight is not None:
        dw = output(dweight, "dweight", 1, &width, dtype)
    if dbias is not None:
        db = output(dbias, "dbias", 1, &width, dtype)
    for out, name in ((dx, "dX"), (dw, "dweight"), (db, "dbias")):
        apart(out, name, x, "X", dy, "dY", w, "weight")
        apart(out, name, s, "stats")
    apart(dx, "dX", dw, "dweight", db, "dbias")
    apart(dw, "dweight", db, "dbias")
    cdef Caller caller = enter_pass(x)
    kernels_for(x).layer_norm_backward(
        pointer(x), pointer(w), <const double *>cnp.PyArray_DATA(s), pointer(dy), pointer(dx),
        pointer(dw), pointer(db), dims[0], width, add)
    leave(caller)
    return dx


# ---- Losses ----------------------------------------------------------------------------------

def check_target(target, Py_ssize_t n, Py_ssize_t n_classes, cnp.dtype dtype, ignored=None):
    """Refuse what is neither labels (n,) within range nor rows (n, n_classes) of weights.

    Parameters
    ----------
    target : ndarray
        Of int64, or of weights: finite and at least 0.
    n, n_classes : int
    dtype : numpy.dtype
        Of weights: float32 or float64.
    ignored : int, optional
        A label that may lie out of range.

    Raises
    ------
    TypeError, ValueError
        Also for n = 0.
    """
    checked_target(target, n, n_classes, dtype.type_num, ignored)


cdef cnp.ndarray checked_target(
        object target, Py_ssize_t n, Py_ssize_t n_classes, int dtype, object ignored=None):
    """Labels (n,) within range, or rows (n, n_classes) of finite weights >= 0; else an error."""
    cdef cnp.ndarray array
    cdef cnp.npy_intp *dims = [n, n_classes]
    cdef Py_ssize_t i, other = NO_LABEL if ignored is None else ignored
    if n == 0:
        raise ValueError("a mean over 0 rows is not defined")
    if not cnp.PyArray_CheckExact(target):
        raise TypeError(f"target must be a numpy.ndarray, got {type(target).__name__}")
    array = target
    if cnp.PyArray_NDIM(array) == 2:
        if cnp.PyArray_DIM(array, 1) == 1 < n_classes:
            raise ValueError(f"target must have shape {as_tuple(2, dims)} or, "
                             f"for labels, ({n},), got {as_tuple(2, cnp.PyArray_DIMS(array))}")
        array = floats(target, "target", 2, dtype)
        check_shape(array, "target", 2, dims)
        i = kernels_for(array).first_bad_weight(pointer(array), n * n_classes)
        if i >= 0:
            raise ValueError(f"target[{i // n_classes}, {i % n_classes}] is {array.flat[i]}, "
                             "but weights must be finite and at least 0")
        return array
    if (cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_TYPE(array) != cnp.NPY_INTP
            or not cnp.PyArray_ISCARRAY_RO(array)):
        raise ValueError("target must be a vector of int64 labels or a matrix of rows, contiguous")
    check_rows(array, "target", n)
    cdef const Py_ssize_t *labels = labels_of(array)
    for i in range(n):
        if (labels[i] < 0 or labels[i] >= n_classes) and (ignored is None or labels[i] != other):
            raise ValueError(f"target[{i}] is {labels[i]}, but labels must be whole numbers "
                             f"from 0 to {n_classes - 1}")
    return array


cdef inline cnp.ndarray target_of(object target, cnp.ndarray scores):
    """As `checked_target`, for a matrix of scores."""
    return checked_target(target, cnp.PyArray_DIM(scores, 0), cnp.PyArray_DIM(scores, 1),
                          cnp.PyArray_TYPE(scores))


cdef inline const Py_ssize_t *labels_of(cnp.ndarray target) noexcept:
    """The labels of a checked target; NULL if it is rows."""
    return <const Py_ssize_t *>cnp.PyArray_DATA(target) if cnp.PyArray_NDIM(target) == 1 else NULL


cdef inline const real *rows_of(cnp.ndarray target) noexcept:
    """The rows of a checked target; NULL if it is labels."""
    return pointer(target) if cnp.PyArray_NDIM(target) == 2 else NULL


cdef Py_ssize_t NO_LABEL = PY_SSIZE_T_MIN       # to ignore


def target_rows(target, Py_ssize_t n_classes, cnp.dtype dtype, sample_weight=None,
                class_weight=None, double label_smoothing=0.0, ignore_index=None, T=None):
    """T := w c ((1 - s) r + s mean(r)) for every sample: what losses take as rows of weights.

    r is the row of the sample's label, or its row; w the sample's weight, c the classes' weights
    and s the smoothing. Where the label is `ignore_index`, all is 0.

    Parameters
    ----------
    target : ndarray of int64 (n,) or of `dtype` (n, n_classes)
    n_classes : int
    dtype : numpy.dtype
        float32 or float64.
    sample_weight : ndarray (n,), optional
    class_weight : ndarray (n_classes,), optional
    label_smoothing : float
        In [0, 1].
    ignore_index : int, optional
        A label that does not count; it need not be a class.
    T : ndarray (n, n_classes), optional
        Overwritten.

    Returns
    -------
    T : ndarray (n, n_classes)
    total : float
        Sum of w c over the samples with their labels' c, or of w for rows: what a mean divides by.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`; also for weights that are negative or not finite, and for a
        smoothing outside its interval.
    """
    cdef int number = dtype.type_num
    cdef cnp.ndarray t, w = None, c = None
    cdef cnp.npy_intp n = cnp.PyArray_DIM(target, 0) if np_ndim(target) > 0 else 1
    cdef cnp.npy_intp *dims = [n, n_classes]
    cdef Py_ssize_t ignored = NO_LABEL
    cdef double total
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in the interval [0, 1], got {label_smoothing}")
    if ignore_index is not None:
        ignored = ignore_index
    t = checked_target(target, n, n_classes, number, ignore_index)
    if sample_weight is not None:
        w = floats(sample_weight, "sample_weight", 1, number)
        check_shape(w, "sample_weight", 1, &n)
    if class_weight is not None:
        c = floats(class_weight, "class_weight", 1, number)
        check_shape(c, "class_weight", 1, &dims[1])
    for array, name in ((w, "sample_weight"), (c, "class_weight")):
        if array is not None:
            check_weights(array, name)
    cdef cnp.ndarray rows = output(T, "T", 2, dims, number)
    apart(rows, "T", t, "target", w, "sample_weight", c, "class_weight")
    cdef Caller caller = enter(HOLD)
    total = kernels_of(number).target_rows(
        labels_of(t), rows_of(t), pointer(w), pointer(c), pointer(rows), n, n_classes, ignored,
        label_smoothing)
    leave(caller)
    return rows, total


def check_weights(array, str name):
    """Refuse weights that are negative or not finite.

    Parameters
    ----------
    array : ndarray of float32 or float64
    name : str
        What the message calls it.

    Raises
    ------
    TypeError, ValueError
    """
    cdef cnp.ndarray weights = floats(array, name, ANY_NDIM, ANY_DTYPE)
    cdef Py_ssize_t i = kernels_for(weights).first_bad_weight(
        pointer(weights), cnp.PyArray_SIZE(weights))
    if i >= 0:
        place, rest = [], i
        for size in reversed(array.shape):
            place.insert(0, rest % size)
            rest //= size
        raise ValueError(f"{name}{place} is {weights.flat[i]}, but weights must be finite and at "
                         "least 0")


def check_probabilities(array, str name):
    """Refuse NaN and entries outside [0, 1], beyond what rounding explains.

    Parameters
    ----------
    array : ndarray of float32 or float64
    name : str
        What the message calls it.

    Raises
    ------
    TypeError, ValueError
    """
    cdef cnp.ndarray numbers = floats(array, name, ANY_NDIM, ANY_DTYPE)
    cdef Py_ssize_t i = kernels_for(numbers).first_bad_probability(
        pointer(numbers), cnp.PyArray_SIZE(numbers))
    if i < 0:
        i = kernels_for(numbers).first_not_finite(pointer(numbers), cnp.PyArray_SIZE(numbers))
    if i >= 0:
        raise ValueError(f"{name} must hold numbers in [0, 1], got {numbers.flat[i]}")


cdef inline double divisor(double total) noexcept:
    """What a mean divides by: where all weights are 0, the sum is 0, and the mean is to be 0."""
    return total if total != 0 else 1


def softmax_cross_entropy(logits, target, dlogits=None, bint gradient=True, total=None,
                          losses=None):
    """Mean over the rows of sum_j t_j (logsumexp(x) - x_j), and its gradient by the logits.

    For a row whose weights t sum to s the gradient is (s softmax(x) - t) / n. Where they are all 0,
    loss and gradient of the row are 0, whatever the logits are.

    Parameters
    ----------
    logits : ndarray (n, n_classes)
    target : ndarray of int64 (n,) or of the logits' dtype (n, n_classes)
        Labels 0 .. n_classes - 1, or rows of weights (one-hot or soft).
    dlogits : ndarray (n, n_classes), optional
        Overwritten.
    gradient : bool
        False leaves the gradient out.
    total : float, optional
        Divide by it, in place of n: 1 for the sum, or a sum of weights. 0 counts as 1.
    losses : ndarray (n,), optional
        Overwritten with the loss of each row, divided by nothing.

    Returns
    -------
    loss : float
    dlogits : ndarray (n, n_classes), or None if left out

    Raises
    ------
    TypeError, ValueError
        Arrays that kernels do not take, shapes that do not fit, 0 rows, labels out of range,
        weights that are negative or not finite, dlogits overlapping an input.
    """
    cdef cnp.ndarray x = matrix(logits, "logits", ANY_DTYPE), t = target_of(target, x)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0)
    cdef cnp.ndarray dx = output_like(dlogits, "dlogits", x) if gradient else None
    cdef cnp.ndarray each = None
    cdef double over = n if total is None else divisor(total)
    if losses is not None:
        each = output(losses, "losses", 1, &n, cnp.PyArray_TYPE(x))
    apart(dx, "dlogits", x, "logits", t, "target", each, "losses")
    apart(each, "losses", x, "logits", t, "target")
    cdef Caller caller = enter(HOLD)
    cdef double loss = kernels_for(x).softmax_cross_entropy(
        pointer(x), labels_of(t), rows_of(t), pointer(dx), pointer(each),
        n, cnp.PyArray_DIM(x, 1), over)
    leave(caller)
    return loss / over, dx


def cross_entropy(P, target, dP=None, bint gradient=True):
    """Mean over the rows of -sum_j t_j log(p_j), and its gradient -t / p / n by P.

    Parameters
    ----------
    P : ndarray (n, n_classes)
        Probabilities.
    target : ndarray of int64 (n,) or of P's dtype (n, n_classes)
        Labels 0 .. n_classes - 1, or rows of weights (one-hot or soft).
    dP : ndarray (n, n_classes), optional
        Overwritten.
    gradient : bool
        False leaves the gradient out.

    Returns
    -------
    loss : float
    dP : ndarray (n, n_classes), or None if left out

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`; also for entries of P that are no probabilities: below 0, or
        above 1 by more than rounding explains. NaN is passed on.
    """
    cdef cnp.ndarray p = matrix(P, "P", ANY_DTYPE), t = target_of(target, p)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(p, 0), n_classes = cnp.PyArray_DIM(p, 1)
    cdef Py_ssize_t i = kernels_for(p).first_bad_probability(pointer(p), cnp.PyArray_SIZE(p))
    if i >= 0:
        raise ValueError(f"P[{i // n_classes}, {i % n_classes}] is {p.flat[i]}, but probabilities "
                         "lie in [0, 1]; for raw scores there is SoftmaxCrossEntropy")
    cdef cnp.ndarray dp = output_like(dP, "dP", p) if gradient else None
    apart(dp, "dP", p, "P", t, "target")
    cdef Caller caller = enter(HOLD)
    cdef double loss = kernels_for(p).cross_entropy(
        pointer(p), labels_of(t), rows_of(t), pointer(dp), n, n_classes, n)
    leave(caller)
    return loss / n, dp


ENTRY_LOSSES = {
    "mean_squared_error": MEAN_SQUARED_ERROR, "binary_cross_entropy": BINARY_CROSS_ENTROPY,
    "huber": HUBER, "poisson": POISSON}


def entry_losses(Y, T, str kind, weights=None, pos_weight=None, double delta=1.0, total=None,
                 dY=None, losses=None, bint gradient=True):
    """Mean over all entries of w l(y, t), and its gradient by Y.

    * "mean_squared_error": l = (y - t)^2,   dl/dy = 2 (y - t);
    * "binary_cross_entropy": l = p t log(1 + e^-y) + (1 - t) log(1 + e^y),
      dl/dy = (1 - t) s(y) - p t s(-y);
    * "huber": with d = y - t, l = d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2),
      dl/dy = d, but no farther from 0 than delta;
    * "poisson": l = e^y - t y,   dl/dy = e^y - t;

    with s(y) = 1 / (1 + e^-y). Where a factor t, 1 - t or w is 0, its term is 0, whatever y is.

    Parameters
    ----------
    Y, T : ndarray
        Of one shape.
    kind : str
    weights : ndarray, optional
        w: of the shape of Y, or (n,) for rows of Y (n, n_out).
    pos_weight : ndarray (n_out,), optional
        p of "binary_cross_entropy", for each column of a matrix Y.
    delta : float
        Of "huber".
    total : float, optional
        Divide by it, in place of the number of entries. 0 counts as 1.
    dY : ndarray, shape of Y, optional
        Overwritten.
    losses : ndarray, shape of Y, optional
        Overwritten with w l of each entry, divided by nothing.
    gradient : bool
        False leaves the gradient out.

    Returns
    -------
    loss : float
    dY : ndarray, or None if left out

    Raises
    ------
    KeyError
        Another kind.
    TypeError, ValueError
        Arrays that kernels do not take, shapes that differ, no entries, an output overlapping
        another array.
    """
    cdef int number = ENTRY_LOSSES[kind]
    cdef cnp.ndarray y = floats(Y, "Y", ANY_NDIM, ANY_DTYPE), t = like(T, "T", y)
    cdef int dtype = cnp.PyArray_TYPE(y)
    cdef cnp.npy_intp size = cnp.PyArray_SIZE(y), n = 1, n_out = size
    cdef cnp.ndarray w = None, p = None, each = None
    if size == 0:
        raise ValueError("a mean over 0 entries is not defined")
    if pos_weight is not None or weights is not None and np_ndim(weights) < cnp.PyArray_NDIM(y):
        y = matrix(Y, "Y", ANY_DTYPE)
        n, n_out = cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1)
    if pos_weight is not None:
        p = floats(pos_weight, "pos_weight", 1, dtype)
        check_shape(p, "pos_weight", 1, &n_out)
    cdef bint of_entries = weights is not None and np_ndim(weights) == cnp.PyArray_NDIM(y)
    if weights is not None:
        if of_entries:
            w = like(weights, "weights", y)
        else:
            w = floats(weights, "weights", 1, dtype)
            check_shape(w, "weights", 1, &n)
    cdef cnp.ndarray dy = output_like(dY, "dY", y) if gradient else None
    if losses is not None:
        each = output_like(losses, "losses", y)
    for out, name in ((dy, "dY"), (each, "losses")):
        apart(out, name, y, "Y", t, "T", w, "weights")
        apart(out, name, p, "pos_weight")
    apart(dy, "dY", each, "losses")
    cdef double over = size if total is None else divisor(total)
    cdef Caller caller = enter_pass(y)
    cdef double loss = kernels_for(y).entry_losses(
        pointer(y), pointer(t), pointer(w), of_entries, pointer(p), pointer(dy), pointer(each),
        n, n_out, number, over, delta)
    leave(caller)
    return loss / over, dy


cdef enum:
    MOST = 1000     # powers of 2, up or down, of a factor


cdef inline int np_ndim(object array):
    return cnp.PyArray_NDIM(<cnp.ndarray>array) if cnp.PyArray_Check(array) else -1


def negative_log_likelihood(L, T, dL=None, bint gradient=True, total=None, losses=None):
    """Mean over the rows of -sum_j t_j x_j, and its gradient -t by the logarithms x.

    Parameters
    ----------
    L : ndarray (n, n_classes)
        Logarithms of probabilities.
    T : ndarray (n, n_classes)
        Rows of weights, as `target_rows` makes them.
    dL : ndarray (n, n_classes), optional
        Overwritten.
    gradient, total, losses
        As of `softmax_cross_entropy`.

    Returns
    -------
    loss : float
    dL : ndarray (n, n_classes), or None if left out

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    cdef cnp.ndarray x = matrix(L, "L", ANY_DTYPE), t = like(T, "T", x)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0)
    cdef cnp.ndarray dx = output_like(dL, "dL", x) if gradient else None
    cdef cnp.ndarray each = None
    cdef double over = n if total is None else divisor(total)
    if n == 0:
        raise ValueError("a mean over 0 rows is not defined")
    if losses is not None:
        each = output(losses, "losses", 1, &n, cnp.PyArray_TYPE(x))
    apart(dx, "dL", x, "L", t, "T", each, "losses")
    apart(each, "losses", x, "L", t, "T")
    cdef Caller caller = enter_pass(x)
    cdef double loss = kernels_for(x).negative_log_likelihood(
        pointer(x), pointer(t), pointer(dx), pointer(each), n, cnp.PyArray_DIM(x, 1), over)
    leave(caller)
    return loss / over, dx


def sum_of_weights(weights):
    """Sum of an array's entries, in double.

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take.
    """
    cdef cnp.ndarray w = floats(weights, "weights", ANY_NDIM, ANY_DTYPE)
    return kernels_for(w).sum_of_weights(pointer(w), cnp.PyArray_SIZE(w))


def balanced(weights):
    """Return weights, times a power of 2 if their sum is far from 1: so the mean stays the same.

    What kernels make of the weights then neither overflows nor is so small that it counts as 0.

    Parameters
    ----------
    weights : ndarray
        Finite and at least 0.

    Returns
    -------
    weights : ndarray
        The same, if their sum lies between 2**-64 and 2**64, or is 0.

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take.
    """
    cdef cnp.ndarray w = floats(weights, "weights", ANY_NDIM, ANY_DTYPE), scaled
    cdef double total = kernels_for(w).sum_of_weights(pointer(w), cnp.PyArray_SIZE(w))
    cdef int exponent = MOST
    if total == 0 or 2.0 ** -64 <= total <= 2.0 ** 64:
        return w
    if total != INFINITY:
        frexp(total, &exponent)
    scaled = output_like(None, "weights", w)
    # Not between `enter` and `leave`: subnormal weights count here.
    kernels_for(w).scale(pointer(w), pointer(scaled), cnp.PyArray_SIZE(w),
                         ldexp(1, max(-MOST, min(-exponent, MOST))))
    return scaled


def mean_squared_error(Y, T, dY=None, bint gradient=True):
    """Mean over all entries of (y - t)^2, and its gradient 2 (Y - T) / size: as `entry_losses`."""
    return entry_losses(Y, T, "mean_squared_error", dY=dY, gradient=gradient)


def count_correct(scores, target, Py_ssize_t k=1):
    """Number of rows with one of the k largest scores at the label, or where the target row is
    largest.

    Parameters
    ----------
    scores : ndarray (n, n_classes)
    target : ndarray of int64 (n,) or of the scores' dtype (n, n_classes)
    k : int

    Returns
    -------
    correct : int
        The first of equal scores counts as the largest; a NaN is larger than any number.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    cdef cnp.ndarray x = matrix(scores, "scores", ANY_DTYPE), t = target_of(target, x)
    return kernels_for(x).count_correct(
        pointer(x), labels_of(t), rows_of(t), cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), k)


def count_same_side(scores, T):
    """Number of entries whose score is above 0 where the target is above 1/2, and only there.

    Parameters
    ----------
    scores, T : ndarray (n, n_out)

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    cdef cnp.ndarray x = matrix(scores, "scores", ANY_DTYPE), t = like(T, "T", x)
    return kernels_for(x).count_same_side(pointer(x), pointer(t), cnp.PyArray_SIZE(x))


def r2_score(Y, T):
    """Mean over columns of 1 - sum (t - y)^2 / sum (t - mean of t)^2, in double.

    Parameters
    ----------
    Y, T : ndarray (n, n_out)

    Returns
    -------
    r2 : float
        A column whose targets are all equal counts 1 if they are met exactly, else 0.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    cdef cnp.ndarray y = matrix(Y, "Y", ANY_DTYPE), t = like(T, "T", y)
    return kernels_for(y).r2_score(
        pointer(y), pointer(t), cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1))


# ---- Updates ---------------------------------------------------------------------------------

cdef int update_all(
        list gradients, list parameters, list first, list second, list third, Update u,
        object decays, object taken) except -1:
    """Each parameter with its states, or None in place of these; checked before the first."""
    cdef cnp.ndarray dw, w, a = None, b = None, c = None, count = counter(taken)
    cdef Py_ssize_t i, n = len(parameters)
    cdef Update own
    cdef Caller caller
    if (len(gradients) != n or first is not None and len(first) != n
            or second is not None and len(second) != n or third is not None and len(third) != n):
        raise ValueError("gradients, parameters and their states must be lists of one length")
    if decays is not None and len(decays) != n:
        raise ValueError(f"decays must have {n} entries, got {len(decays)}")
    for i in range(n):
        dw = floats(gradients[i], "gradient", ANY_NDIM, ANY_DTYPE)
        if parameters[i] is None:
            raise TypeError("parameter must be a numpy.ndarray, got None")
        w = output_like(parameters[i], "parameter", dw)
        check_rate(u.rate, cnp.PyArray_TYPE(w))
        a = None if first is None or first[i] is None else output_like(first[i], "velocity", dw)
        apart(w, "parameter", dw, "gradient", a, "velocity")
        apart(a, "velocity", dw, "gradient")
        if a is None and u.rule == ADAM:
            raise TypeError("mean must be a numpy.ndarray, got None")
        if second is not None:
            if second[i] is None:
                raise TypeError("square must be a numpy.ndarray, got None")
            b = output_like(second[i], "state", dw)
            apart(b, "state", dw, "gradient", w, "parameter", a, "velocity")
        if third is not None:
            if third[i] is None:
                raise TypeError("average must be a numpy.ndarray, got None")
            c = output_like(third[i], "state", dw)
            apart(c, "state", dw, "gradient", w, "parameter", a, "velocity")
            apart(c, "state", b, "state")
    u = plain_or_not(u)
    for i in range(n):
        dw, w = gradients[i], parameters[i]
        if first is not None:
            a = first[i]
        if second is not None:
            b = second[i]
        if third is not None:
            c = third[i]
        own = u
        if decays is not None and not decays[i]:
            own.decay, own.shrink = 0, 1
        caller = enter_pass(w)
        kernels_for(w).update(pointer(dw), pointer(w), pointer(a), pointer(b), pointer(c),
                              cnp.PyArray_SIZE(w), &own)
        leave(caller)
    if count is not None:
        (<int64_t *>cnp.PyArray_DATA(count))[0] += 1
    return 0


cdef cnp.ndarray counter(object taken):
    """An array of one int64 that can be written to, or None for None."""
    if taken is not None and not (
            cnp.PyArray_CheckExact(taken) and cnp.PyArray_TYPE(<cnp.ndarray>taken) == cnp.NPY_INT64
            and cnp.PyArray_SIZE(<cnp.ndarray>taken) == 1
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>taken)):
        raise TypeError("taken must be a numpy.ndarray of one int64 that can be written to")
    return taken


def sgd_update(list gradients, list parameters, list velocities, double lr,
               double momentum=0.0, bint nesterov=False, *, gain=1.0, look=None, direct=None,
               double scale=1.0, double clip=INFINITY, double decay=0.0, double shrink=1.0,
               decays=None, taken=None):
    """V := momentum V + gain g;   W := shrink W - lr (look V + direct g)

    with g = scale dW, kept within -clip and clip, plus decay W. By default that is
    V := momentum V + dW and W := W - lr V, or W - lr (dW + momentum V) if `nesterov`. Many
    parameters in one call: all are checked before the first is changed.

    Parameters
    ----------
    gradients : list of ndarray
        The dW.
    parameters : list of ndarray
        The W; changed in place.
    velocities : list of (ndarray or None)
        The V; changed in place. None: that parameter has no momentum, W := shrink W - lr g.
    lr, momentum : float
    nesterov : bool
        look and direct are momentum and 1 then, else 1 and 0, unless they are given.
    gain, look, direct, scale, clip, decay, shrink : float
    decays : list of bool, optional
        Whether decay and shrink are meant for each parameter; by default for all.
    taken : ndarray (1,), int64, optional
        Grows by 1 with the update: nothing, Ctrl-C neither, comes between the two.

    Raises
    ------
    TypeError, ValueError
        Arrays that kernels do not take, shapes that differ, read-only parameters, arrays of one
        parameter that overlap, lists of different lengths.
    """
    cdef Update u = sgd_numbers(lr, momentum, nesterov)
    u.gain = gain
    if look is not None:
        u.look = look
    if direct is not None:
        u.direct = direct
    u.scale, u.clip, u.decay, u.shrink = scale, clip, decay, shrink
    # Copies of the lists, which nobody else can change meanwhile.
    update_all(gradients[:], parameters[:], velocities[:], None, None, u, decays, taken)


def adam_update(list gradients, list parameters, list means, list squares, *, double rate,
                double beta1, double beta2, double eps, double root=1.0, double scale=1.0,
                double clip=INFINITY, double decay=0.0, double shrink=1.0, decays=None,
                taken=None):
    """M := beta1 M + (1 - beta1) g;   S := beta2 S + (1 - beta2) g^2;

    W := shrink W - rate M / (root sqrt(S) + eps), with g as in `sgd_update`. At step t PyTorch has
    rate = lr / (1 - beta1^t) and root = 1 / sqrt(1 - beta2^t); scikit-learn and ONNX have
    rate = lr sqrt(1 - beta2^t) / (1 - beta1^t) and root = 1.

    Parameters
    ----------
    gradients, parameters : list of ndarray
    means, squares : list of ndarray
        M and S; changed in place.
    rate, beta1, beta2, eps, root, scale, clip, decay, shrink : float
    decays, taken
        As of `sgd_update`.

    Raises
    ------
    TypeError, ValueError
        As `sgd_update`.
    """
    cdef Update u = sgd_numbers(rate, beta1, False)
    u.rule = ADAM
    u.memory, u.eps, u.root = beta2, eps, root
    u.scale, u.clip, u.decay, u.shrink = scale, clip, decay, shrink
    update_all(gradients[:], parameters[:], means[:], squares[:], None, u, decays, taken)


def rmsprop_update(list gradients, list parameters, list squares, list velocities=None,
                   list averages=None, *, double rate, double alpha, double eps,
                   double momentum=0.0, double scale=1.0, double clip=INFINITY,
                   double decay=0.0, double shrink=1.0, decays=None, taken=None):
    """S := alpha S + (1 - alpha) g^2;   d := g / (sqrt(S) + eps);   W := shrink W - rate d.

    With averages C := alpha C + (1 - alpha) g and d := g / (sqrt(max(S - C^2, 0)) + eps); with
    velocities V := momentum V + d and W := shrink W - rate V. g is as in `sgd_update`.

    Parameters
    ----------
    gradients, parameters : list of ndarray
    squares : list of ndarray
        S; changed in place.
    velocities, averages : list of ndarray, optional
        V and C; changed in place.
    rate, alpha, eps, momentum, scale, clip, decay, shrink : float
    decays, taken
        As of `sgd_update`.

    Raises
    ------
    TypeError, ValueError
        As `sgd_update`.
    """
    cdef Update u = sgd_numbers(rate, momentum, False)
    u.rule = RMSPROP
    u.memory, u.eps = alpha, eps
    u.scale, u.clip, u.decay, u.shrink = scale, clip, decay, shrink
    update_all(gradients[:], parameters[:], None if velocities is None else velocities[:],
               squares[:], None if averages is None else averages[:], u, decays, taken)


def sum_of_squares(array):
    """Sum of the squares of an array's entries, in double.

    Raises
    ------
    TypeError, ValueError
        An array that kernels do not take.
    """
    cdef cnp.ndarray x = floats(array, "array", ANY_NDIM, ANY_DTYPE)
    cdef Caller caller = enter_pass(x)
    cdef double total = kernels_for(x).sum_of_squares(pointer(x), cnp.PyArray_SIZE(x))
    leave(caller)
    return total
