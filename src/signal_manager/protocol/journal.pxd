cdef class Budget:
    cdef public dict _journals
    cdef public long long limit, used

cdef class Journal:
    cdef public Budget _budget
    cdef public object _unconfirmed
    cdef public Py_ssize_t _begun, _confirm_at, _confirmed, _limit, _owed
    cdef public bint _is_over
    cdef public Py_ssize_t overhead, received, sent, weight
    cdef public bint is_complete

    cpdef bint take(self, Py_ssize_t size)
    cpdef keep(self, bytes data, Py_ssize_t run=*)
