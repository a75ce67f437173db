# Layer normalization: each row is shifted and scaled to mean 0 and variance 1, and then every
# column gets a weight and a bias (J. L. Ba, J. R. Kiros, G. E. Hinton, 2016).
#
# Sums are double. stats holds mean and 1 / sqrt(variance + eps) of each row, which backward needs.
# What is lost where the mean is rounded is taken off as well: next to a large mean it would show.


cdef double SMALLEST = FLT_MIN if sizeof(real) == sizeof(float) else DBL_MIN


cdef inline double sum_over(
        const real *x, Py_ssize_t width, double mean, bint squares) noexcept nogil:
    """sum_j x_j,  or  sum_j (x_j - mean)^2."""
    cdef dvec totals[PARTS]
    cdef dvec d
    cdef vec v
    cdef double total
    cdef Py_ssize_t j, whole = width // LANES * LANES
    cdef int k
    for k in range(PARTS):
        totals[k] = broadcast_double(0)
    for j from 0 <= j < whole by LANES:
        v = (<const vec_in_array *>(x + j))[0]
        for k in range(PARTS):
            d = widen(v, k)
            if squares:
                d = (d - mean) * (d - mean)
            totals[k] = totals[k] + d
    total = sum_of(totals)
    for j in range(whole, width):
        total += (x[j] - mean) * (x[j] - mean) if squares else x[j]
    return total


cdef inline vec normalized(vec x, vec mean, vec factor, vec rest) noexcept nogil:
    """(x - mean) factor - rest: `rest` is what the rounded mean lacks, times the factor."""
    if sizeof(real) == sizeof(double):      # nothing
        return (x - mean) * factor
    return (x - mean) * factor - rest


cdef inline vec rest_of(double mean, double factor) noexcept nogil:
    """See `normalized`."""
    return broadcast(<real>((mean - <real>mean) * factor))


cdef void layer_norm_forward(
        const real *X, const real *weight, const real *bias, real *Y, double *stats,
        Py_ssize_t n, Py_ssize_t width, double eps) noexcept nogil:
    """Y_ij = weight_j (X_ij - mean_i) / sqrt(variance_i + eps) + bias_j."""
    cdef double mean
    cdef vec shift, factor, rest, v
    cdef Py_ssize_t i, j
    cdef const real *x
    for i in range(n):
        x = X + i * width
        mean = sum_over(x, width, 0, False) / width
        stats[2 * i] = mean
        stats[2 * i + 1] = 1 / sqrt(sum_over(x, width, mean, True) / width + eps)
        if stats[2 * i + 1] < SMALLEST:         # it would count as 0, and the row as constant
            stats[2 * i + 1] = NAN
        shift, factor = broadcast(<real>mean), broadcast(<real>stats[2 * i + 1])
        rest = rest_of(mean, stats[2 * i + 1])
        for j from 0 <= j < width by LANES:
            v = normalized(load(x + j, width - j), shift, factor, rest)
            if weight != NULL:
                v = v * load(weight + j, width - j)
            if bias != NULL:
                v = v + load(bias + j, width - j)
            store(Y + i * width + j, v, width - j)


cdef void layer_norm_backward(
        const real *X, const real *weight, const double *stats, const real *dY, real *dX,
        real *dweight, real *dbias, Py_ssize_t n, Py_ssize_t width, bint add) noexcept nogil:
    """With h = (X - mean) / sqrt(variance + eps) and g = weight dY:

    dX_ij = (g_ij - mean_j g_ij - h_ij mean_j (g_ij h_ij)) / sqrt(variance_i + eps),
    dweight_j = sum_i dY_ij h_ij,   dbias_j = sum_i dY_ij, or += if add.
    """
    cdef dvec sums[PARTS]
    cdef dvec products[PARTS]
    cdef dvec wide
    cdef vec shift, factor, rest, mean_g, mean_gh, h, g
    cdef Py_ssize_t i, j
    cdef int k
    for i in range(n if dX != NULL else 0):
        shift, factor = broadcast(<real>stats[2 * i]), broadcast(<real>stats[2 * i + 1])
        rest = rest_of(stats[2 * i], stats[2 * i + 1])
        for k in range(PARTS):
            sums[k] = products[k] = broadcast_double(0)
        for j from 0 <= j < width by LANES:     # lanes beyond the row have g = 0
            h = normalized(load(X + i * width + j, width - j), shift, factor, rest)
            g = load(dY + i * width + j, width - j)
            if weight != NULL:
                g = g * load(weight + j, width - j)
            for k in range(PARTS):
                wide = widen(g, k)
                sums[k] = sums[k] + wide
                products[k] = products[k] + wide * widen(h, k)
        mean_g = broadcast(<real>(sum_of(sums) / width))
        mean_gh = broadcast(<real>(sum_of(products) / width))
        for j from 0 <= j < width by LANES:
            h = normalized(load(X + i * width + j, width - j), shift, factor, rest)
            g = load(dY + i * width + j, width - j)
            if weight != NULL:
                g = g * load(weight + j, width - j)
            store(dX + i * width + j, (g - mean_g - h * mean_gh) * factor, width - j)
    for j from 0 <= j < width by BAND * LANES:
        if dweight != NULL:
            sum_normalized(X, stats, dY, dweight, n, width, j, add)
        if dbias != NULL:
            sum_normalized(NULL, NULL, dY, dbias, n, width, j, add)


cdef void sum_normalized(
        const real *X, const double *stats, const real *dY, real *sums,
        Py_ssize_t n, Py_ssize_t width, Py_ssize_t first, bint add) noexcept nogil:
    """sums_j = sum_i dY_ij h_ij, or += if add, for BAND vectors of columns; X NULL: h is 1."""
    cdef dvec totals[BAND * PARTS]
    cdef vec v, shift = broadcast(0), factor = broadcast(0), rest = broadcast(0)
    cdef Py_ssize_t i, j, at, left
    cdef int k
    left = min(width - first, <Py_ssize_t>BAND * LANES)
    for j in range(padded(left) // LANES * PARTS):
        totals[j] = broadcast_double(0)
    for i in range(n):
        if X != NULL:
            shift, factor = broadcast(<real>stats[2 * i]), broadcast(<real>stats[2 * i + 1])
            rest = rest_of(stats[2 * i], stats[2 * i + 1])
        for j from 0 <= j < left by LANES:
            at = i * width + first + j
            v = load(dY + at, left - j)
            if X != NULL:
                v = v * normalized(load(X + at, left - j), shift, factor, rest)
            for k in range(PARTS):
                totals[j // LANES * PARTS + k] = totals[j // LANES * PARTS + k] + widen(v, k)
    for j from 0 <= j < left by LANES:
        v = load(sums + first + j, left - j)
        for k in range(PARTS):
            if add:
                totals[j // LANES * PARTS + k] = totals[j // LANES * PARTS + k] + widen(v, k)
        for k in range(PARTS):
            narrow(totals[j // LANES * PARTS + k], &v, k)
        store(sums + first + j, v, left - j)
