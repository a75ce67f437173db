# Optimizer updates, in place over a parameter and up to three arrays of state.
#
# A rule is a branch of `update_vector`; what conventions differ in are numbers of `Update`, which
# the optimizers choose (_table.pxd says what they mean). The plain form of SGD, without decay,
# clipping and the like, is a rule of its own, as it is half as much work.


cdef inline vec update_vector(
        vec g, real *W, real *A, real *B, real *C, Py_ssize_t left, Update u,
        int rule) noexcept nogil:
    """`update` of a vector, of which `left` entries or all count.

    Returns zeros, with NaN where the new entry is not finite. No sum is of two visible products:
    gcc rounds one of them together with the sum, and has to choose the same one wherever this
    stands, as the bits are to be the same.
    """
    cdef vec w = load(W, left), a, b, step
    if rule == PLAIN_SGD:
        if A != NULL:
            g = <real>u.momentum * load(A, left) + g
            store(A, g, left)
        w = w - <real>u.rate * in_register(g)
        store(W, w, left)
        return w - w
    g = within(g * <real>u.scale, <real>u.clip) + <real>u.decay * w
    if rule == SGD:
        step = g
        if A != NULL:
            a = <real>u.momentum * load(A, left) + in_register(<real>u.gain * g)
            store(A, a, left)
            step = <real>u.look * in_register(a) + in_register(<real>u.direct * g)
    elif rule == ADAM:
        a = <real>u.momentum * load(A, left) + in_register(<real>(1 - u.momentum) * g)
        b = <real>u.memory * load(B, left) + in_register(<real>(1 - u.memory) * (g * g))
        store(A, a, left)
        store(B, b, left)
        step = a / (<real>u.root * vec_sqrt(b) + broadcast(<real>u.eps))
    else:                           # RMSPROP
        b = <real>u.memory * load(B, left) + in_register(<real>(1 - u.memory) * (g * g))
        store(B, b, left)
        if C != NULL:
            a = <real>u.memory * load(C, left) + in_register(<real>(1 - u.memory) * g)
            store(C, a, left)
            b = larger(b - a * a, broadcast(0))
        step = g / (vec_sqrt(b) + broadcast(<real>u.eps))
        if A != NULL:
            step = <real>u.momentum * load(A, left) + step
            store(A, step, left)
    w = in_register(<real>u.shrink * w) - <real>u.rate * in_register(step)
    store(W, w, left)
    return w - w


cdef inline bint all_zero(vec v) noexcept nogil:
    cdef bint zero = True
    cdef int i
    for i in range(LANES):
        zero &= (<const real *>&v)[i] == 0
    return zero


cdef inline Update with_eps(Update u) noexcept nogil:
    """The same numbers, with an eps that does not count as 0."""
    u.eps = max(u.eps, 2.0 ** -126 if sizeof(real) == sizeof(float) else 2.0 ** -1022)
    return u


cdef inline bint update_by(
        const real *dW, real *W, real *A, real *B, real *C, Py_ssize_t size, const Update *u,
        int rule) noexcept nogil:
    """`update` for a constant rule."""
    cdef Update numbers = with_eps(u[0])    # a copy, which no store can change
    cdef vec zeros = broadcast(0)
    cdef Py_ssize_t i = 0
    while i + LANES <= size:
        zeros = zeros + update_vector(
            (<const vec_in_array *>(dW + i))[0], W + i, A + i if A != NULL else NULL,
            B + i if B != NULL else NULL, C + i if C != NULL else NULL, LANES, numbers, rule)
        i += LANES
    if i < size:
        zeros = zeros + update_vector(
            load_first(dW + i, size - i), W + i, A + i if A != NULL else NULL,
            B + i if B != NULL else NULL, C + i if C != NULL else NULL, size - i, numbers, rule)
    return all_zero(zeros)


cdef bint update(
        const real *dW, real *W, real *A, real *B, real *C, Py_ssize_t size,
        const Update *u) noexcept nogil:
    """One step of W, with g = scale dW, within +-clip, + decay W:

    SGD:      A = momentum A + gain g;   W = shrink W - rate (look A + direct g),
              or W = shrink W - rate g without A.
    ADAM:     A = momentum A + (1 - momentum) g;   B = memory B + (1 - memory) g^2;
              W = shrink W - rate A / (root sqrt B + eps).
    RMSPROP:  B = memory B + (1 - memory) g^2;   d = g / (sqrt B + eps), or with
              C = memory C + (1 - memory) g   d = g / (sqrt(B - C^2) + eps);
              W = shrink W - rate d,   or with   A = momentum A + d   W = shrink W - rate A.

    Returns whether all of W is finite.
    """
    if u.rule == PLAIN_SGD:
        return update_by(dW, W, A, B, C, size, u, PLAIN_SGD)
    if u.rule == SGD:
        return update_by(dW, W, A, B, C, size, u, SGD)
    if u.rule == ADAM:
        return update_by(dW, W, A, B, C, size, u, ADAM)
    return update_by(dW, W, A, B, C, size, u, RMSPROP)


cdef inline bint single_update_by(
        const real *x, const real *dz, real *W, real *A, real *B, real *C,
        Py_ssize_t n_in, Py_ssize_t n_out, const Update *u, int rule) noexcept nogil:
    """`single_update` for a constant rule."""
    cdef Update numbers = with_eps(u[0])
    cdef vec zeros = broadcast(0), xi
    cdef Py_ssize_t i, j, at
    for i in range(n_in):
        xi = broadcast(x[i])
        for j from 0 <= j < n_out by LANES:
            at = i * n_out + j
            # The product is rounded before it is used, as where dW is stored.
            zeros = zeros + update_vector(
                in_register(xi * load(dz + j, n_out - j)), W + at, A + at if A != NULL else NULL,
                B + at if B != NULL else NULL, C + at if C != NULL else NULL, n_out - j, numbers,
                rule)
    return all_zero(zeros)


cdef bint single_update(
        const real *x, const real *dz, real *W, real *A, real *B, real *C,
        Py_ssize_t n_in, Py_ssize_t n_out, const Update *u) noexcept nogil:
    """`update` of W (n_in, n_out) with dW = x^T dz, of a single sample."""
    if u.rule == PLAIN_SGD:
        return single_update_by(x, dz, W, A, B, C, n_in, n_out, u, PLAIN_SGD)
    if u.rule == SGD:
        return single_update_by(x, dz, W, A, B, C, n_in, n_out, u, SGD)
    if u.rule == ADAM:
        return single_update_by(x, dz, W, A, B, C, n_in, n_out, u, ADAM)
    return single_update_by(x, dz, W, A, B, C, n_in, n_out, u, RMSPROP)


cdef double sum_of_squares(const real *X, Py_ssize_t size) noexcept nogil:
    """Sum of X^2, in double."""
    cdef dvec sums[PARTS]
    cdef dvec d
    cdef vec v
    cdef Py_ssize_t i
    cdef int k
    for k in range(PARTS):
        sums[k] = broadcast_double(0)
    for i from 0 <= i < size by LANES:
        v = load(X + i, size - i)
        for k in range(PARTS):
            d = widen(v, k)
            sums[k] = sums[k] + d * d
    return sum_of(sums)
