cimport cython
from picows.picows cimport WSFrame, WSListener, WSMsgType as FrameType, WSTransport
from signal_manager.gateway.counters cimport GatewayCounters
from signal_manager.gateway.inbound cimport Inbound
from signal_manager.gateway.outgoing cimport Outgoing
from signal_manager.gateway.rates cimport TokenBucket, Volume
from signal_manager.gateway.relay_context cimport RelayContext
from signal_manager.gateway.write_batch cimport WriteBatch
from signal_manager.observe.counts cimport Counter
from signal_manager.protocol.journal cimport Journal
from signal_manager.protocol.relay cimport RelayEnd

cdef FrameType _BINARY, _TEXT
cdef int TYPE_AT, _TIMED_ONE_OF

cdef class Connection(WSListener):
    cdef public object _allowance, _frames, _framing, _registry, _session
    cdef public GatewayCounters _counters
    cdef public Journal _journal
    cdef public RelayContext _context
    cdef public TokenBucket _bucket
    cdef public Volume _volume
    cdef public bint _heard, _is_partial, _relays, has_seat
    cdef public double _next_tick, _opened_at
    cdef public object client_id, conversation, instance_id, source
    cdef public Inbound inbound
    cdef public Outgoing outgoing
    cdef public Py_ssize_t received
    cdef public RelayEnd relay_end

    @cython.locals(
        batch=WriteBatch, bucket=TokenBucket, data=bytes, last=bint, left=cython.longlong, room=cython.longlong,
        size=Py_ssize_t, context=RelayContext, volume=Volume,
    )
    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame)
    @cython.locals(
        began=double, end=RelayEnd, journal=Journal, outgoing=bytes, receiver=Connection, relayed=Counter,
        context=RelayContext,
    )
    cpdef bint _relay(self, bytes data, WriteBatch batch)
