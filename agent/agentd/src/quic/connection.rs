//! One connection: its queues outward, and what comes in on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{Connection, RecvStream, VarInt};
use ringmesh_node::Class;
use ringmesh_proto::{HostId, Uplink, frame};
use tokio::sync::mpsc;

use super::{Inbound, Transport, request, signed, store::Places, table::Waiting};
use crate::counters::{Counters, count};

/// Urgent frames that wait on one connection.
const EVENT_QUEUE: usize = 256;

/// Other frames that wait on one connection; the next record replaces a lost one.
const DIGEST_QUEUE: usize = 64;

/// A peer that sends half a frame and then nothing is cut off after this.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which datagrams were sent for so long, and not even an acknowledgement came, is given up: the other
/// end was restarted, or the path is cut. Longer than a stopped process may be stopped without harm.
const SILENT: Duration = Duration::from_secs(4);

/// Between the first and the last doubt about a silent connection.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// How long a connection that is not sent on any more is still listened to.
const RETIRE: Duration = Duration::from_secs(1);

/// A connection in use.
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) dialed_by_us: bool,
    pub(super) since: Instant,
    pub(super) used: Instant,
    heard_ms: Arc<AtomicU64>,
    /// UDP datagrams that had arrived when something was last sent.
    arrived: u64,
    /// Since when nothing has arrived although something was sent.
    unanswered: Option<Instant>,
    /// Since when that is so for too long.
    silent: Option<Instant>,
    /// Made with the first frame of its class: most hosts are only probed, and their connections stay small.
    events: Option<mpsc::Sender<Bytes>>,
    digests: Option<mpsc::Sender<Bytes>>,
    pub(super) store: Places,
}

impl Open {
    pub(super) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// When a datagram last came on it.
    pub(super) fn heard(&self) -> Instant {
        self.since + Duration::from_millis(self.heard_ms.load(Relaxed))
    }

    /// Whether what was sent on it is answered, be it by acknowledgements only.
    pub(super) fn answers(&mut self, now: Instant) -> bool {
        let arrived = self.connection.stats().udp_rx.datagrams;
        if std::mem::replace(&mut self.arrived, arrived) != arrived {
            self.unanswered = None;
            self.silent = None;
        }
        if now.duration_since(*self.unanswered.get_or_insert(now)) < SILENT {
            return true;
        }
        // This process itself may have been stopped; then the answers are in the socket and are read next.
        now.duration_since(*self.silent.get_or_insert(now)) < SECOND_LOOK
    }

    /// Whether it was found silent when something was last sent.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// Ends it when what is on its way has arrived.
    pub(super) fn retire(self) {
        tokio::spawn(async move {
            tokio::time::sleep(RETIRE).await;
            self.close("another connection is in use");
        });
    }

    pub(super) fn send_datagram(&self, bytes: Bytes, counters: &Counters) {
        let fits = self.connection.max_datagram_size().is_some_and(|max| bytes.len() <= max)
            && self.connection.datagram_send_buffer_space() >= bytes.len();
        if !fits || self.connection.send_datagram(bytes).is_err() {
            count(&counters.datagrams_dropped);
        }
    }

    pub(super) fn send_gossip(&mut self, class: Class, bytes: Bytes, counters: &Counters) {
        let (queue, room, priority, dropped) = match class {
            Class::Event => (&mut self.events, EVENT_QUEUE, 1, &counters.event_frames_dropped),
            Class::Digest => (&mut self.digests, DIGEST_QUEUE, 0, &counters.digest_frames_dropped),
        };
        let queue = queue.get_or_insert_with(|| {
            let (queue, frames) = mpsc::channel(room);
            tokio::spawn(send_frames(self.connection.clone(), frames, priority));
            queue
        });
        if queue.try_send(bytes).is_err() {
            count(dropped);
        }
    }

    pub(super) fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(0), reason.as_bytes());
    }
}

