cdef class WriteBatch:
    cdef public object _relay_seconds
    cdef public list _began
    cdef public list queues

    cpdef time(self, double began)
    cpdef flush(self)
