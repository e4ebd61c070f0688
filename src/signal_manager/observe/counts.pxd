cdef class Counter:
    cdef public long long value
