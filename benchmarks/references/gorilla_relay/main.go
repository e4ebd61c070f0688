// A relay on Go's gorilla/websocket, as plain as websockets_relay.py beside it, to compare the service with.
//
// It speaks v1 frames with plain JSON, takes any token, and relays SIGNAL_OFFER (docs/protocol.md).
// Usage: gorilla_relay --port 8765
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"strconv"
	"sync"

	"github.com/gorilla/websocket"
)

const (
	header      = 21
	lengthAt    = 19
	connect     = 0x01
	connectAck  = 0x02
	signalOffer = 0x10
)

// client is one connection; a lock keeps its writes apart.
type client struct {
	socket *websocket.Conn
	lock   sync.Mutex
}

type signal struct {
	Sender string          `json:"sender_client_id"`
	Target string          `json:"target_client_id"`
	Data   json.RawMessage `json:"signal_data"`
}

var (
	clients  sync.Map
	upgrader = websocket.Upgrader{}
)

// send writes the request's header with another type and length, and the body.
func (to *client) send(request []byte, messageType byte, body []byte) {
	frame := make([]byte, header+len(body))
	copy(frame, request[:lengthAt])
	frame[1] = messageType
	binary.BigEndian.PutUint16(frame[lengthAt:], uint16(len(body)))
	copy(frame[header:], body)
	to.lock.Lock()
	defer to.lock.Unlock()
	_ = to.socket.WriteMessage(websocket.BinaryMessage, frame)
}

func serve(writer http.ResponseWriter, request *http.Request) {
	socket, err := upgrader.Upgrade(writer, request, nil)
	if err != nil {
		return
	}
	defer socket.Close()
	me, name := &client{socket: socket}, ""
	defer func() { clients.Delete(name) }()
	for {
		_, data, err := socket.ReadMessage()
		if err != nil || len(data) <= header {
			return
		}
		switch data[1] {
		case connect:
			var said struct {
				Name string `json:"client_id"`
			}
			if json.Unmarshal(data[header:], &said) != nil {
				return
			}
			name = said.Name
			clients.Store(name, me)
			me.send(data, connectAck, []byte(`{"status":"success","session_id":"-"}`))
		case signalOffer:
			var said signal
			if json.Unmarshal(data[header:], &said) != nil {
				return
			}
			said.Sender = name
			if target, there := clients.Load(said.Target); there {
				if body, err := json.Marshal(said); err == nil {
					target.(*client).send(data, signalOffer, body)
				}
			}
		}
	}
}

func main() {
	port := flag.Int("port", 8765, "the port of 127.0.0.1 to listen on")
	flag.Parse()
	http.HandleFunc("/", serve)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+strconv.Itoa(*port), nil))
}
