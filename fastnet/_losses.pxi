# Losses: each returns the sum over its rows, in double, and writes the gradient of that sum divided
# by `total` in the same call: total is n for a mean, or more where these rows are some of a batch.
# The mean's 1/n enters here, in the gradient, and nowhere else.
#
# A row's target is a label (all weight on one class) or a row of weights T. A weight of 0
# contributes 0, whatever the score: even log 0. A row without any other weight contributes 0 and
# has the gradient 0, whatever its scores.


cdef inline double fitting(double total) noexcept nogil:
    """By what gradients are divided, so that 1 / total is not so small that it counts as 0."""
    return total if total < 2.0 ** 64 else 2.0 ** -64 * total


cdef inline void divide_by_rest(real *gradient, Py_ssize_t size, double total) noexcept nogil:
    """What is left to be done where `fitting` took another number."""
    if gradient != NULL and fitting(total) != total:
        scale(gradient, gradient, size, 2.0 ** -64)


cdef inline void softmax_cross_entropy_columns(
        const real *logits, const Py_ssize_t *labels, const real *T, real *dlogits,
        real *row_losses, Py_ssize_t n_classes, Py_ssize_t rows, Py_ssize_t left, double total,
        dvec *losses) noexcept nogil:
    """Gradients of LANES rows, or fewer; adds their losses lane by lane. See _softmax.pxi."""
    cdef vec x[NARROW]      # scores, then their exponentials, then the gradient
    cdef vec t[NARROW]
    cdef vec m, chosen, factor = broadcast(0), one_nth = broadcast(<real>(1.0 / total))
    cdef vec counts = broadcast(0)      # the rows' sums of weights
    cdef dvec sums[PARTS]
    cdef dvec weights[PARTS]
    cdef dvec own[PARTS]    # losses of these rows
    cdef dvec weight
    cdef Py_ssize_t i, j
    cdef int k
    load_columns(logits, n_classes, rows, left, x)
    rows = min(rows, <Py_ssize_t>LANES)
    m = largest_column(x, n_classes)
    if labels != NULL:
        chosen = m
        for i in range(rows):
            (<real *>&chosen)[i] = logits[i * n_classes + labels[i]]
        for k in range(PARTS):
            weights[k] = broadcast_double(1)
            own[k] = widen(m, k) - widen(chosen, k)
    else:
        load_columns(T, n_classes, rows, left, t)
        for k in range(PARTS):
            weights[k] = own[k] = broadcast_double(0)
        for j in range(n_classes):
            for k in range(PARTS):
                weight = widen(t[j], k)
                weights[k] = weights[k] + weight
                own[k] = own[k] + where(weight, weight * (widen(m, k) - widen(x[j], k)))
    exp_columns(x, m, n_classes, sums)
    for k in range(PARTS):
        own[k] = own[k] + weights[k] * double_log(sums[k])
        narrow(weights[k] / (sums[k] * total), &factor, k)
    if labels == NULL:
        for k in range(PARTS):
            own[k] = where(weights[k], own[k])
            narrow(weights[k], &counts, k)
    for i in range(rows, LANES):        # no rows of their own
        (<double *>own)[i] = 0
    for i in range(rows if row_losses != NULL else 0):
        row_losses[i] = <real>(<const double *>own)[i]
    for k in range(PARTS):
        losses[k] = losses[k] + own[k]
    if dlogits != NULL:
        for j in range(n_classes):
            if labels != NULL:
                x[j] = x[j] * factor
            else:
                x[j] = choose(<lanes>(counts > 0.0), x[j] * factor - t[j] * one_nth, counts)
        store_columns(x, dlogits, n_classes, rows, left)
        for i in range(rows if labels != NULL else 0):
            dlogits[i * n_classes + labels[i]] -= <real>(1.0 / total)


