cimport cython

cdef int HEAD, PAYLOAD_TYPE_AT, TYPE_AT, _BINARY, _FIRST_SIGNAL, _JSON, _LAST_SIGNAL, _TEXT

cdef class RelayEnd:
    cdef public bytes json_sender, json_target, name, start
    cdef public int payload_type, start_byte
    cdef public bint is_tagged
    cdef public Py_ssize_t body_start, largest
    cdef public object pack_length

    @cython.locals(start=Py_ssize_t, length=Py_ssize_t, name_end=Py_ssize_t, body=bytes, payload_type=int, tagged=bint)
    cpdef object read(self, bytes data)
    @cython.locals(payload_type=int, size=Py_ssize_t, sending=bytes, sent_to=bytes)
    cpdef bytes write(self, bytes head, object body, RelayEnd sender)
