"""The table of kernels: the only door between the arithmetic and the modules that call it.

A kernel module (`_kernels.pyx`, compiled once per float type and instruction set) fills one table.
All arrays are contiguous and rows are samples. Arguments stand in the order const inputs, outputs,
dims, scalars; "or NULL" marks what may be left out. Outputs are overwritten and must not overlap
the inputs. Kernels cannot fail: whoever calls them has checked the arguments.
"""

from libc.stdint cimport uint64_t

cdef extern from "_machine.h":
    ctypedef float real     # float or double in a kernel module, void in a module that calls one

# Entry by entry, with a parameter alpha of which the first two make use.
cdef enum Activation:
    LEAKY_RELU
    ELU
    SIGMOID
    TANH
    GELU
    GELU_TANH
    SILU

# Losses without a sum over classes.
cdef enum EntryLoss:
    MEAN_SQUARED_ERROR
    BINARY_CROSS_ENTROPY
    HUBER
    POISSON

cdef enum Rule:
    PLAIN_SGD       # SGD with gain, look and shrink 1, direct and decay 0, without clipping
    SGD
    ADAM
    RMSPROP

# The numbers of one step. Where conventions differ - the learning rate inside the velocity or
# outside, where an epsilon stands - the numbers do, not the kernels.
cdef struct Update:
    int rule
    double rate         # what the step is multiplied by
    double scale        # of gradients: clipping by the norm makes it less than 1
    double clip         # gradients are kept within -clip and clip
    double decay        # times W is added to gradients
    double shrink       # what W is multiplied by
    double momentum     # of the first array: a velocity, or the mean of gradients
    double gain, look, direct   # SGD: A = momentum A + gain g, and the step is look A + direct g
    double memory       # of the second array, the mean of squares, and of the third
    double root, eps    # ADAM: A / (root sqrt(B) + eps)

