# Softmax over the classes of each row, and its backward.
#
# The row's maximum is subtracted first, so exp never overflows. A NaN in a row gives NaN everywhere
# in it, by way of the sum: the maximum may pass it over. Sums are double.
#
# A row of few classes would leave most of a vector empty. So LANES such rows are taken at once and
# transposed: columns[j] holds class j, of another row in each lane, and what follows is the formula
# for one row, in every lane. Where classes are many, or rows few, vectors lie along the row.

cdef enum:
    NARROW = 32     # so many classes at most go by columns; a multiple of LANES


cdef inline bint goes_by_columns(Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    return n >= 4 and n_classes <= NARROW


cdef inline void load_columns(
        const real *X, Py_ssize_t n_classes, Py_ssize_t rows, Py_ssize_t left,
        vec *columns) noexcept nogil:
    """columns[j] := X[:, j]   for LANES rows, or fewer; `left` as in `load_transposed`."""
    cdef Py_ssize_t j
    for j from 0 <= j < n_classes by LANES:
        load_transposed(X + j, n_classes, rows, n_classes - j, left - j, columns + j)


cdef inline void store_columns(
        vec *columns, real *Y, Py_ssize_t n_classes, Py_ssize_t rows,
        Py_ssize_t left) noexcept nogil:
    """Y[:, j] := columns[j], and the columns are used up. What reaches beyond a row is overwritten
    by the next one, which comes later; the last of the `left` entries are stored one by one."""
    cdef Py_ssize_t i, j, at
    for j from 0 <= j < n_classes by LANES:
        zip_transpose(columns + j)
    for i in range(rows):
        for j from 0 <= j < n_classes by LANES:
            at = i * n_classes + j
            if at + LANES <= left:
                (<vec_in_array *>(Y + at))[0] = columns[j + i]
            else:
                store_first(Y + at, columns[j + i], min(n_classes - j, <Py_ssize_t>LANES))


cdef inline vec largest_column(const vec *columns, Py_ssize_t n_classes) noexcept nogil:
    """The largest entry of each row."""
    cdef vec m = broadcast(-INFINITY)
    cdef Py_ssize_t j
    for j in range(n_classes):
        m = larger(columns[j], m)
    return m


cdef inline void exp_columns(
        vec *columns, vec m, Py_ssize_t n_classes, dvec *totals) noexcept nogil:
    """columns := exp(columns - m), with the sum of each row."""
    cdef Py_ssize_t j
    cdef int k
    for k in range(PARTS):
        totals[k] = broadcast_double(0)
    for j in range(n_classes):
        columns[j] = vec_exp(columns[j] - m)
        for k in range(PARTS):
            totals[k] = totals[k] + widen(columns[j], k)


cdef inline real exp_row(
        const real *x, real *e, Py_ssize_t n_classes, double *total) noexcept nogil:
    """e := exp(x - m), with its sum; returns m, the row's maximum.  e may be NULL."""
    cdef vec v = broadcast(x[0])
    cdef dvec totals[PARTS]
    cdef real m
    cdef Py_ssize_t j, whole = n_classes // LANES * LANES
    cdef int k
    for j from 0 <= j < whole by LANES:
        v = larger((<const vec_in_array *>(x + j))[0], v)
    m = (<const real *>&v)[0]
    for k in range(1, LANES):
        m = max(m, (<const real *>&v)[k])
    for j in range(whole, n_classes):
        m = max(m, x[j])
    for k in range(PARTS):
        totals[k] = broadcast_double(0)
    for j from 0 <= j < n_classes by LANES:
        v = vec_exp(load(x + j, n_classes - j) - broadcast(m))
        if e != NULL:
            store(e + j, v, n_classes - j)
        if j < whole:
            for k in range(PARTS):
                totals[k] = totals[k] + widen(v, k)
    total[0] = sum_of(totals)
    for k in range(n_classes - whole):
        total[0] += (<const real *>&v)[k]
    return m


cdef void softmax_forward(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """Y_j = exp(X_j - m) / sum_k exp(X_k - m)   with m the maximum of the row."""
    cdef vec columns[NARROW]
    cdef dvec totals[PARTS]
    cdef vec inverse = broadcast(0)
    cdef double total
    cdef real *y
    cdef Py_ssize_t i, j, at
    cdef int k
    if goes_by_columns(n, n_classes):
        for i from 0 <= i < n by LANES:
            at = i * n_classes
            load_columns(X + at, n_classes, n - i, n * n_classes - at, columns)
            exp_columns(columns, largest_column(columns, n_classes), n_classes, totals)
            for k in range(PARTS):
                narrow(broadcast_double(1) / totals[k], &inverse, k)
            for j in range(n_classes):
                columns[j] = columns[j] * inverse
            store_columns(columns, Y + at, n_classes, min(n - i, <Py_ssize_t>LANES),
                          n * n_classes - at)
    else:
        for i in range(n):
            y = Y + i * n_classes
            exp_row(X + i * n_classes, y, n_classes, &total)
            inverse = broadcast(<real>(1.0 / total))
            for j from 0 <= j < n_classes by LANES:
                store(y + j, load(y + j, n_classes - j) * inverse, n_classes - j)


cdef void softmax_backward(
        const real *Y, const real *dY, real *dX,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """dX_j = Y_j (dY_j - sum_k dY_k Y_k), the Jacobian diag(Y) - Y Y^T times dY."""
    cdef vec y[NARROW]
    cdef vec dy[NARROW]
    cdef dvec dots[PARTS]
    cdef vec dot = broadcast(0)
    cdef Py_ssize_t i, j, at, left
    cdef int k
    if goes_by_columns(n, n_classes):
        for i from 0 <= i < n by LANES:
            at = i * n_classes
            left = n * n_classes - at
            load_columns(Y + at, n_classes, n - i, left, y)
            load_columns(dY + at, n_classes, n - i, left, dy)
            for k in range(PARTS):
                dots[k] = broadcast_double(0)
            for j in range(n_classes):
                for k in range(PARTS):
                    dots[k] = dots[k] + widen(dy[j], k) * widen(y[j], k)
            for k in range(PARTS):
                narrow(dots[k], &dot, k)
            for j in range(n_classes):
                y[j] = y[j] * (dy[j] - dot)
            store_columns(y, dX + at, n_classes, min(n - i, <Py_ssize_t>LANES), left)
    else:
        for i in range(n):
            at = i * n_classes
            for k in range(PARTS):
                dots[k] = broadcast_double(0)
            for j from 0 <= j < n_classes by LANES:
                y[0] = load(Y + at + j, n_classes - j)
                dy[0] = load(dY + at + j, n_classes - j)
                for k in range(PARTS):
                    dots[k] = dots[k] + widen(dy[0], k) * widen(y[0], k)
            dot = broadcast(<real>sum_of(dots))
            for j from 0 <= j < n_classes by LANES:
                y[0] = load(Y + at + j, n_classes - j)
                dy[0] = load(dY + at + j, n_classes - j)
                store(dX + at + j, y[0] * (dy[0] - dot), n_classes - j)


cdef void log_softmax_forward(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """Y_j = (X_j - m) - log(sum_k exp(X_k - m))   with m the maximum of the row."""
    cdef vec columns[NARROW]
    cdef vec x[NARROW]
    cdef dvec totals[PARTS]
    cdef vec m, v, log_total = broadcast(0)
    cdef double total
    cdef Py_ssize_t i, j, at
    cdef int k
    if goes_by_columns(n, n_classes):
        for i from 0 <= i < n by LANES:
            at = i * n_classes
            load_columns(X + at, n_classes, n - i, n * n_classes - at, columns)
            m = largest_column(columns, n_classes)
            for j in range(n_classes):
                x[j] = columns[j] - m
            exp_columns(columns, m, n_classes, totals)
            for k in range(PARTS):
                narrow(double_log(totals[k]), &log_total, k)
            for j in range(n_classes):
                x[j] = x[j] - log_total
            store_columns(x, Y + at, n_classes, min(n - i, <Py_ssize_t>LANES),
                          n * n_classes - at)
    else:
        for i in range(n):
            at = i * n_classes
            m = broadcast(exp_row(X + at, NULL, n_classes, &total))
            log_total = broadcast(<real>log(total))
            for j from 0 <= j < n_classes by LANES:
                v = load(X + at + j, n_classes - j)
                store(Y + at + j, (v - m) - log_total, n_classes - j)


cdef void log_softmax_backward(
        const real *Y, const real *dY, real *dX,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """dX_j = dY_j - exp(Y_j) sum_k dY_k."""
    cdef vec y[NARROW]
    cdef vec dy[NARROW]
    cdef dvec totals[PARTS]
    cdef vec total = broadcast(0)
    cdef Py_ssize_t i, j, at, left
    cdef int k
    if goes_by_columns(n, n_classes):
        for i from 0 <= i < n by LANES:
            at = i * n_classes
            left = n * n_classes - at
            load_columns(Y + at, n_classes, n - i, left, y)
            load_columns(dY + at, n_classes, n - i, left, dy)
            for k in range(PARTS):
                totals[k] = broadcast_double(0)
            for j in range(n_classes):
                for k in range(PARTS):
                    totals[k] = totals[k] + widen(dy[j], k)
            for k in range(PARTS):
                narrow(totals[k], &total, k)
            for j in range(n_classes):
                dy[j] = dy[j] - vec_exp(y[j]) * total
            store_columns(dy, dX + at, n_classes, min(n - i, <Py_ssize_t>LANES), left)
    else:
        for i in range(n):
            at = i * n_classes
            for k in range(PARTS):
                totals[k] = broadcast_double(0)
            for j from 0 <= j < n_classes by LANES:
                dy[0] = load(dY + at + j, n_classes - j)
                for k in range(PARTS):
                    totals[k] = totals[k] + widen(dy[0], k)
            total = broadcast(<real>sum_of(totals))
            for j from 0 <= j < n_classes by LANES:
                y[0] = load(Y + at + j, n_classes - j)
                dy[0] = load(dY + at + j, n_classes - j)
                store(dX + at + j, dy[0] - vec_exp(y[0]) * total, n_classes - j)
