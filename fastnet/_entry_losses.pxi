# Losses in which each entry counts on its own: there is no sum over classes. Sums are double.
#
# Each kind has a branch in `entry_loss` with its formulas for l and dl/dy, and a name in the list
# of _table.pxd; the loop calls it with a constant kind. A weight of 0 contributes 0, whatever the
# score.


cdef inline dvec log1p_of(dvec e) noexcept nogil:
    """log(1 + e) for e >= 0: what is lost when 1 is added is put back."""
    cdef dvec u = e + 1.0
    return double_log(u) + (e - (u - 1.0)) / u


cdef inline vec entry_loss(
        vec y, vec t, vec positive, double delta, int kind, dvec *losses) noexcept nogil:
    """The losses of some entries; returns their derivatives by y."""
    cdef vec zero = broadcast(0), one = broadcast(1), slope = zero, e, small, large
    cdef dvec wide_y, wide_t, d, size
    cdef int k
    if kind == BINARY_CROSS_ENTROPY:
        # l = p t log(1 + e^-x) + (1 - t) log(1 + e^x),   dl/dx = (1 - t) s(x) - p t s(-x),
        # where log(1 + e^x) = max(x, 0) + log(1 + e^-|x|) and s(x) = 1 / (1 + e^-x)
        e = vec_exp(-magnitude(y))
        large = one / (e + one)                             # s(|x|)
        small = e * large                                   # s(-|x|)
        for k in range(PARTS):
            wide_t, size = widen(t, k), log1p_of(widen(e, k))
            d = widen(positive, k) * wide_t
            losses[k] = where(d, d * (widen(larger(-y, zero), k) + size)) + where(
                1.0 - wide_t, (1.0 - wide_t) * (widen(larger(y, zero), k) + size))
        slope = ((one - t) * choose(<lanes>(y > zero), large, small)
                 - positive * t * choose(<lanes>(y > zero), small, large))
        return <vec>(<lanes>slope & (<lanes>(t != one) | <lanes>(positive * t != zero)))
    for k in range(PARTS):
        wide_y, wide_t = widen(y, k), widen(t, k)
        d = wide_y - wide_t
        if kind == MEAN_SQUARED_ERROR:                      # l = (y - t)^2,   dl/dy = 2 (y - t)
            losses[k] = d * d
            d = d + d
        elif kind == HUBER:         # l = d^2 / 2 up to |d| = delta, then delta (|d| - delta / 2)
            size = choose_doubles(<dlanes>(d < 0.0), -d, d)
            losses[k] = choose_doubles(
                <dlanes>(size > delta), delta * (size - 0.5 * delta), 0.5 * d * d)
            d = choose_doubles(<dlanes>(d > delta), broadcast_double(delta), d)
            d = choose_doubles(<dlanes>(d < -delta), broadcast_double(-delta), d)
        else:                       # POISSON:  l = e^y - t y,   dl/dy = e^y - t
            size = widen(vec_exp(y), k)
            losses[k] = size - where(wide_t, wide_t * wide_y)
            d = size - wide_t
        narrow(d, &slope, k)
    return slope


cdef inline double entry_losses_of(
        const real *Y, const real *T, const real *weights, bint each, const real *positive,
        real *dY, real *losses, Py_ssize_t n, Py_ssize_t n_out, double total, double delta,
        int kind) noexcept nogil:
    """`entry_losses` for a constant kind."""
    cdef dvec sums[PARTS]
    cdef dvec own[PARTS]
    cdef dvec wide
    cdef vec slope, loss = broadcast(0), w = broadcast(1), p = broadcast(1)
    cdef vec part = broadcast(<real>(1.0 / total))      # w / total
    cdef double rest = 0                # of vectors that are not whole
    cdef Py_ssize_t i, j, at, left, q
    cdef int k
    for k in range(PARTS):
        sums[k] = broadcast_double(0)
    for i in range(n):
        if weights != NULL and not each:
            w, part = broadcast(weights[i]), broadcast(<real>(weights[i] / total))
        for j from 0 <= j < n_out by LANES:
            at, left = i * n_out + j, n_out - j
            if weights != NULL and each:
                w = load(weights + at, left)
                for k in range(PARTS):
                    narrow(widen(w, k) / broadcast_double(total), &part, k)
            if positive != NULL:
                p = load(positive + j, left)
            slope = entry_loss(load(Y + at, left), load(T + at, left), p, delta, kind, own)
            for k in range(PARTS):
                if weights != NULL:
                    wide = widen(w, k)
                    own[k] = where(wide, wide * own[k])
                narrow(own[k], &loss, k)
                if left >= LANES:
                    sums[k] = sums[k] + own[k]
            for q in range(left if left < LANES else 0):
                rest += (<const double *>own)[q]
            if losses != NULL:
                store(losses + at, loss, left)
            if dY != NULL:
                slope = slope * part
                if weights != NULL:
                    slope = choose(<lanes>(w != broadcast(0)), slope, w)
                store(dY + at, slope, left)
    return sum_of(sums) + rest


cdef double entry_losses(
        const real *Y, const real *T, const real *weights, bint each, const real *positive,
        real *dY, real *losses, Py_ssize_t n, Py_ssize_t n_out, int kind, double total,
        double delta) noexcept nogil:
    """Sum of w l(y, t) over all entries,   dY = w dl/dy / total,   losses = w l."""
    if kind == MEAN_SQUARED_ERROR:
        return entry_losses_of(Y, T, weights, each, positive, dY, losses, n, n_out, total, delta,
                               MEAN_SQUARED_ERROR)
    if kind == BINARY_CROSS_ENTROPY:
        return entry_losses_of(Y, T, weights, each, positive, dY, losses, n, n_out, total, delta,
                               BINARY_CROSS_ENTROPY)
    if kind == HUBER:
        return entry_losses_of(Y, T, weights, each, positive, dY, losses, n, n_out, total, delta,
                               HUBER)
    return entry_losses_of(Y, T, weights, each, positive, dY, losses, n, n_out, total, delta,
                           POISSON)
