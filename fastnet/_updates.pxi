# Optimizer updates, in place over a parameter and its state.


cdef bint sgd_update(
        const real *dW, real *W, real *V, Py_ssize_t size,
        double lr, double momentum, bint nesterov) noexcept nogil:
    """V = momentum V + dW;   W -= lr V,  or  W -= lr (dW + momentum V) if nesterov.

    Without V (NULL) there is no momentum:  W -= lr dW. Returns whether all of W is finite.
    """
    cdef vec rate = broadcast(<real>lr), mu = broadcast(<real>momentum)
    cdef vec w, g, v, zeros = broadcast(0)      # w - w is not 0 where w is Inf or NaN
    cdef Py_ssize_t i
    cdef int k
    cdef bint finite = True
    for i from 0 <= i < size by LANES:
        w = load(W + i, size - i)
        g = load(dW + i, size - i)
        if V != NULL:
            v = mu * load(V + i, size - i) + g
            store(V + i, v, size - i)
            g = g + mu * v if nesterov else v
        w = w - rate * g
        store(W + i, w, size - i)
        zeros = zeros + (w - w)
    for k in range(LANES):
        finite &= (<const real *>&zeros)[k] == 0
    return finite
