# What losses over classes take, if it is more than a label a sample: rows of weights.


cdef double target_rows(
        const Py_ssize_t *labels, const real *R, const real *sample_weight,
        const real *class_weight, real *T, Py_ssize_t n, Py_ssize_t n_classes,
        Py_ssize_t ignored, double smoothing) noexcept nogil:
    """T_ij = w_i c_j ((1 - s) r_ij + s / n_classes sum_k r_ik)   with the row r_i of label or R.

    Returns the sum of w_i c_label, or of w_i for rows; a row whose label is `ignored` is 0.
    """
    cdef double total = 0, w, even
    cdef Py_ssize_t i, j
    cdef real *t
    for i in range(n):
        t = T + i * n_classes
        w = sample_weight[i] if sample_weight != NULL else 1
        if labels != NULL:
            for j in range(n_classes):
                t[j] = 0
            if labels[i] == ignored:
                continue
            even = w * smoothing / n_classes
            total += w * (class_weight[labels[i]] if class_weight != NULL else 1)
        else:
            even = 0
            for j in range(n_classes):
                even += R[i * n_classes + j]
            even = w * smoothing / n_classes * even
            total += w
        for j in range(n_classes if R != NULL or smoothing != 0 else 0):
            t[j] = <real>(even + (w * (1 - smoothing) * R[i * n_classes + j] if R != NULL else 0))
        if labels != NULL:
            t[labels[i]] = <real>(even + w * (1 - smoothing))
        if class_weight != NULL:
            for j in range(n_classes):
                t[j] = t[j] * class_weight[j]
    return total


cdef double sum_of_weights(const real *weights, Py_ssize_t n) noexcept nogil:
    """Sum, in double."""
    cdef dvec sums[PARTS]
    cdef vec v
    cdef Py_ssize_t i
    cdef int k
    for k in range(PARTS):
        sums[k] = broadcast_double(0)
    for i from 0 <= i < n by LANES:
        v = load(weights + i, n - i)
        for k in range(PARTS):
            sums[k] = sums[k] + widen(v, k)
    return sum_of(sums)
