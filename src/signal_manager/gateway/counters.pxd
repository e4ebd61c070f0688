from signal_manager.observe.counts cimport Counter

cdef class GatewayCounters:
    cdef public Counter bytes_received, bytes_sent, relayed_decoded
    cdef public dict forwarded, received, relayed, sent
    cdef public object relay_seconds
