# Optimizer updates, in place over a parameter and its state.


cdef inline vec sgd_vector(
        vec dw, real *W, real *V, Py_ssize_t left, vec rate, vec mu, bint nesterov) noexcept nogil:
    """`sgd_update` of a vector, of which `left` entries or all count.

    Returns zeros, with NaN where the new entry is not finite.
    """
    cdef vec w = load(W, left), v
    if V != NULL:
        v = mu * load(V, left) + dw
        store(V, v, left)
        dw = dw + mu * v if nesterov else v
    # In a register, so that gcc rounds the product and the difference in one step wherever this
    # stands, and the bits are the same.
    w = w - rate * in_register(dw)
    store(W, w, left)
    return w - w


cdef inline bint all_zero(vec v) noexcept nogil:
    cdef bint zero = True
    cdef int i
    for i in range(LANES):
        zero &= (<const real *>&v)[i] == 0
    return zero


cdef bint sgd_update(
        const real *dW, real *W, real *V, Py_ssize_t size,
        double lr, double momentum, bint nesterov) noexcept nogil:
    """V = momentum V + dW;   W -= lr V,  or  W -= lr (dW + momentum V) if nesterov.

    Without V (NULL) there is no momentum:  W -= lr dW. Returns whether all of W is finite.
    """
    cdef vec rate = broadcast(<real>lr), mu = broadcast(<real>momentum), zeros = broadcast(0)
    cdef Py_ssize_t i = 0
    while i + LANES <= size:
        zeros = zeros + sgd_vector((<const vec_in_array *>(dW + i))[0], W + i,
                                   V + i if V != NULL else NULL, LANES, rate, mu, nesterov)
        i += LANES
    if i < size:
        zeros = zeros + sgd_vector(load_first(dW + i, size - i), W + i,
                                   V + i if V != NULL else NULL, size - i, rate, mu, nesterov)
    return all_zero(zeros)


cdef bint single_sgd_update(
        const real *x, const real *dz, real *W, real *V, Py_ssize_t n_in, Py_ssize_t n_out,
        double lr, double momentum, bint nesterov) noexcept nogil:
    """`sgd_update` of W (n_in, n_out) with dW = x^T dz, of a single sample."""
    cdef vec rate = broadcast(<real>lr), mu = broadcast(<real>momentum), zeros = broadcast(0)
    cdef vec xi
    cdef Py_ssize_t i, j, at
    for i in range(n_in):
        xi = broadcast(x[i])
        for j from 0 <= j < n_out by LANES:
            at = i * n_out + j
            # The product is rounded before it is used, as where dW is stored.
            zeros = zeros + sgd_vector(in_register(xi * load(dz + j, n_out - j)), W + at,
                                       V + at if V != NULL else NULL, n_out - j, rate, mu, nesterov)
    return all_zero(zeros)
