from signal_manager.gateway.counters cimport GatewayCounters
from signal_manager.gateway.write_batch cimport WriteBatch

cdef class RelayContext:
    cdef public WriteBatch batch
    cdef public GatewayCounters counters
    cdef public object forwarder
    cdef public dict subscribers

    cpdef WriteBatch open_batch(self)
    cpdef close_batch(self)