/// Starts to serve a connection with a host of our cluster.
pub(super) fn start(transport: &Transport, host: HostId, uplink: Uplink, connection: Connection, dialed_by_us: bool) {
    let heard_ms = Arc::new(AtomicU64::new(0));
    let store = Places::default();
    let since = Instant::now();
    let open = Open {
        connection: connection.clone(),
        dialed_by_us,
        since,
        used: since,
        heard_ms: Arc::clone(&heard_ms),
        arrived: 0,
        unanswered: None,
        silent: None,
        events: None,
        digests: None,
        store: store.clone(),
    };
    let counters = Arc::clone(&transport.shared.counters);
    let mut table = transport.table();
    // One that is not kept to send on is still listened to, until the other end retires it.
    let waiting = table.opened(host, uplink, open).unwrap_or_default();
    if let Some(open) = table.open(host, uplink) {
        for message in waiting {
            match message {
                Waiting::Datagram(bytes) => open.send_datagram(bytes, &counters),
                Waiting::Gossip(class, bytes) => open.send_gossip(class, bytes, &counters),
                // Who asked may have given up.
                Waiting::Request(asker) => drop(asker.send(connection.clone())),
            }
        }
    }
    table.shrink(transport.shared.cache);
    drop(table);
    let heard = move || heard_ms.store(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    tokio::spawn(receive(transport.clone(), (host, uplink), connection, store, heard));
}

/// Writes a class's frames on one stream, which is opened with the first.
async fn send_frames(connection: Connection, mut queue: mpsc::Receiver<Bytes>, priority: i32) {
    let Some(mut frame) = queue.recv().await else { return };
    let Ok(mut stream) = connection.open_uni().await else { return };
    // Only fails when the stream is closed, which the write below will say.
    let _ = stream.set_priority(priority);
    loop {
        if stream.write_chunk(frame).await.is_err() {
            return;
        }
        let Some(next) = queue.recv().await else { return };
        frame = next;
    }
}

async fn receive(
    transport: Transport,
    (from, uplink): (HostId, Uplink),
    connection: Connection,
    store: Places,
    heard: impl Fn(),
) {
    let shared = Arc::clone(&transport.shared);
    let (mut changes, shown) = (shared.keyring.changes(), signed::shown(&connection));
    // It may have been revoked since the handshake.
    transport.close_if_revoked(&connection, shown.as_ref());
    let (mut trust_version, mut replaced) = (shared.keyring.trust_version(), false);
    let ended = loop {
        tokio::select! {
            biased;
            Ok(()) = changes.changed() => {
                transport.close_if_revoked(&connection, shown.as_ref());
                let version = shared.keyring.trust_version();
                let changed = std::mem::replace(&mut trust_version, version) != version;
                if changed && !replaced && transport.is_outdated(&connection) {
                    replaced = true;
                    tokio::spawn(transport.clone().replace(from, uplink, connection.clone()));
                }
            }
            datagram = connection.read_datagram() => match datagram {
                Ok(bytes) => {
                    heard();
                    if shared.inbound.try_send(Inbound::Datagram { from, uplink, bytes }).is_err() {
                        count(&shared.counters.datagrams_overrun);
                    }
                }
                Err(error) => break error,
            },
            stream = connection.accept_uni() => match stream {
                Ok(stream) => { tokio::spawn(receive_gossip(transport.clone(), from, connection.clone(), stream)); }
                Err(error) => break error,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    tokio::spawn(request::serve(transport.clone(), Some((from, store.clone())), send, receive));
                }
                Err(error) => break error,
            },
        }
    };
    transport.note_close(&ended).await;
    transport.table().closed(from, uplink, connection.stable_id());
}

/// Reads gossip frames until the stream ends. A bad frame ends it: what follows cannot be trusted to be a frame.
async fn receive_gossip(transport: Transport, from: HostId, connection: Connection, mut stream: RecvStream) {
    let shared = &transport.shared;
    loop {
        let bytes = match read_frame(&mut stream, frame::MAX_GOSSIP).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(ReadError::Lost) => return,
            Err(ReadError::Frame(error)) => return refuse(shared, &connection, from, &error),
        };
        match frame::decode_gossip(bytes, shared.keyring.cluster) {
            Ok(frame) => {
                let mut gossip = frame.gossip.unwrap_or_default();
                // What the CA says goes first: the rest may be of a host that it has revoked.
                transport.learn(Some(from), std::mem::take(&mut gossip.signed)).await;
                let relay_to = (frame.relay_to != 0).then(|| HostId::new(frame.relay_to));
                // Waits when the host loop is busy: then the sender's queue fills, and drops there are counted.
                if shared.inbound.send(Inbound::Gossip { from, gossip, relay_to }).await.is_err() {
                    return;
                }
            }
            Err(error) => return refuse(shared, &connection, from, &error),
        }
    }
}

fn refuse(shared: &super::Shared, connection: &Connection, from: HostId, error: &frame::FrameError) {
    count(&shared.counters.frames_refused);
    tracing::warn!(%from, %error, "gossip refused, the connection is closed");
    connection.close(VarInt::from_u32(1), error.to_string().as_bytes());
}

/// Why no frame was read.
pub(super) enum ReadError {
    /// The connection or the stream ended, or the peer fell silent in the middle of a frame.
    Lost,
    /// Its length is beyond the bound.
    Frame(frame::FrameError),
}

/// Reads one frame of at most `max` bytes; `None` at the end of the stream.
pub(super) async fn read_frame(stream: &mut RecvStream, max: usize) -> Result<Option<Bytes>, ReadError> {
    let mut prefix = [0; frame::PREFIX_LEN];
    // Between two frames a stream may be silent for as long as it likes.
    match stream.read_exact(&mut prefix[..1]).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Ok(None),
        Err(quinn::ReadExactError::ReadError(_)) => return Err(ReadError::Lost),
    }
    let rest = async {
        stream.read_exact(&mut prefix[1..]).await.map_err(|_| ReadError::Lost)?;
        let len = frame::decode_prefix(prefix, max).map_err(ReadError::Frame)?;
        // Grows with what arrives, not with what was announced.
        let mut body = bytes::BytesMut::with_capacity(len.min(64 * 1024));
        while body.len() < len {
            let chunk = stream.read_chunk(len - body.len(), true).await.ok().flatten().ok_or(ReadError::Lost)?;
            body.extend_from_slice(&chunk.bytes);
        }
        Ok(Some(body.freeze()))
    };
    tokio::time::timeout(FRAME_TIMEOUT, rest).await.unwrap_or(Err(ReadError::Lost))
}
