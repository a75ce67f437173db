"""Work in parts, on several threads: what `_engine` takes from the pool."""

# Part number `part` of some work; parts may run at the same time, in any order.
ctypedef void (*Task)(void *work, Py_ssize_t part) noexcept nogil

cdef void run(Task task, void *work, Py_ssize_t parts, int threads) noexcept nogil

# How many threads may work on something now: at least 1.
cdef int allowed() noexcept nogil
