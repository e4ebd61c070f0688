cdef class TokenBucket:
    cdef public double _full_at, _interval
    cdef public long long left
    cdef public Volume volume
    cdef object __weakref__

cdef class Volume:
    cdef public double _at, _per_second
    cdef public long long _burst
    cdef public long long left