cdef struct KernelTable:
    # Z := X W + b, then max(Z, 0) if relu.   b or NULL.   X and Z: `rows` of n rows, which have the
    # bits that they have among all of them, if they begin at multiples of 16; of Z columns from
    # about `first` to `end`: calls that share out 0 to n_out leave none out
    void (*dense_forward)(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu,
        Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil
    # dX := dZ W^T, then 0 where X <= 0 if relu (X is what a ReLU gave);   dW := X^T dZ,
    # db := sum of the rows of dZ, or dW += and db += if add.   dX, dW, db each or NULL
    void (*dense_backward)(
        const real *X, const real *W, const real *dZ, real *dX, real *dW, real *db,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu, bint add) noexcept nogil
    # The three of dense_backward one by one.   mask: X, or NULL
    # dZ, mask and dX: `rows` of n rows, and of dX some of its n_in columns, as above
    # dW: `rows` of its n_in rows, from `first` on, a multiple of 16, and columns as above
    void (*input_gradient)(
        const real *W, const real *dZ, const real *mask, real *dX,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out,
        Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil
    void (*weight_gradient)(
        const real *X, const real *dZ, real *dW, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out,
        Py_ssize_t first, Py_ssize_t rows, Py_ssize_t column, Py_ssize_t end,
        bint add) noexcept nogil
    void (*sum_rows)(
        const real *dZ, real *db, Py_ssize_t n, Py_ssize_t n_out, bint add) noexcept nogil
    # packed := W, in the order in which dense_forward_packed reads it; returns how many entries
    # packed NULL: only tells the number
    Py_ssize_t (*pack_weights)(
        const real *W, real *packed, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil
    void (*dense_forward_packed)(
        const real *X, const real *packed, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu,
        Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil
    # dW := X^T dZ and `update` of W with it, `together` rows at a time, for which dW has room;
    # `rows` of the n_in rows, from `first` on, in parts as above
    # of a single sample also its dX := dZ W^T, then 0 where X <= 0 if relu.   dX or NULL
    # returns whether all of these rows of W are finite afterwards
    bint (*dense_update)(
        const real *X, const real *dZ, real *dX, real *dW, real *W, real *A, real *B, real *C,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu,
        Py_ssize_t first, Py_ssize_t rows, Py_ssize_t together, const Update *u) noexcept nogil

    # Y := exp(X);   Y := log(X)
    void (*exp_forward)(const real *X, real *Y, Py_ssize_t size) noexcept nogil
    void (*log_forward)(const real *X, real *Y, Py_ssize_t size) noexcept nogil
    # Y := max(X, 0);   dX := 0 where X <= 0, else dY (so a NaN in X lets dY pass)
    void (*relu_forward)(const real *X, real *Y, Py_ssize_t size) noexcept nogil
    void (*relu_backward)(
        const real *X, const real *dY, real *dX, Py_ssize_t size) noexcept nogil
    # Y := f(X);   dX := f'(X) dY, where Y is f(X).   kind: an Activation
    void (*activation_forward)(
        const real *X, real *Y, Py_ssize_t size, int kind, double alpha) noexcept nogil
    void (*activation_backward)(
        const real *X, const real *Y, const real *dY, real *dX, Py_ssize_t size,
        int kind, double alpha) noexcept nogil
    # Y := 0 where entry first + i is dropped, else X / (1 - p), and with dY for X its own backward
    # p: share of what is dropped;   which ones depends on the seed and on their numbers alone
    void (*dropout)(
        const real *X, real *Y, Py_ssize_t size, double p, uint64_t seed,
        uint64_t first) noexcept nogil
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

    # Y := factor of the row X
    void (*scale_rows)(
        const real *X, const real *factors, real *Y, Py_ssize_t n, Py_ssize_t width) noexcept nogil

    # Y := exp(X) / row sum of exp(X);   dX := Y (dY - row sum of dY Y)
    void (*softmax_forward)(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil
    void (*softmax_backward)(
        const real *Y, const real *dY, real *dX,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil

    # Y := X - log(row sum of exp(X));   dX := dY - exp(Y) row sum of dY
    void (*log_softmax_forward)(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil
    void (*log_softmax_backward)(
        const real *Y, const real *dY, real *dX,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil

    # Y := weight (X - mean) / sqrt(variance + eps) + bias, of each row, and its backward
    # weight, bias, dX, dweight, dbias each or NULL;   dweight += and dbias += if add
    # stats: 2 numbers a row, from forward to backward
    void (*layer_norm_forward)(
        const real *X, const real *weight, const real *bias, real *Y, double *stats,
        Py_ssize_t n, Py_ssize_t width, double eps) noexcept nogil
    void (*layer_norm_backward)(
        const real *X, const real *weight, const double *stats, const real *dY, real *dX,
        real *dweight, real *dbias, Py_ssize_t n, Py_ssize_t width, bint add) noexcept nogil

    # Losses return the sum over the rows (of entry_losses: the entries) and write the gradient of
    # that sum / total.   labels or T is NULL;   gradient or NULL;   losses, of each row, or NULL
    double (*softmax_cross_entropy)(
        const real *logits, const Py_ssize_t *labels, const real *T, real *dlogits, real *losses,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil
    double (*cross_entropy)(
        const real *P, const Py_ssize_t *labels, const real *T, real *dP,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil
    double (*negative_log_likelihood)(
        const real *L, const real *T, real *dL, real *losses,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil
    # kind: an EntryLoss;   weights, of rows or if `each` of entries, or NULL;   losses, of each
    # entry, or NULL;   positive: p of BINARY_CROSS_ENTROPY for each column, or NULL
    double (*entry_losses)(
        const real *Y, const real *T, const real *weights, bint each, const real *positive,
        real *dY, real *losses, Py_ssize_t n, Py_ssize_t n_out, int kind, double total,
        double delta) noexcept nogil
    # T := w c ((1 - smoothing) r + smoothing mean(r)) for every sample, with the row r of its label
    # or of R, its weight w and the classes' weights c; 0 where the label is `ignored`
    # returns the sum of w c_label, or of w for rows.   labels or R is NULL; weights each or NULL
    double (*target_rows)(
        const Py_ssize_t *labels, const real *R, const real *sample_weight,
        const real *class_weight, real *T, Py_ssize_t n, Py_ssize_t n_classes,
        Py_ssize_t ignored, double smoothing) noexcept nogil
    double (*sum_of_weights)(const real *weights, Py_ssize_t n) noexcept nogil
    # number of rows with one of the k largest scores where the target says.   labels or T is NULL
    Py_ssize_t (*count_correct)(
        const real *scores, const Py_ssize_t *labels, const real *T,
        Py_ssize_t n, Py_ssize_t n_classes, Py_ssize_t k) noexcept nogil
    # number of entries with (score > 0) = (t > 1/2)
    Py_ssize_t (*count_same_side)(
        const real *scores, const real *T, Py_ssize_t size) noexcept nogil
    # mean over columns of 1 - sum (t - y)^2 / sum (t - mean t)^2; a constant column: 1 or 0
    double (*r2_score)(
        const real *Y, const real *T, Py_ssize_t n, Py_ssize_t n_out) noexcept nogil
    # index of the first entry that cannot be a target weight (finite, >= 0), or -1
    Py_ssize_t (*first_bad_weight)(const real *T, Py_ssize_t size) noexcept nogil
    # index of the first entry that is infinite or NaN, or -1
    Py_ssize_t (*first_not_finite)(const real *X, Py_ssize_t size) noexcept nogil
    # index of the first entry that cannot be a probability (0 .. 1, with room for rounding), or -1
    Py_ssize_t (*first_bad_probability)(const real *P, Py_ssize_t size) noexcept nogil

    # One step of W by dW with up to three arrays of state (A, B, C), each or NULL: see Update.
    # returns whether all of W is finite afterwards
    bint (*update)(
        const real *dW, real *W, real *A, real *B, real *C, Py_ssize_t size,
        const Update *u) noexcept nogil
    double (*sum_of_squares)(const real *X, Py_ssize_t size) noexcept nogil
