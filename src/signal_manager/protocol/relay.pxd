cimport cython

cdef int HEAD, PAYLOAD_TYPE_AT, TYPE_AT, _BINARY, _FIRST_SIGNAL, _JSON, _LAST_SIGNAL, _TEXT

cdef bint _SCANS
cdef bytes _DATA, _TARGET
cdef int _CLOSING, _COLON, _COMMA, _FEW, _NEAR, _OPENING, _QUOTE

cdef class RelayEnd:
    cdef public bytes json_sender, json_target, name, start
    cdef public int payload_type, start_byte
    cdef public bint is_tagged
    cdef public Py_ssize_t body_start, largest
    cdef public object pack_length

    @cython.locals(
        body=bytes, end=Py_ssize_t, length=Py_ssize_t, name_end=Py_ssize_t, payload_type=int, raw=cython.p_char,
        start=Py_ssize_t, tagged=bint,
    )
    cpdef object read(self, bytes data)
    @cython.locals(payload_type=int, raw=cython.p_char, size=Py_ssize_t, sending=bytes, sent_to=bytes)
    cpdef bytes write(self, bytes head, object body, RelayEnd sender)

@cython.locals(
    body=Py_ssize_t, body_end=Py_ssize_t, name=Py_ssize_t, name_end=Py_ssize_t, raw=cython.p_char, target=bytes,
)
cpdef object _scan(bytes data, Py_ssize_t start, Py_ssize_t end)
cpdef Py_ssize_t _value_end(bytes data, Py_ssize_t at, Py_ssize_t end) except -2
@cython.locals(
    before="unsigned char", byte="unsigned char", odd="unsigned char", place=Py_ssize_t, raw="const unsigned char *",
    near=Py_ssize_t, stop=Py_ssize_t,
)
cpdef Py_ssize_t _string_end(bytes data, Py_ssize_t at, Py_ssize_t end) except -2
