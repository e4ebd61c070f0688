//! A relay on tokio-tungstenite, as plain as websockets_relay.py beside it, to compare the service with.
//!
//! It speaks v1 frames with plain JSON, takes any token, and relays SIGNAL_OFFER (docs/protocol.md).
//! Usage: tungstenite_relay --port 8765

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{unbounded_channel, UnboundedSender};
use tokio_tungstenite::{accept_async, tungstenite::Message};

const HEADER: usize = 21;
const LENGTH_AT: usize = 19;
const CONNECT: u8 = 0x01;
const CONNECT_ACK: u8 = 0x02;
const SIGNAL_OFFER: u8 = 0x10;

type Clients = Rc<RefCell<HashMap<String, UnboundedSender<Message>>>>;

#[derive(Deserialize)]
struct Connect {
    client_id: String,
}

#[derive(Deserialize)]
struct Offer<'a> {
    target_client_id: String,
    #[serde(borrow)]
    signal_data: &'a RawValue,
}

/// Return the request's header with another type and length, and the body.
fn frame(request: &[u8], message_type: u8, body: &str) -> Message {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&request[..LENGTH_AT]);
    bytes[1] = message_type;
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(body.as_bytes());
    Message::binary(bytes)
}

async fn serve(stream: TcpStream, clients: Clients) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = accept_async(stream).await else { return };
    let (mut writer, mut reader) = socket.split();
    let (sender, mut outgoing) = unbounded_channel::<Message>();
    tokio::task::spawn_local(async move {
        while let Some(message) = outgoing.recv().await {
            let mut fed = writer.feed(message).await;
            while let Ok(next) = outgoing.try_recv() {
                fed = writer.feed(next).await;
            }
            if fed.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    let mut client_id = String::new();
    while let Some(Ok(message)) = reader.next().await {
        let Message::Binary(data) = message else { continue };
        if data.len() <= HEADER {
            break;
        }
        match data[1] {
            CONNECT => {
                let Ok(connect) = serde_json::from_slice::<Connect>(&data[HEADER..]) else { break };
                client_id = connect.client_id;
                let _ = sender.send(frame(&data, CONNECT_ACK, r#"{"status":"success","session_id":"-"}"#));
                clients.borrow_mut().insert(client_id.clone(), sender.clone());
            }
            SIGNAL_OFFER => {
                let Ok(offer) = serde_json::from_slice::<Offer>(&data[HEADER..]) else { break };
                if let Some(target) = clients.borrow().get(&offer.target_client_id) {
                    let body = format!(
                        r#"{{"sender_client_id":"{}","target_client_id":"{}","signal_data":{}}}"#,
                        client_id, offer.target_client_id, offer.signal_data
                    );
                    let _ = target.send(frame(&data, SIGNAL_OFFER, &body));
                }
            }
            _ => {}
        }
    }
    clients.borrow_mut().remove(&client_id);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().next_back().and_then(|port| port.parse().ok()).unwrap_or(8765u16);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is taken");
    let clients = Clients::default();
    tokio::task::LocalSet::new()
        .run_until(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(serve(stream, clients.clone()));
                }
            }
        })
        .await;
}
