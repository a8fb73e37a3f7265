//! Opening connections, from either end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, Endpoint, Incoming, VarInt};
use ringmesh_proto::{HostId, Uplink};
use tokio::sync::Semaphore;

use super::{Transport, connection, request};
use crate::{
    counters::count,
    identity::{
        server_name,
        tls::{self, Caller},
    },
};

/// For one try. A lost packet is sent again several times within it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// For a handshake that another host began.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes under way at once on an uplink; beyond them, callers are turned away and try again.
const MAX_HANDSHAKES: usize = 64;

/// For a joining host to ask its one question and hear the answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Joining hosts served at once on an uplink.
const MAX_JOINS: usize = 8;

pub(super) async fn dial(transport: Transport, host: HostId, uplink: Uplink, address: SocketAddr) {
    match try_dial(&transport, host, uplink, address).await {
        Ok(connection) => {
            tracing::debug!(%host, %uplink, "connected");
            connection::start(&transport, host, uplink, connection, true);
        }
        Err(reason) => {
            tracing::debug!(%host, %uplink, %address, reason, "cannot connect");
            let lost = transport.table().failed(host, uplink, address);
            (0..lost).for_each(|_| count(&transport.shared.counters.messages_unsent));
        }
    }
}

async fn try_dial(
    transport: &Transport,
    host: HostId,
    uplink: Uplink,
    address: SocketAddr,
) -> Result<Connection, String> {
    let shared = &transport.shared;
    let endpoint = shared.endpoints[uplink.index()].as_ref().ok_or("no such uplink")?;
    // The name carries cluster and host: no other certificate is taken, whoever signed it.
    let name = server_name(shared.keyring.cluster, host);
    let connecting = endpoint.connect_with(shared.client.clone(), address, &name).map_err(|error| error.to_string())?;
    match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => {
            transport.note_close(&error).await;
            Err(error.to_string())
        }
        Err(_) => Err("no answer".into()),
    }
}

pub(super) async fn accept(transport: Transport, uplink: Uplink, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let joins = Arc::new(Semaphore::new(MAX_JOINS));
    while let Some(incoming) = endpoint.accept().await {
        // When many call, a caller shows first that its address is its own (RFC 9000 §8.1.2): a forged one takes no slot.
        if handshakes.available_permits() < MAX_HANDSHAKES / 2 && !incoming.remote_address_validated() {
            // Only fails when the address is validated.
            let _ = incoming.retry();
            continue;
        }
        let Ok(slot) = Arc::clone(&handshakes).try_acquire_owned() else {
            count(&transport.shared.counters.connections_refused);
            incoming.refuse();
            continue;
        };
        let (transport, joins) = (transport.clone(), Arc::clone(&joins));
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let accepted = shake_hands(&transport, incoming).await;
            drop(slot);
            match accepted {
                Ok((connection, Caller::Peer(peer))) => match peer.expect_host() {
                    Ok(host) => connection::start(&transport, host, uplink, connection, false),
                    Err(error) => turn_away(&transport, &connection, &error.to_string()),
                },
                Ok((connection, Caller::Joining)) => match joins.try_acquire_owned() {
                    Ok(_slot) => serve_join(transport, connection).await,
                    Err(_) => turn_away(&transport, &connection, "too many hosts join at once; try again"),
                },
                Err(reason) => {
                    count(&transport.shared.counters.connections_refused);
                    tracing::debug!(%from, %uplink, reason, "connection refused");
                }
            }
        });
    }
}

async fn shake_hands(transport: &Transport, incoming: Incoming) -> Result<(Connection, Caller), String> {
    let connecting = incoming.accept().map_err(|error| error.to_string())?;
    let connection = tokio::time::timeout(ACCEPT_TIMEOUT, connecting)
        .await
        .map_err(|_| "the handshake took too long")?
        .map_err(|error| error.to_string())?;
    match tls::check_caller(&connection, transport.shared.keyring.cluster) {
        Ok(caller) => Ok((connection, caller)),
        Err(error) => {
            connection.close(VarInt::from_u32(2), error.to_string().as_bytes());
            Err(error.to_string())
        }
    }
}

fn turn_away(transport: &Transport, connection: &Connection, reason: &str) {
    count(&transport.shared.counters.connections_refused);
    connection.close(VarInt::from_u32(2), reason.as_bytes());
}

/// A host without a certificate may make one request; then the connection ends.
async fn serve_join(transport: Transport, connection: Connection) {
    let served = async {
        if let Ok((send, receive)) = connection.accept_bi().await {
            request::serve(transport, None, send, receive).await;
            // The answer is on its way; the joining host closes when it has it.
            connection.closed().await;
        }
    };
    let _ = tokio::time::timeout(JOIN_TIMEOUT, served).await;
    connection.close(VarInt::from_u32(0), b"done");
}
