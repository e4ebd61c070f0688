cimport cython
from picows.picows cimport WSMsgType as FrameType, WSTransport
from signal_manager.gateway.write_batch cimport WriteBatch
from signal_manager.observe.counts cimport Counter
from signal_manager.protocol.journal cimport Journal

cdef class Outgoing:
    cdef public object _client
    cdef object __weakref__
    cdef public Counter _bytes_sent
    cdef public int _first_byte
    cdef public FrameType _frame_type
    cdef public Py_ssize_t _limit, _queued
    cdef public WSTransport _transport
    cdef public list _queue
    cdef public bint is_behind
    cdef public Journal journal
    cdef public Py_ssize_t sent

    @cython.locals(first=int, size=Py_ssize_t, queued=Py_ssize_t, queue=list)
    cpdef queue(self, bytes data, WriteBatch batch)
    @cython.locals(size=Py_ssize_t)
    cpdef send(self, bytes data, bint counts=*)
    @cython.locals(count=Py_ssize_t, data=bytes, queue=list, transport=WSTransport)
    cpdef flush(self)
