# The table's door in a debug build (FASTNET_DEBUG=1): each kernel is asked for by way of a function
# that looks at what it is given. Sizes are not negative, arrays are there and aligned, parts lie
# inside the whole, and an output overlaps nothing that was named before it - but for entry by entry
# work, which may write where it reads. Whoever breaks this gets a message on stderr, and an end.

cdef extern from *:
    """
    #ifndef FASTNET_DEBUG
    #define FASTNET_DEBUG 0
    #endif
    """
    const int DEBUG "FASTNET_DEBUG"

cdef extern from "<stdio.h>" nogil:
    ctypedef struct FILE:
        pass
    FILE *stderr
    int fprintf(FILE *, const char *, ...)

cdef extern from "<stdlib.h>" nogil:
    void abort()

cdef struct Arrays:
    const char *kernel
    int n
    const char *starts[8]
    const char *ends[8]

cdef KernelTable behind_door


cdef void refuse(const Arrays *a, const char *why) noexcept nogil:
    fprintf(stderr, "fastnet debug build: %s: %s\n", a.kernel, why)
    abort()


cdef void in_range(const Arrays *a, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    if first < 0 or rows < 0 or first > n - rows:
        refuse(a, "rows beyond the whole")


cdef void reads(
        Arrays *a, const void *array, Py_ssize_t size, size_t itemsize,
        bint optional) noexcept nogil:
    if size < 0:
        refuse(a, "a negative size")
    if array == NULL:
        if size > 0 and not optional:
            refuse(a, "NULL in place of an array")
        return
    if <size_t>array % itemsize:
        refuse(a, "an array that is not aligned")
    a.starts[a.n] = <const char *>array
    a.ends[a.n] = a.starts[a.n] + size * <Py_ssize_t>itemsize
    a.n += 1


cdef void writes(
        Arrays *a, const void *array, Py_ssize_t size, size_t itemsize, bint optional,
        bint in_place) noexcept nogil:
    cdef int i, before = a.n
    reads(a, array, size, itemsize, optional)
    if a.n == before:
        return
    for i in range(before):
        if in_place and a.starts[i] == a.starts[before] and a.ends[i] == a.ends[before]:
            continue
        if a.starts[i] < a.ends[before] and a.starts[before] < a.ends[i]:
            refuse(a, "an output overlaps another array")


cdef void door_dense_forward(
        const real *X, const real *W, const real *b, real *Z, Py_ssize_t n, Py_ssize_t n_in,
        Py_ssize_t n_out, bint relu, Py_ssize_t rows, Py_ssize_t first,
        Py_ssize_t end) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "dense_forward", 0
    in_range(&a, 0, rows, n)
    in_range(&a, first, end - first, n_out)
    reads(&a, X, rows * n_in, sizeof(real), False)
    reads(&a, W, n_in * n_out, sizeof(real), False)
    reads(&a, b, n_out, sizeof(real), True)
    writes(&a, Z, rows * n_out, sizeof(real), False, False)
    behind_door.dense_forward(X, W, b, Z, n, n_in, n_out, relu, rows, first, end)


cdef void door_dense_backward(
        const real *X, const real *W, const real *dZ, real *dX, real *dW, real *db, Py_ssize_t n,
        Py_ssize_t n_in, Py_ssize_t n_out, bint relu, bint add) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "dense_backward", 0
    reads(&a, X, n * n_in, sizeof(real), False)
    reads(&a, W, n_in * n_out, sizeof(real), False)
    reads(&a, dZ, n * n_out, sizeof(real), False)
    writes(&a, dX, n * n_in, sizeof(real), True, False)
    writes(&a, dW, n_in * n_out, sizeof(real), True, False)
    writes(&a, db, n_out, sizeof(real), True, False)
    behind_door.dense_backward(X, W, dZ, dX, dW, db, n, n_in, n_out, relu, add)


cdef void door_input_gradient(
        const real *W, const real *dZ, const real *mask, real *dX, Py_ssize_t n, Py_ssize_t n_in,
        Py_ssize_t n_out, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "input_gradient", 0
    in_range(&a, 0, rows, n)
    in_range(&a, first, end - first, n_in)
    reads(&a, W, n_in * n_out, sizeof(real), False)
    reads(&a, dZ, rows * n_out, sizeof(real), False)
    reads(&a, mask, rows * n_in, sizeof(real), True)
    writes(&a, dX, rows * n_in, sizeof(real), False, False)
    behind_door.input_gradient(W, dZ, mask, dX, n, n_in, n_out, rows, first, end)


cdef void door_weight_gradient(
        const real *X, const real *dZ, real *dW, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out,
        Py_ssize_t first, Py_ssize_t rows, Py_ssize_t column, Py_ssize_t end,
        bint add) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "weight_gradient", 0
    in_range(&a, first, rows, n_in)
    in_range(&a, column, end - column, n_out)
    reads(&a, X, n * n_in, sizeof(real), False)
    reads(&a, dZ, n * n_out, sizeof(real), False)
    writes(&a, dW, rows * n_out, sizeof(real), False, False)
    behind_door.weight_gradient(X, dZ, dW, n, n_in, n_out, first, rows, column, end, add)


cdef void door_sum_rows(
        const real *dZ, real *db, Py_ssize_t n, Py_ssize_t n_out, bint add) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "sum_rows", 0
    reads(&a, dZ, n * n_out, sizeof(real), False)
    writes(&a, db, n_out, sizeof(real), False, False)
    behind_door.sum_rows(dZ, db, n, n_out, add)


cdef void door_dense_forward_packed(
        const real *X, const real *packed, const real *b, real *Z, Py_ssize_t n, Py_ssize_t n_in,
        Py_ssize_t n_out, bint relu, Py_ssize_t rows, Py_ssize_t first,
        Py_ssize_t end) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "dense_forward_packed", 0
    in_range(&a, 0, rows, n)
    in_range(&a, first, end - first, n_out)
    reads(&a, X, rows * n_in, sizeof(real), False)
    reads(&a, packed, n_in * n_out, sizeof(real), False)
    reads(&a, b, n_out, sizeof(real), True)
    writes(&a, Z, rows * n_out, sizeof(real), False, False)
    behind_door.dense_forward_packed(X, packed, b, Z, n, n_in, n_out, relu, rows, first, end)


cdef bint door_dense_update(
        const real *X, const real *dZ, real *dX, real *dW, real *W, real *A, real *B, real *C,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu, Py_ssize_t first,
        Py_ssize_t rows, Py_ssize_t together, const Update *u) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "dense_update", 0
    in_range(&a, first, rows, n_in)
    reads(&a, X, n * n_in, sizeof(real), False)
    reads(&a, dZ, n * n_out, sizeof(real), False)
    writes(&a, dX, n * n_in, sizeof(real), True, False)
    if n != 1:                      # a single sample's goes into the update without being stored
        writes(&a, dW, min(together, rows) * n_out, sizeof(real), False, False)
    writes(&a, W, n_in * n_out, sizeof(real), False, False)
    writes(&a, A, n_in * n_out, sizeof(real), True, False)
    writes(&a, B, n_in * n_out, sizeof(real), True, False)
    writes(&a, C, n_in * n_out, sizeof(real), True, False)
    return behind_door.dense_update(
        X, dZ, dX, dW, W, A, B, C, n, n_in, n_out, relu, first, rows, together, u)


cdef void door_exp_forward(
        const real *X, real *Y, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "exp_forward", 0
    reads(&a, X, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.exp_forward(X, Y, size)


cdef void door_log_forward(
        const real *X, real *Y, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "log_forward", 0
    reads(&a, X, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.log_forward(X, Y, size)


cdef void door_relu_forward(
        const real *X, real *Y, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "relu_forward", 0
    reads(&a, X, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.relu_forward(X, Y, size)


cdef void door_relu_backward(
        const real *X, const real *dY, real *dX, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "relu_backward", 0
    reads(&a, X, size, sizeof(real), False)
    reads(&a, dY, size, sizeof(real), False)
    writes(&a, dX, size, sizeof(real), False, True)
    behind_door.relu_backward(X, dY, dX, size)


cdef void door_activation_forward(
        const real *X, real *Y, Py_ssize_t size, int kind, double alpha) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "activation_forward", 0
    reads(&a, X, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.activation_forward(X, Y, size, kind, alpha)


cdef void door_activation_backward(
        const real *X, const real *Y, const real *dY, real *dX, Py_ssize_t size, int kind,
        double alpha) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "activation_backward", 0
    reads(&a, X, size, sizeof(real), False)
    reads(&a, Y, size, sizeof(real), False)
    reads(&a, dY, size, sizeof(real), False)
    writes(&a, dX, size, sizeof(real), False, True)
    behind_door.activation_backward(X, Y, dY, dX, size, kind, alpha)


cdef void door_dropout(
        const real *X, real *Y, Py_ssize_t size, double p, uint64_t seed,
        uint64_t first) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "dropout", 0
    reads(&a, X, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.dropout(X, Y, size, p, seed, first)


cdef void door_add_forward(
        const real *A, const real *B, real *Y, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "add_forward", 0
    reads(&a, A, size, sizeof(real), False)
    reads(&a, B, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.add_forward(A, B, Y, size)


cdef void door_add_backward(
        const real *dY, real *dA, real *dB, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "add_backward", 0
    reads(&a, dY, size, sizeof(real), False)
    writes(&a, dA, size, sizeof(real), False, True)
    writes(&a, dB, size, sizeof(real), False, True)
    behind_door.add_backward(dY, dA, dB, size)


cdef void door_maximum_forward(
        const real *A, const real *B, real *Y, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "maximum_forward", 0
    reads(&a, A, size, sizeof(real), False)
    reads(&a, B, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.maximum_forward(A, B, Y, size)


cdef void door_maximum_backward(
        const real *A, const real *B, const real *dY, real *dA, real *dB,
        Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "maximum_backward", 0
    reads(&a, A, size, sizeof(real), False)
    reads(&a, B, size, sizeof(real), False)
    reads(&a, dY, size, sizeof(real), False)
    writes(&a, dA, size, sizeof(real), False, True)
    writes(&a, dB, size, sizeof(real), False, True)
    behind_door.maximum_backward(A, B, dY, dA, dB, size)


cdef void door_scale(
        const real *X, real *Y, Py_ssize_t size, double factor) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "scale", 0
    reads(&a, X, size, sizeof(real), False)
    writes(&a, Y, size, sizeof(real), False, True)
    behind_door.scale(X, Y, size, factor)


cdef void door_scale_rows(
        const real *X, const real *factors, real *Y, Py_ssize_t n,
        Py_ssize_t width) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "scale_rows", 0
    reads(&a, X, n * width, sizeof(real), False)
    reads(&a, factors, n, sizeof(real), False)
    writes(&a, Y, n * width, sizeof(real), False, True)
    behind_door.scale_rows(X, factors, Y, n, width)


cdef void door_softmax_forward(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "softmax_forward", 0
    reads(&a, X, n * n_classes, sizeof(real), False)
    writes(&a, Y, n * n_classes, sizeof(real), False, True)
    behind_door.softmax_forward(X, Y, n, n_classes)


cdef void door_softmax_backward(
        const real *Y, const real *dY, real *dX, Py_ssize_t n,
        Py_ssize_t n_classes) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "softmax_backward", 0
    reads(&a, Y, n * n_classes, sizeof(real), False)
    reads(&a, dY, n * n_classes, sizeof(real), False)
    writes(&a, dX, n * n_classes, sizeof(real), False, True)
    behind_door.softmax_backward(Y, dY, dX, n, n_classes)


cdef void door_log_softmax_forward(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "log_softmax_forward", 0
    reads(&a, X, n * n_classes, sizeof(real), False)
    writes(&a, Y, n * n_classes, sizeof(real), False, True)
    behind_door.log_softmax_forward(X, Y, n, n_classes)


cdef void door_log_softmax_backward(
        const real *Y, const real *dY, real *dX, Py_ssize_t n,
        Py_ssize_t n_classes) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "log_softmax_backward", 0
    reads(&a, Y, n * n_classes, sizeof(real), False)
    reads(&a, dY, n * n_classes, sizeof(real), False)
    writes(&a, dX, n * n_classes, sizeof(real), False, True)
    behind_door.log_softmax_backward(Y, dY, dX, n, n_classes)


cdef void door_layer_norm_forward(
        const real *X, const real *weight, const real *bias, real *Y, double *stats, Py_ssize_t n,
        Py_ssize_t width, double eps) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "layer_norm_forward", 0
    reads(&a, X, n * width, sizeof(real), False)
    reads(&a, weight, width, sizeof(real), True)
    reads(&a, bias, width, sizeof(real), True)
    writes(&a, Y, n * width, sizeof(real), False, False)
    writes(&a, stats, 2 * n, sizeof(double), False, False)
    behind_door.layer_norm_forward(X, weight, bias, Y, stats, n, width, eps)


cdef void door_layer_norm_backward(
        const real *X, const real *weight, const double *stats, const real *dY, real *dX,
        real *dweight, real *dbias, Py_ssize_t n, Py_ssize_t width, bint add) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "layer_norm_backward", 0
    reads(&a, X, n * width, sizeof(real), False)
    reads(&a, weight, width, sizeof(real), True)
    reads(&a, stats, 2 * n, sizeof(double), False)
    reads(&a, dY, n * width, sizeof(real), False)
    writes(&a, dX, n * width, sizeof(real), True, False)
    writes(&a, dweight, width, sizeof(real), True, False)
    writes(&a, dbias, width, sizeof(real), True, False)
    behind_door.layer_norm_backward(X, weight, stats, dY, dX, dweight, dbias, n, width, add)


cdef double door_softmax_cross_entropy(
        const real *logits, const Py_ssize_t *labels, const real *T, real *dlogits, real *losses,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "softmax_cross_entropy", 0
    reads(&a, logits, n * n_classes, sizeof(real), False)
    reads(&a, labels, n, sizeof(Py_ssize_t), True)
    reads(&a, T, n * n_classes, sizeof(real), True)
    writes(&a, dlogits, n * n_classes, sizeof(real), True, False)
    writes(&a, losses, n, sizeof(real), True, False)
    return behind_door.softmax_cross_entropy(
        logits, labels, T, dlogits, losses, n, n_classes, total)


cdef double door_cross_entropy(
        const real *P, const Py_ssize_t *labels, const real *T, real *dP, Py_ssize_t n,
        Py_ssize_t n_classes, double total) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "cross_entropy", 0
    reads(&a, P, n * n_classes, sizeof(real), False)
    reads(&a, labels, n, sizeof(Py_ssize_t), True)
    reads(&a, T, n * n_classes, sizeof(real), True)
    writes(&a, dP, n * n_classes, sizeof(real), True, False)
    return behind_door.cross_entropy(P, labels, T, dP, n, n_classes, total)


cdef double door_negative_log_likelihood(
        const real *L, const real *T, real *dL, real *losses, Py_ssize_t n, Py_ssize_t n_classes,
        double total) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "negative_log_likelihood", 0
    reads(&a, L, n * n_classes, sizeof(real), False)
    reads(&a, T, n * n_classes, sizeof(real), False)
    writes(&a, dL, n * n_classes, sizeof(real), True, False)
    writes(&a, losses, n, sizeof(real), True, False)
    return behind_door.negative_log_likelihood(L, T, dL, losses, n, n_classes, total)


cdef double door_entry_losses(
        const real *Y, const real *T, const real *weights, bint each, const real *positive,
        real *dY, real *losses, Py_ssize_t n, Py_ssize_t n_out, int kind, double total,
        double delta) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "entry_losses", 0
    reads(&a, Y, n * n_out, sizeof(real), False)
    reads(&a, T, n * n_out, sizeof(real), False)
    reads(&a, weights, n * n_out if each else n, sizeof(real), True)
    reads(&a, positive, n_out, sizeof(real), True)
    writes(&a, dY, n * n_out, sizeof(real), True, False)
    writes(&a, losses, n * n_out, sizeof(real), True, False)
    return behind_door.entry_losses(
        Y, T, weights, each, positive, dY, losses, n, n_out, kind, total, delta)


cdef double door_target_rows(
        const Py_ssize_t *labels, const real *R, const real *sample_weight,
        const real *class_weight, real *T, Py_ssize_t n, Py_ssize_t n_classes, Py_ssize_t ignored,
        double smoothing) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "target_rows", 0
    reads(&a, labels, n, sizeof(Py_ssize_t), True)
    reads(&a, R, n * n_classes, sizeof(real), True)
    reads(&a, sample_weight, n, sizeof(real), True)
    reads(&a, class_weight, n_classes, sizeof(real), True)
    writes(&a, T, n * n_classes, sizeof(real), False, False)
    return behind_door.target_rows(
        labels, R, sample_weight, class_weight, T, n, n_classes, ignored, smoothing)


cdef double door_sum_of_weights(
        const real *weights, Py_ssize_t n) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "sum_of_weights", 0
    reads(&a, weights, n, sizeof(real), False)
    return behind_door.sum_of_weights(weights, n)


cdef Py_ssize_t door_count_correct(
        const real *scores, const Py_ssize_t *labels, const real *T, Py_ssize_t n,
        Py_ssize_t n_classes, Py_ssize_t k) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "count_correct", 0
    reads(&a, scores, n * n_classes, sizeof(real), False)
    reads(&a, labels, n, sizeof(Py_ssize_t), True)
    reads(&a, T, n * n_classes, sizeof(real), True)
    return behind_door.count_correct(scores, labels, T, n, n_classes, k)


cdef Py_ssize_t door_count_same_side(
        const real *scores, const real *T, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "count_same_side", 0
    reads(&a, scores, size, sizeof(real), False)
    reads(&a, T, size, sizeof(real), False)
    return behind_door.count_same_side(scores, T, size)


cdef double door_r2_score(
        const real *Y, const real *T, Py_ssize_t n, Py_ssize_t n_out) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "r2_score", 0
    reads(&a, Y, n * n_out, sizeof(real), False)
    reads(&a, T, n * n_out, sizeof(real), False)
    return behind_door.r2_score(Y, T, n, n_out)


cdef Py_ssize_t door_first_bad_weight(
        const real *T, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "first_bad_weight", 0
    reads(&a, T, size, sizeof(real), False)
    return behind_door.first_bad_weight(T, size)


cdef Py_ssize_t door_first_not_finite(
        const real *X, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "first_not_finite", 0
    reads(&a, X, size, sizeof(real), False)
    return behind_door.first_not_finite(X, size)


cdef Py_ssize_t door_first_bad_probability(
        const real *P, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "first_bad_probability", 0
    reads(&a, P, size, sizeof(real), False)
    return behind_door.first_bad_probability(P, size)


cdef bint door_update(
        const real *dW, real *W, real *A, real *B, real *C, Py_ssize_t size,
        const Update *u) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "update", 0
    reads(&a, dW, size, sizeof(real), False)
    writes(&a, W, size, sizeof(real), False, False)
    writes(&a, A, size, sizeof(real), True, False)
    writes(&a, B, size, sizeof(real), True, False)
    writes(&a, C, size, sizeof(real), True, False)
    return behind_door.update(dW, W, A, B, C, size, u)


cdef double door_sum_of_squares(
        const real *X, Py_ssize_t size) noexcept nogil:
    cdef Arrays a
    a.kernel, a.n = "sum_of_squares", 0
    reads(&a, X, size, sizeof(real), False)
    return behind_door.sum_of_squares(X, size)


cdef void set_door(KernelTable *table) noexcept nogil:
    """In a debug build, let the table lead here first."""
    if not DEBUG:
        return
    global behind_door
    behind_door = table[0]
    table.dense_forward = door_dense_forward
    table.dense_backward = door_dense_backward
    table.input_gradient = door_input_gradient
    table.weight_gradient = door_weight_gradient
    table.sum_rows = door_sum_rows
    table.dense_forward_packed = door_dense_forward_packed
    table.dense_update = door_dense_update
    table.exp_forward = door_exp_forward
    table.log_forward = door_log_forward
    table.relu_forward = door_relu_forward
    table.relu_backward = door_relu_backward
    table.activation_forward = door_activation_forward
    table.activation_backward = door_activation_backward
    table.dropout = door_dropout
    table.add_forward = door_add_forward
    table.add_backward = door_add_backward
    table.maximum_forward = door_maximum_forward
    table.maximum_backward = door_maximum_backward
    table.scale = door_scale
    table.scale_rows = door_scale_rows
    table.softmax_forward = door_softmax_forward
    table.softmax_backward = door_softmax_backward
    table.log_softmax_forward = door_log_softmax_forward
    table.log_softmax_backward = door_log_softmax_backward
    table.layer_norm_forward = door_layer_norm_forward
    table.layer_norm_backward = door_layer_norm_backward
    table.softmax_cross_entropy = door_softmax_cross_entropy
    table.cross_entropy = door_cross_entropy
    table.negative_log_likelihood = door_negative_log_likelihood
    table.entry_losses = door_entry_losses
    table.target_rows = door_target_rows
    table.sum_of_weights = door_sum_of_weights
    table.count_correct = door_count_correct
    table.count_same_side = door_count_same_side
    table.r2_score = door_r2_score
    table.first_bad_weight = door_first_bad_weight
    table.first_not_finite = door_first_not_finite
    table.first_bad_probability = door_first_bad_probability
    table.update = door_update
    table.sum_of_squares = door_sum_of_squares
