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

from fastnet import _convert
from fastnet._table cimport KernelTable, real

cnp.import_array()

cdef extern from "Python.h":
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *thread)

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


cdef int check_rate(double lr, int dtype) except -1:
    """ValueError if a learning rate is more than the dtype can say."""
    if lr > FLT_MAX and dtype == FLOAT32:
        raise ValueError(f"lr must be in the interval [0, {FLT_MAX:.4g}] for float32, got {lr}")
    return 0


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


def as_target(value, scores):
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
    return _convert.target(value, cnp.PyArray_DIM(model, 1), model.dtype)


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
    cdef Caller caller = enter(<double>n * n_in * n_out)
    kernels_for(x).dense_forward(
        pointer(x), pointer(w), pointer(bias), pointer(z), n, n_in, n_out, relu)
    leave(caller)
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
    cdef Caller caller = enter(2.0 * n * n_in * n_out)
    kernels_for(x).dense_backward(
        pointer(x), pointer(w), pointer(dz), pointer(dx), pointer(dw), pointer(bias_gradient),
        n, n_in, n_out, relu, add)
    leave(caller)
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
        pointer(x), pointer(p), pointer(bias), pointer(z), n, n_in, n_out, relu)
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
    cdef Caller caller = enter(<double>n * n_in * n_out)
    kernels_for(x).dense_sgd_update(
        pointer(x), pointer(dz), pointer(dx), pointer(dw), pointer(w), pointer(v),
        n, n_in, n_out, relu, rows, lr, momentum, nesterov)
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
    cdef Caller caller = enter_pass(x)
    kernels_for(x).relu_forward(pointer(x), pointer(y), cnp.PyArray_SIZE(x))
    leave(caller)
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
    cdef Caller caller = enter_pass(x)
    kernels_for(x).relu_backward(pointer(x), pointer(dy), pointer(dx), cnp.PyArray_SIZE(x))
    leave(caller)
    return dx


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


# ---- Losses ----------------------------------------------------------------------------------

def check_target(target, Py_ssize_t n, Py_ssize_t n_classes, cnp.dtype dtype):
    """Refuse what is neither labels (n,) within range nor rows (n, n_classes) of weights.

    Parameters
    ----------
    target : ndarray
        Of int64, or of weights: finite and at least 0.
    n, n_classes : int
    dtype : numpy.dtype
        Of weights: float32 or float64.

    Raises
    ------
    TypeError, ValueError
        Also for n = 0.
    """
    checked_target(target, n, n_classes, dtype.type_num)


cdef cnp.ndarray checked_target(
        object target, Py_ssize_t n, Py_ssize_t n_classes, int dtype):
    """Labels (n,) within range, or rows (n, n_classes) of finite weights >= 0; else an error."""
    cdef cnp.ndarray array
    cdef cnp.npy_intp *dims = [n, n_classes]
    cdef Py_ssize_t i
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
        if labels[i] < 0 or labels[i] >= n_classes:
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


def softmax_cross_entropy(logits, target, dlogits=None, bint gradient=True):
    """Mean over the rows of sum_j t_j (logsumexp(x) - x_j), and its gradient by the logits.

    For a row whose weights t sum to s the gradient is (s softmax(x) - t) / n.

    Parameters
    ----------
    logits : ndarray (n, n_classes)
    target : ndarray of int64 (n,) or of the logits' dtype (n, n_classes)
        Labels 0 .. n_classes - 1, or rows of weights (one-hot or soft).
    dlogits : ndarray (n, n_classes), optional
        Overwritten.
    gradient : bool
        False leaves the gradient out.

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
    cdef cnp.ndarray dx = output_like(dlogits, "dlogits", x) if gradient else None
    apart(dx, "dlogits", x, "logits", t, "target")
    cdef Caller caller = enter(HOLD)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, 0)
    cdef double loss = kernels_for(x).softmax_cross_entropy(
        pointer(x), labels_of(t), rows_of(t), pointer(dx), n, cnp.PyArray_DIM(x, 1), n)
    leave(caller)
    return loss / n, dx


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


def mean_squared_error(Y, T, dY=None, bint gradient=True):
    """Mean over all entries of (y - t)^2, and its gradient 2 (Y - T) / size.

    Parameters
    ----------
    Y, T : ndarray
        Of one shape.
    dY : ndarray, shape of Y, optional
        Overwritten.
    gradient : bool
        False leaves the gradient out.

    Returns
    -------
    loss : float
    dY : ndarray, or None if left out

    Raises
    ------
    TypeError, ValueError
        Arrays that kernels do not take, shapes that differ, no entries, dY overlapping an input.
    """
    cdef cnp.ndarray y = floats(Y, "Y", ANY_NDIM, ANY_DTYPE), t = like(T, "T", y)
    cdef cnp.npy_intp size = cnp.PyArray_SIZE(y)
    if size == 0:
        raise ValueError("a mean over 0 entries is not defined")
    cdef cnp.ndarray dy = output_like(dY, "dY", y) if gradient else None
    apart(dy, "dY", y, "Y", t, "T")
    cdef Caller caller = enter_pass(y)
    cdef double loss = kernels_for(y).mean_squared_error(
        pointer(y), pointer(t), pointer(dy), size, size)
    leave(caller)
    return loss / size, dy


def count_correct(scores, target):
    """Number of rows whose largest score stands at the label, or where the target row is largest.

    Parameters
    ----------
    scores : ndarray (n, n_classes)
    target : ndarray of int64 (n,) or of the scores' dtype (n, n_classes)

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
        pointer(x), labels_of(t), rows_of(t), cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1))


# ---- Updates ---------------------------------------------------------------------------------

def sgd_update(list gradients, list parameters, list velocities, double lr,
               double momentum=0.0, bint nesterov=False):
    """V := momentum V + dW;   W := W - lr V, or W - lr (dW + momentum V) if `nesterov`.

    Many parameters in one call: all are checked before the first is changed.

    Parameters
    ----------
    gradients : list of ndarray
        The dW.
    parameters : list of ndarray
        The W; changed in place.
    velocities : list of (ndarray or None)
        The V; changed in place. None: that parameter has no momentum, W := W - lr dW.
    lr, momentum : float
    nesterov : bool

    Raises
    ------
    TypeError, ValueError
        Arrays that kernels do not take, shapes that differ, read-only parameters, arrays of one
        parameter that overlap, lists of different lengths.
    """
    cdef cnp.ndarray dw, w, v
    cdef Py_ssize_t i, n = len(parameters)
    cdef Caller caller
    gradients, parameters, velocities = gradients[:], parameters[:], velocities[:]  # ours alone
    if not len(gradients) == n == len(velocities):
        raise ValueError("gradients, parameters and velocities must be lists of one length")
    for i in range(n):
        dw = floats(gradients[i], "gradient", ANY_NDIM, ANY_DTYPE)
        if parameters[i] is None:
            raise TypeError("parameter must be a numpy.ndarray, got None")
        w = output_like(parameters[i], "parameter", dw)
        check_rate(lr, cnp.PyArray_TYPE(w))
        v = None if velocities[i] is None else output_like(velocities[i], "velocity", dw)
        apart(w, "parameter", dw, "gradient", v, "velocity")
        apart(v, "velocity", dw, "gradient")
    for i in range(n):
        dw, w, v = gradients[i], parameters[i], velocities[i]
        caller = enter_pass(w)
        kernels_for(w).sgd_update(
            pointer(dw), pointer(w), pointer(v), cnp.PyArray_SIZE(w), lr, momentum, nesterov)
        leave(caller)
