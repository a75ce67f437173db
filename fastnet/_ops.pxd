"""What `_engine` shares with `_ops`: the kernels in use, checks, what stands around a call."""

cimport numpy as cnp
from cpython.pystate cimport PyThreadState

from fastnet._table cimport KernelTable, Update

cdef struct Caller:
    unsigned long mode
    PyThreadState *thread

cdef const KernelTable *kernels_of(int dtype) noexcept
cdef Caller enter(double multiplications) noexcept
cdef void leave(Caller caller) noexcept

cdef cnp.ndarray output(object value, str name, int ndim, cnp.npy_intp *dims, int dtype)
cdef int apart(cnp.ndarray out, str name, cnp.ndarray a, str a_name,
               cnp.ndarray b=*, str b_name=*, cnp.ndarray c=*, str c_name=*) except -1
cdef int check_rate(double lr, int dtype) except -1
cdef Update sgd_numbers(double rate, double momentum, bint nesterov) noexcept
cdef Update plain_or_not(Update u) noexcept nogil