cdef inline double softmax_cross_entropy_row(
        const real *x, const Py_ssize_t *label, const real *t, real *dx,
        Py_ssize_t n_classes, double total) noexcept nogil:
    """Loss of one row, and its gradient."""
    cdef double exps, weight, loss
    cdef double m = exp_row(x, dx, n_classes, &exps)
    cdef vec factor, v, scores, target, one_nth = broadcast(<real>(1.0 / total))
    cdef dvec w
    cdef dvec weights[PARTS]
    cdef dvec losses[PARTS]
    cdef Py_ssize_t j
    cdef int k
    if label != NULL:
        weight, loss = 1, m - x[label[0]]
    else:
        for k in range(PARTS):
            weights[k] = losses[k] = broadcast_double(0)
        for j from 0 <= j < n_classes by LANES:
            target = load(t + j, n_classes - j)
            scores = load(x + j, n_classes - j)
            for k in range(PARTS):
                w = widen(target, k)
                weights[k] = weights[k] + w
                losses[k] = losses[k] + where(w, w * (m - widen(scores, k)))
        weight, loss = sum_of(weights), sum_of(losses)
        if weight == 0:
            for j from 0 <= j < (n_classes if dx != NULL else 0) by LANES:
                store(dx + j, broadcast(0), n_classes - j)
            return 0
    if dx != NULL:
        factor = broadcast(<real>(weight / (exps * total)))
        for j from 0 <= j < n_classes by LANES:
            v = load(dx + j, n_classes - j) * factor
            if t != NULL:
                v = v - load(t + j, n_classes - j) * one_nth
            store(dx + j, v, n_classes - j)
        if label != NULL:
            dx[label[0]] -= <real>(1.0 / total)
    return loss + weight * log(exps)


