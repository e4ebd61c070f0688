cdef class Inbound:
    cdef public object _connection, _conversation, _occupancy, _transport
    cdef object __weakref__
    cdef public bint _is_paused
    cdef public Py_ssize_t _fragments
    cdef public Py_ssize_t buffer_bytes
    cdef public list held
