# Optimizer updates, in place over a parameter and its state.


cdef void sgd_update(
        const real *dW, real *W, real *V, Py_ssize_t size,
        double lr, double momentum, bint nesterov) noexcept nogil:
    """V = momentum V + dW;   W -= lr V,  or  W -= lr (dW + momentum V) if nesterov.

    Without V (NULL) there is no momentum:  W -= lr dW.
    """
    cdef real rate = <real>lr, mu = <real>momentum
    cdef Py_ssize_t i
    for i in range(size):
        if V == NULL:
            W[i] = W[i] - rate * dW[i]
        else:
            V[i] = mu * V[i] + dW[i]
            W[i] = W[i] - rate * (dW[i] + mu * V[i] if nesterov else V[i])