cdef double softmax_cross_entropy(
        const real *logits, const Py_ssize_t *labels, const real *T, real *dlogits,
        real *losses_of_rows, Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil:
    """l = sum_j t_j (lse(x) - x_j),   dl/dx_j = softmax(x)_j sum_k t_k - t_j.

    lse(x) = m + log(sum_k exp(x_k - m)) with m the maximum; m - x_j is taken first, so that
    scores of any finite size give their exact loss.
    """
    cdef dvec losses[PARTS]
    cdef double loss = 0, own, over = fitting(total)
    cdef Py_ssize_t i, at
    cdef int k
    if goes_by_columns(n, n_classes):
        for k in range(PARTS):
            losses[k] = broadcast_double(0)
        for i from 0 <= i < n by LANES:
            at = i * n_classes
            softmax_cross_entropy_columns(
                logits + at, labels + i if labels != NULL else NULL, T + at if T != NULL else NULL,
                dlogits + at if dlogits != NULL else NULL,
                losses_of_rows + i if losses_of_rows != NULL else NULL,
                n_classes, n - i, n * n_classes - at, over, losses)
        loss = sum_of(losses)
    else:
        for i in range(n):
            at = i * n_classes
            own = softmax_cross_entropy_row(
                logits + at, labels + i if labels != NULL else NULL, T + at if T != NULL else NULL,
                dlogits + at if dlogits != NULL else NULL, n_classes, over)
            loss += own
            if losses_of_rows != NULL:
                losses_of_rows[i] = <real>own
    divide_by_rest(dlogits, n * n_classes, total)
    return loss


cdef double cross_entropy(
        const real *P, const Py_ssize_t *labels, const real *T, real *dP,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil:
    """l = -sum_j t_j log(p_j),   dl/dp_j = -t_j / p_j."""
    cdef dvec losses[PARTS]
    cdef vec p, t
    cdef vec one_nth = broadcast(<real>(1.0 / total))
    cdef Py_ssize_t i, j, size = n * n_classes
    cdef int k
    for k in range(PARTS):
        losses[k] = broadcast_double(0)
    if labels != NULL:
        for i in range(size if dP != NULL else 0):
            dP[i] = 0
        for i from 0 <= i < n by LANES:
            p = broadcast(1)
            for j in range(min(n - i, <Py_ssize_t>LANES)):
                (<real *>&p)[j] = P[(i + j) * n_classes + labels[i + j]]
            for k in range(PARTS):
                losses[k] = losses[k] - double_log(widen(p, k))
            p = -one_nth / p
            for j in range(min(n - i, <Py_ssize_t>LANES) if dP != NULL else 0):
                dP[(i + j) * n_classes + labels[i + j]] = (<const real *>&p)[j]
    else:
        for i from 0 <= i < size by LANES:
            p = load(P + i, size - i)
            t = load(T + i, size - i)
            for k in range(PARTS):
                losses[k] = losses[k] - where(
                    widen(t, k), widen(t, k) * double_log(widen(p, k)))
            if dP != NULL:
                store(dP + i, choose(<lanes>(t != broadcast(0)), -t * one_nth / p, t), size - i)
    return sum_of(losses)


cdef double negative_log_likelihood(
        const real *L, const real *T, real *dL, real *losses,
        Py_ssize_t n, Py_ssize_t n_classes, double total) noexcept nogil:
    """l = -sum_j t_j x_j,   dl/dx_j = -t_j,   of logarithms x of probabilities."""
    cdef dvec sums[PARTS]
    cdef dvec w
    cdef vec x, t, part = broadcast(<real>(1.0 / fitting(total)))
    cdef double loss = 0, own
    cdef Py_ssize_t i, j, at
    cdef int k
    if losses == NULL:                  # the sum alone: of one long row
        n, n_classes = 1, n * n_classes
    for i in range(n):
        for k in range(PARTS):
            sums[k] = broadcast_double(0)
        for j from 0 <= j < n_classes by LANES:
            at = i * n_classes + j
            x, t = load(L + at, n_classes - j), load(T + at, n_classes - j)
            for k in range(PARTS):
                w = widen(t, k)
                sums[k] = sums[k] - where(w, w * widen(x, k))
            if dL != NULL:
                store(dL + at, -t * part, n_classes - j)
        own = sum_of(sums)
        loss += own
        if losses != NULL:
            losses[i] = <real>own
    divide_by_rest(dL, n * n_classes, total)
    return loss


cdef inline Py_ssize_t first_largest(const real *x, Py_ssize_t n_classes) noexcept nogil:
    """Where the row's largest entry stands, the first of equals; a NaN counts as largest."""
    cdef Py_ssize_t j, best = 0
    for j in range(1, n_classes):
        if x[best] == x[best] and not x[j] <= x[best]:
            best = j
    return best


cdef Py_ssize_t count_correct(
        const real *scores, const Py_ssize_t *labels, const real *T,
        Py_ssize_t n, Py_ssize_t n_classes, Py_ssize_t k) noexcept nogil:
    """Number of rows with a score among the k largest at the label, or where T's row is largest."""
    cdef Py_ssize_t i, wanted, correct = 0
    for i in range(n):
        wanted = labels[i] if T == NULL else first_largest(T + i * n_classes, n_classes)
        if k == 1:
            correct += first_largest(scores + i * n_classes, n_classes) == wanted
        elif wanted >= 0:
            correct += place_of(scores + i * n_classes, wanted, n_classes) < k
    return correct


cdef inline Py_ssize_t place_of(
        const real *x, Py_ssize_t wanted, Py_ssize_t n_classes) noexcept nogil:
    """How many entries come before one, the largest first, of equals the first; NaN is largest."""
    cdef Py_ssize_t j, before = 0
    for j in range(n_classes):
        if x[wanted] != x[wanted]:
            before += j < wanted and x[j] != x[j]
        else:
            before += not x[j] <= x[wanted] or j < wanted and x[j] == x[wanted]
    return before


cdef Py_ssize_t count_same_side(
        const real *scores, const real *T, Py_ssize_t size) noexcept nogil:
    """Number of entries whose score is above 0 where the target is above 1/2, and only there."""
    cdef Py_ssize_t i, same = 0
    for i in range(size):
        same += (scores[i] == scores[i] and T[i] == T[i]
                 and (scores[i] > 0) == (T[i] > 0.5))
    return same


cdef double r2_score(
        const real *Y, const real *T, Py_ssize_t n, Py_ssize_t n_out) noexcept nogil:
    """Mean over columns of 1 - sum (t - y)^2 / sum (t - mean of t)^2."""
    cdef Py_ssize_t i, j
    cdef double mean, residual, spread, total = 0
    for j in range(n_out):
        mean = residual = spread = 0
        for i in range(n):                      # of t - t[0], which is exact where all are equal
            mean += <double>T[i * n_out + j] - T[j]
        mean /= n
        for i in range(n):
            residual += (<double>T[i * n_out + j] - Y[i * n_out + j]) ** 2
            spread += (<double>T[i * n_out + j] - T[j] - mean) ** 2
        if spread > 0:
            total += 1 - residual / spread
        elif residual == 0:         # a constant that is met
            total += 1
        elif residual != residual or spread != spread:
            total += residual + spread          # NaN
    return total / n_out


cdef Py_ssize_t first_bad_weight(const real *T, Py_ssize_t size) noexcept nogil:
    """Index of the first entry that is negative, infinite or NaN; -1 if there is none."""
    cdef Py_ssize_t i
    for i in range(size):
        if not (isfinite(T[i]) and T[i] >= 0):
            return i
    return -1


cdef Py_ssize_t first_not_finite(const real *X, Py_ssize_t size) noexcept nogil:
    """Index of the first entry that is infinite or NaN; -1 if there is none."""
    cdef Py_ssize_t i
    for i in range(size):
        if not isfinite(X[i]):
            return i
    return -1


cdef Py_ssize_t first_bad_probability(const real *P, Py_ssize_t size) noexcept nogil:
    """Index of the first entry below 0 or above 1.001; -1 if there is none. NaN is passed on."""
    cdef Py_ssize_t i
    for i in range(size):
        if P[i] < 0 or P[i] > 1.001:
            return i
    return -1
