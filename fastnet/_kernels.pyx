"""The arithmetic of fastnet, and nothing else: typed loops over pointers, without the GIL.

This one source is compiled once per float type and instruction set (setup.py names the modules);
`real` is float or double and `vec` a vector register of it, each fixed when C is compiled. So a
kernel is written once, without a branch per type. A finished module offers `table`, a capsule with
the function table of `_table.pxd`, through which everything else reaches the kernels.

Each kernel states its equation above its loop and has a twin of the same meaning in
`reference.py`, but for those that only look for bad values and for packing, which has no meaning.
The packed and the fused ones share the twins of the plain ones. Letters are those of the formulas:
X, W, b, Z, and dZ for the gradient of the loss by Z.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport INFINITY, NAN, isfinite, log, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastnet._table cimport (
    ADAM, BINARY_CROSS_ENTROPY, ELU, GELU, GELU_TANH, HUBER, LEAKY_RELU, MEAN_SQUARED_ERROR,
    PLAIN_SGD, POISSON, RMSPROP, SGD, SIGMOID, SILU, TANH, KernelTable, Update, real)

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const real *p)

cdef extern from "_machine.h":
    ctypedef float vec              # LANES reals in one register; operators work lane by lane
    ctypedef float vec_in_array     # LANES reals in an array, wherever it begins
    ctypedef double dvec            # a register of doubles; PARTS of them have LANES lanes
    ctypedef unsigned bits          # of a real, as a number
    ctypedef unsigned lanes         # the bits of a vec
    ctypedef unsigned long long bits64
    ctypedef unsigned long long dlanes
    enum:
        DIGITS
        BIAS
        LANES
        PARTS
        ROWS
        VECTORS
        MANY
        FEW
        WIDE
        DEPTH                       # of a strip of B, on the stack if it is copied
    dvec widen(vec v, int k) nogil      # part k of v as doubles
    void narrow(dvec d, vec *v, int k) nogil    # and back
    vec broadcast(real x) nogil         # x in every lane
    dvec broadcast_double(double x) nogil
    vec larger(vec a, vec b) nogil      # max(a, b); b where either is NaN
    vec smaller(vec a, vec b) nogil     # min(a, b); b where either is NaN
    vec vec_sqrt(vec v) nogil
    vec times_power_of_2(vec v, vec k) nogil    # v 2^k for whole |k| <= 2 BIAS
    vec in_register(vec v) nogil        # v, which gcc would else load wherever it is used
    vec load_first(const real *p, Py_ssize_t n) nogil   # n lanes, and 0 in the others
    void store_first(real *p, vec v, Py_ssize_t n) nogil
    vec zip_low(vec a, vec b) nogil     # a0 b0 a1 b1 ...: the first LANES of them
    vec zip_high(vec a, vec b) nogil    # and the others

include "_vectors.pxi"
include "_exp_log.pxi"
include "_elementwise.pxi"
include "_activations.pxi"
include "_products.pxi"
include "_updates.pxi"
include "_dense.pxi"
include "_softmax.pxi"
include "_layer_norm.pxi"
include "_dropout.pxi"
include "_losses.pxi"
include "_targets.pxi"
include "_entry_losses.pxi"
include "_door.pxi"

cdef KernelTable _table = KernelTable(
    dense_forward=dense_forward,
    dense_backward=dense_backward,
    input_gradient=input_gradient,
    weight_gradient=weight_gradient,
    sum_rows=sum_rows,
    pack_weights=pack_weights,
    dense_forward_packed=dense_forward_packed,
    dense_update=dense_update,
    exp_forward=exp_forward,
    log_forward=log_forward,
    relu_forward=relu_forward,
    relu_backward=relu_backward,
    activation_forward=activation_forward,
    activation_backward=activation_backward,
    dropout=dropout,
    add_forward=add_forward,
    add_backward=add_backward,
    maximum_forward=maximum_forward,
    maximum_backward=maximum_backward,
    scale=scale,
    scale_rows=scale_rows,
    softmax_forward=softmax_forward,
    softmax_backward=softmax_backward,
    log_softmax_forward=log_softmax_forward,
    log_softmax_backward=log_softmax_backward,
    layer_norm_forward=layer_norm_forward,
    layer_norm_backward=layer_norm_backward,
    softmax_cross_entropy=softmax_cross_entropy,
    cross_entropy=cross_entropy,
    negative_log_likelihood=negative_log_likelihood,
    entry_losses=entry_losses,
    target_rows=target_rows,
    sum_of_weights=sum_of_weights,
    count_correct=count_correct,
    count_same_side=count_same_side,
    r2_score=r2_score,
    first_bad_weight=first_bad_weight,
    first_not_finite=first_not_finite,
    first_bad_probability=first_bad_probability,
    update=update,
    sum_of_squares=sum_of_squares,
)

debug = DEBUG != 0      # whether this is a debug build
set_door(&_table)
table = PyCapsule_New(&_table, "fastnet.KernelTable", NULL)
