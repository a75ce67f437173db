"""The table of kernels: the only door between the arithmetic and the modules that call it.

A kernel module (`_kernels.pyx`, compiled once per float type and instruction set) fills one table.
All arrays are contiguous and rows are samples. Arguments stand in the order const inputs, outputs,
dims, scalars; "or NULL" marks what may be left out. Outputs are overwritten and must not overlap
the inputs. Kernels cannot fail: whoever calls them has checked the arguments.
"""

cdef extern from "_machine.h":
    ctypedef float real     # float or double in a kernel module, void in a module that calls one

cdef struct KernelTable:
    # Z := X W + b, then max(Z, 0) if relu.   b or NULL
    void (*dense_forward)(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil
    # dX := dZ W^T, then 0 where X <= 0 if relu (X is what a ReLU gave);   dW := X^T dZ,
    # db := sum of the rows of dZ, or dW += and db += if add.   dX, dW, db each or NULL
    void (*dense_backward)(
        const real *X, const real *W, const real *dZ, real *dX, real *dW, real *db,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu, bint add) noexcept nogil
    # packed := W, in the order in which dense_forward_packed reads it; returns how many entries
    # packed NULL: only tells the number
    Py_ssize_t (*pack_weights)(
        const real *W, real *packed, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil
    void (*dense_forward_packed)(
        const real *X, const real *packed, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil
    # dX := dZ W^T, then 0 where X <= 0 if relu;   dW := X^T dZ and sgd_update of W and V with it,
    # some rows at a time; dW has room for these.   dX or NULL; V NULL: momentum is 0
    # returns whether all of W is finite afterwards
    bint (*dense_sgd_update)(
        const real *X, const real *dZ, real *dX, real *dW, real *W, real *V,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu, Py_ssize_t rows,
        double lr, double momentum, bint nesterov) noexcept nogil

    # Y := exp(X);   Y := log(X)
    void (*exp_forward)(const real *X, real *Y, Py_ssize_t size) noexcept nogil
    void (*log_forward)(const real *X, real *Y, Py_ssize_t size) noexcept nogil
    # Y := max(X, 0);   dX := 0 where X <= 0, else dY (so a NaN in X lets dY pass)
    void (*relu_forward)(const real *X, real *Y, Py_ssize_t size) noexcept nogil
    void (*relu_backward)(
        const real *X, const real *dY, real *dX, Py_ssize_t size) noexcept nogil
    # Y := A + B;   dA := dY,   dB := dY
    void (*add_forward)(const real *A, const real *B, real *Y, Py_ssize_t size) noexcept nogil
    void (*add_backward)(const real *dY, real *dA, real *dB, Py_ssize_t size) noexcept nogil
    # Y := max(A, B);   dA := dY where Y is A (A >= B, or A is NaN), dB := dY elsewhere; else 0
    void (*maximum_forward)(
        const real *A, const real *B, real *Y, Py_ssize_t size) noexcept nogil
    void (*maximum_backward)(
        const real *A, const real *B, const real *dY, real *dA, real *dB,
        Py_ssize_t size) noexcept nogil
    # Y := factor X, and with dY for X its own backward
    void (*scale)(const real *X, real *Y, Py_ssize_t size, double factor) noexcept nogil

    # Y := exp(X) / row sum of exp(X);   dX := Y (dY - row sum of dY Y)
    void (*softmax_forward)(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil
    void (*softmax_backward)(
        const real *Y, const real *dY, real *dX,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil

    # Losses return the sum over the rows (of mean_squared_error: the entries) and write the
    # gradient of that sum / total.   labels or T is NULL;   gradient or NULL
    double (*softmax_cross_entropy)(
        const real *logits, const Py_ssize_t *labels, const real *T, real *dlogits,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil
    double (*cross_entropy)(
        const real *P, const Py_ssize_t *labels, const real *T, real *dP,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil
    double (*mean_squared_error)(
        const real *Y, const real *T, real *dY, Py_ssize_t size, double total) noexcept nogil
    # number of rows whose largest score stands where the target says.   labels or T is NULL
    Py_ssize_t (*count_correct)(
        const real *scores, const Py_ssize_t *labels, const real *T,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil
    # index of the first entry that cannot be a target weight (finite, >= 0), or -1
    Py_ssize_t (*first_bad_weight)(const real *T, Py_ssize_t size) noexcept nogil
    # index of the first entry that is infinite or NaN, or -1
    Py_ssize_t (*first_not_finite)(const real *X, Py_ssize_t size) noexcept nogil
    # index of the first entry that cannot be a probability (0 .. 1, with room for rounding), or -1
    Py_ssize_t (*first_bad_probability)(const real *P, Py_ssize_t size) noexcept nogil

    # V := momentum V + dW;   W := W - lr V, or W - lr (dW + momentum V) if nesterov
    # V NULL: momentum is 0.   returns whether all of W is finite afterwards
    bint (*sgd_update)(
        const real *dW, real *W, real *V, Py_ssize_t size,
        double lr, double momentum, bint nesterov) noexcept nogil
