# Losses: each returns the mean and writes its gradient in the same call. The mean's 1/n enters
# here, in the gradient, and nowhere else. Sums are double.
#
# A row's target is a label (all weight on one class) or a row of weights T. A weight of 0
# contributes 0, whatever the score: even log 0.


cdef inline double target_weight(
        const Py_ssize_t *labels, const real *T,
        Py_ssize_t i, Py_ssize_t j, Py_ssize_t n_classes) noexcept nogil:
    """t_ij, from the label of row i or from the row itself."""
    return T[i * n_classes + j] if labels == NULL else labels[i] == j


cdef double softmax_cross_entropy(
        const real *logits, const Py_ssize_t *labels, const real *T, real *dlogits,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """l = sum_j t_j (lse(x) - x_j),   dl/dx_j = softmax(x)_j sum_k t_k - t_j;   mean over rows.

    lse(x) = m + log(sum_k exp(x_k - m)) with m the maximum; m - x_j is taken first, so that
    scores of any finite size give their exact loss.
    """
    cdef const real *x
    cdef double shift, total, log_total, weight, weights, loss = 0
    cdef Py_ssize_t i, j
    for i in range(n):
        x = logits + i * n_classes
        shift = row_maximum(x, n_classes)
        total = row_sum_exp(x, shift, n_classes)
        log_total = log(total)
        weights = 0
        for j in range(n_classes):
            weight = target_weight(labels, T, i, j, n_classes)
            weights += weight
            if weight != 0:
                loss += weight * ((shift - x[j]) + log_total)
        if dlogits == NULL:
            continue
        for j in range(n_classes):
            weight = target_weight(labels, T, i, j, n_classes)
            dlogits[i * n_classes + j] = <real>(
                (weights * (exp(x[j] - shift) / total) - weight) / n)
    return loss / n


cdef double cross_entropy(
        const real *P, const Py_ssize_t *labels, const real *T, real *dP,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """l = -sum_j t_j log(p_j),   dl/dp_j = -t_j / p_j;   mean over rows."""
    cdef double weight, p, loss = 0
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(n_classes):
            weight = target_weight(labels, T, i, j, n_classes)
            p = P[i * n_classes + j]
            if weight != 0:
                loss -= weight * log(p)
            if dP != NULL:
                dP[i * n_classes + j] = <real>(-weight / p / n) if weight != 0 else 0
    return loss / n


cdef double mean_squared_error(
        const real *Y, const real *T, real *dY, Py_ssize_t size) noexcept nogil:
    """l = mean of (y - t)^2 over all entries,   dl/dy = 2 (y - t) / size."""
    cdef double difference, loss = 0
    cdef Py_ssize_t i
    for i in range(size):
        difference = <double>Y[i] - T[i]
        loss += difference * difference
        if dY != NULL:
            dY[i] = <real>(2 * difference / size)
    return loss / size


cdef inline Py_ssize_t first_largest(const real *x, Py_ssize_t n_classes) noexcept nogil:
    """Where the row's largest entry stands, the first of equals; a NaN counts as largest."""
    cdef Py_ssize_t j, best = 0
    for j in range(1, n_classes):
        if x[best] == x[best] and not x[j] <= x[best]:
            best = j
    return best


cdef Py_ssize_t count_correct(
        const real *scores, const Py_ssize_t *labels, const real *T,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """Number of rows whose largest score stands at the label, or where T's row is largest."""
    cdef Py_ssize_t i, wanted, correct = 0
    for i in range(n):
        wanted = labels[i] if T == NULL else first_largest(T + i * n_classes, n_classes)
        correct += first_largest(scores + i * n_classes, n_classes) == wanted
    return correct


cdef Py_ssize_t first_bad_weight(const real *T, Py_ssize_t size) noexcept nogil:
    """Index of the first entry that is negative, infinite or NaN; -1 if there is none."""
    cdef Py_ssize_t i
    for i in range(size):
        if not (isfinite(T[i]) and T[i] >= 0):
            return i
    return -1


cdef Py_ssize_t first_bad_probability(const real *P, Py_ssize_t size) noexcept nogil:
    """Index of the first entry below 0 or above 1.001; -1 if there is none. NaN is passed on."""
    cdef Py_ssize_t i
    for i in range(size):
        if P[i] < 0 or P[i] > 1.001:
            return i
    return -1
