//! The other members, over TCP. It carries messages and says who cannot be reached; what they say it does not know.
//!
//! Each member makes a connection to each other one and only writes to it; so two connections join a pair. What cannot be
//! sent is lost: the consensus sends again, and requests have a deadline.
//!
//! ```text
//!  loop ── send (QUEUE; beyond it messages are lost) ──▶ writer ──TCP──▶ reader ── Inbound (waits) ──▶ their loop
//! ```

mod frame;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ringmesh_proto::store::{Hello, PeerMessage, SnapshotChunk, peer_message::Kind};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};

use super::{
    settings::{Member, Settings},
    transfer::{Received, Receiver},
};

/// Version of the messages.
const VERSION: u32 = 1;

/// Messages that wait for one connection: what the consensus has under way, and what is forwarded meanwhile.
const QUEUE: usize = 1024;

/// Bound of the channel of what comes from other members.
pub(super) const INBOUND_BOUND: usize = 256;

/// Connections of others at once: a new one may come before the end of the old one is seen.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may take to be made, and its first message to come.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// How long the other end may take to keep the last parts of a snapshot.
const SNAPSHOT_KEPT: Duration = Duration::from_secs(60);

/// How long what was sent may stay without the other kernel's acknowledgement: after a cable is plugged in again, TCP
/// alone would wait for minutes.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// How long a connection has lived that the other end has taken.
const SETTLED: Duration = Duration::from_secs(1);

/// Refusals that are remembered, so that each is said once.
const MAX_REFUSALS: usize = 64;

/// How long one part of a snapshot may take to go.
const PART_SENT: Duration = Duration::from_secs(30);

/// First and last pause after a snapshot that did not arrive, before another one is sent.
const SNAPSHOT_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// First and last pause before another attempt.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What comes of the other members.
pub(super) enum Inbound {
    /// One has connected, and says where clients find it.
    Hello { from: u64, client_urls: Vec<String> },
    /// It says something.
    Message { from: u64, message: PeerMessage },
    /// What is sent to it is lost for now.
    Unreachable { to: u64 },
    /// A whole snapshot came.
    Snapshot(Box<Received>),
    /// A snapshot has gone to it, or not.
    SnapshotSent { to: u64, arrived: bool },
}

/// Sends to the other members.
pub(super) struct Peers {
    queues: BTreeMap<u64, mpsc::Sender<Bytes>>,
    members: BTreeMap<u64, Member>,
    hello: Arc<Hello>,
    inbound: mpsc::Sender<Inbound>,
    /// How many snapshots in a row did not arrive.
    snapshots_lost: BTreeMap<u64, Arc<AtomicU32>>,
}

impl Peers {
    /// Starts to connect to all of them, and to take their connections.
    pub(super) fn start(
        settings: &Settings,
        listeners: Vec<TcpListener>,
        inbound: mpsc::Sender<Inbound>,
        receiver: Receiver,
    ) -> Self {
        let hello = Arc::new(Hello {
            version: VERSION,
            cluster_id: settings.cluster_id,
            from: settings.id,
            to: 0,
            client_urls: settings.client_urls.clone(),
        });
        let others = settings.members.iter().filter(|member| member.id != settings.id);
        let members: BTreeMap<u64, Member> = others.map(|member| (member.id, member.clone())).collect();
        let ear = Ear {
            hello: Arc::clone(&hello),
            members: members.keys().copied().collect(),
            inbound: inbound.clone(),
            receiver: Arc::new(receiver),
            refusals: Arc::default(),
        };
        for listener in listeners {
            tokio::spawn(ear.clone().listen(listener));
        }
        let mut queues = BTreeMap::new();
        for member in members.values() {
            let (sender, queue) = mpsc::channel(QUEUE);
            tokio::spawn(write(member.clone(), Arc::clone(&hello), queue, inbound.clone()));
            queues.insert(member.id, sender);
        }
        let snapshots_lost = members.keys().map(|id| (*id, Arc::default())).collect();
        Self { queues, members, hello, inbound, snapshots_lost }
    }

    /// False if it is lost.
    pub(super) fn send(&self, to: u64, message: &PeerMessage) -> bool {
        self.queues.get(&to).is_some_and(|queue| queue.try_send(frame::encode(message)).is_ok())
    }

    /// Sends `parts` over a connection of their own; what became of it comes as [`Inbound::SnapshotSent`].
    pub(super) fn send_snapshot(&self, to: u64, parts: mpsc::Receiver<io::Result<PeerMessage>>) {
        let (inbound, hello) = (self.inbound.clone(), Arc::clone(&self.hello));
        let Some(member) = self.members.get(&to).cloned() else { return };
        let lost = self.snapshots_lost.get(&to).cloned().unwrap_or_default();
        tokio::spawn(async move {
            let sent = send_parts(&member, &hello, parts).await;
            match &sent {
                Ok(()) => lost.store(0, Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(member = member.name, %error, "a snapshot did not arrive");
                    tokio::time::sleep(snapshot_pause(lost.fetch_add(1, Ordering::Relaxed))).await;
                }
            }
            // The loop may have ended.
            let _ = inbound.send(Inbound::SnapshotSent { to, arrived: sent.is_ok() }).await;
        });
    }
}

/// After so many before that did not arrive.
fn snapshot_pause(lost: u32) -> Duration {
    SNAPSHOT_PAUSES.0.saturating_mul(2_u32.saturating_pow(lost)).min(SNAPSHOT_PAUSES.1)
}

async fn send_parts(
    member: &Member,
    hello: &Hello,
    mut parts: mpsc::Receiver<io::Result<PeerMessage>>,
) -> io::Result<()> {
    let mut stream = connect(member, hello).await?;
    while let Some(part) = parts.recv().await {
        let frame = frame::encode(&part?);
        in_time(PART_SENT, stream.write_all(&frame)).await?;
    }
    stream.shutdown().await?;
    // The other end says so when it has all of it on its disk; if it does not want it, it only closes.
    in_time(SNAPSHOT_KEPT, stream.read_exact(&mut [0; 1])).await.map(drop)
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn write(member: Member, hello: Arc<Hello>, mut queue: mpsc::Receiver<Bytes>, inbound: mpsc::Sender<Inbound>) {
    let mut pause = PAUSES.0;
    while !queue.is_closed() {
        let error = match connect(&member, &hello).await {
            Ok(stream) => {
                let written = write_to(stream, &mut queue);
                tokio::pin!(written);
                let end = tokio::select! {
                    end = &mut written => end,
                    // Who refuses this member closes at once: that is no connection.
                    () = tokio::time::sleep(SETTLED) => {
                        tracing::info!(member = member.name, address = member.address, "connected to a member");
                        pause = PAUSES.0;
                        written.await
                    }
                };
                match end {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        tracing::debug!(member = member.name, address = member.address, %error, "cannot reach a member");
        // Who comes back needs what is new.
        while queue.try_recv().is_ok() {}
        if inbound.send(Inbound::Unreachable { to: member.id }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Writes until the queue is closed. What waits together goes in one write.
async fn write_to(stream: TcpStream, queue: &mut mpsc::Receiver<Bytes>) -> io::Result<()> {
    let (mut gone, stream) = stream.into_split();
    let mut stream = BufWriter::with_capacity(64 << 10, stream);
    let mut nothing = [0; 1];
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            // The other end never writes: it has gone.
            _ = gone.read(&mut nothing) => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        let Some(frame) = frame else { return Ok(()) };
        stream.write_all(&frame).await?;
        while let Ok(frame) = queue.try_recv() {
            stream.write_all(&frame).await?;
        }
        stream.flush().await?;
    }
}

async fn connect(member: &Member, hello: &Hello) -> io::Result<TcpStream> {
    let attempt = async {
        let mut stream = TcpStream::connect(&member.address).await?;
        prepare(&stream)?;
        let hello = Hello { to: member.id, ..hello.clone() };
        stream.write_all(&frame::encode(&hello)).await?;
        Ok(stream)
    };
    in_time(HANDSHAKE, attempt).await
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED).with_interval(UNACKNOWLEDGED))
}

/// What hears the other members.
#[derive(Clone)]
struct Ear {
    hello: Arc<Hello>,
    members: Arc<[u64]>,
    inbound: mpsc::Sender<Inbound>,
    receiver: Arc<Receiver>,
    /// Whom it has refused and why.
    refusals: Arc<Mutex<BTreeSet<(IpAddr, String)>>>,
}

impl Ear {
    async fn listen(self, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a member's connection");
                    tokio::time::sleep(PAUSES.0).await;
                    continue;
                }
            };
            let ear = self.clone();
            tokio::spawn(async move {
                if let Err(error) = ear.hear(stream).await {
                    if error.kind() == io::ErrorKind::InvalidData && ear.is_new(from.ip(), &error) {
                        tracing::warn!(%from, %error, "refused a member's connection");
                    } else {
                        tracing::debug!(%from, %error, "a member's connection broke");
                    }
                }
                drop(permit);
            });
        }
    }

    /// It comes again each second until somebody mends it.
    fn is_new(&self, from: IpAddr, error: &io::Error) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.len() < MAX_REFUSALS && refusals.insert((from, error.to_string()))
    }

    async fn hear(&self, stream: TcpStream) -> io::Result<()> {
        prepare(&stream)?;
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        let hello: Hello = in_time(HANDSHAKE, frame::read(&mut stream)).await?;
        check(&hello, &self.hello, &self.members)?;
        let from = hello.from;
        let mut next = Inbound::Hello { from, client_urls: hello.client_urls };
        // A loop that has ended hears nothing.
        while self.inbound.send(next).await.is_ok() {
            let message: PeerMessage = frame::read(&mut stream).await?;
            if let Some(Kind::SnapshotChunk(first)) = message.kind {
                return self.take_snapshot(first, stream).await;
            }
            next = Inbound::Message { from, message };
        }
        Ok(())
    }

    /// Says so when all of it is on the disk.
    async fn take_snapshot(&self, first: SnapshotChunk, mut stream: BufReader<TcpStream>) -> io::Result<()> {
        let Some((parts, taken)) = self.receiver.start() else { return Err(io::ErrorKind::ResourceBusy.into()) };
        let mut part = first;
        loop {
            let last = part.last;
            // Whoever writes them says why it does not.
            parts.send(part).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            if last {
                taken.await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                return stream.write_all(&[1]).await;
            }
            let message: PeerMessage = frame::read(&mut stream).await?;
            let Some(Kind::SnapshotChunk(next)) = message.kind else { return Err(io::ErrorKind::InvalidData.into()) };
            part = next;
        }
    }
}

fn check(hello: &Hello, us: &Hello, members: &[u64]) -> io::Result<()> {
    let refused = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if hello.version != VERSION {
        return refused(format!("it speaks version {}, and this member {VERSION}", hello.version));
    }
    if hello.cluster_id != us.cluster_id {
        return refused(format!(
            "it is of cluster {:x}, and this is {:x}: compare --initial-cluster of both, and the snapshots that they \
             were restored from",
            hello.cluster_id, us.cluster_id
        ));
    }
    if hello.to != us.from || !members.contains(&hello.from) {
        return refused(format!("{:x} wants {:x}: compare --initial-cluster of both", hello.from, hello.to));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdListener;

    use super::{super::settings::Options, *};

    async fn member(name: &str, names: &str, listeners: &[(&str, StdListener)]) -> (Peers, mpsc::Receiver<Inbound>) {
        let address = |listener: &StdListener| listener.local_addr().unwrap();
        let named = listeners.iter().filter(|(name, _)| names.contains(name));
        let settings = Settings::check(Options {
            name: name.into(),
            data_dir: "/x".into(),
            listen_client_urls: vec![format!("http://{name}:1")],
            advertise_client_urls: Vec::new(),
            listen_peer_urls: Vec::new(),
            initial_cluster: named.map(|(name, own)| format!("{name}=http://{}", address(own))).collect(),
            quota_bytes: 0,
            retention: None,
        })
        .unwrap();
        let own = listeners.iter().find(|(own, _)| *own == name).unwrap().1.try_clone().unwrap();
        own.set_nonblocking(true).unwrap();
        let (sender, inbound) = mpsc::channel(INBOUND_BOUND);
        let receiver = Receiver::new("/x".into(), ringmesh_store::kv::Settings::default(), sender.clone());
        (Peers::start(&settings, vec![TcpListener::from_std(own).unwrap()], sender, receiver), inbound)
    }

    fn listeners() -> Vec<(&'static str, StdListener)> {
        ["a", "b", "c"].map(|name| (name, StdListener::bind("127.0.0.1:0").unwrap())).into()
    }

    fn raft(text: &'static str) -> PeerMessage {
        PeerMessage { kind: Some(Kind::Raft(text.into())) }
    }

    async fn next(inbound: &mut mpsc::Receiver<Inbound>) -> Inbound {
        tokio::time::timeout(Duration::from_secs(20), inbound.recv()).await.expect("in time").unwrap()
    }

    #[tokio::test]
    async fn members_greet_each_other_and_messages_come_in_order() {
        let listeners = listeners();
        let (a, _hold) = member("a", "ab", &listeners).await;
        let (b, mut heard) = member("b", "ab", &listeners).await;
        let (to, from) = (a.members.keys().next().copied().unwrap(), b.members.keys().next().copied().unwrap());
        let Inbound::Hello { from: greeted, client_urls } = next(&mut heard).await else { panic!("no greeting") };
        assert_eq!((greeted, client_urls), (from, vec!["http://a:1".to_owned()]));
        assert!(a.send(to, &raft("one")) && a.send(to, &raft("two")) && !a.send(7, &raft("nobody")));
        for expected in ["one", "two"] {
            let Inbound::Message { message, .. } = next(&mut heard).await else { panic!("no message") };
            assert_eq!(message, raft(expected));
        }
    }

    #[tokio::test]
    async fn a_snapshot_that_nobody_could_take_has_not_arrived() {
        let listeners = listeners();
        let (a, mut heard) = member("a", "ab", &listeners).await;
        // Its directory is not there.
        let (_b, _hold) = member("b", "ab", &listeners).await;
        let (parts_sender, parts) = mpsc::channel(1);
        let chunk = SnapshotChunk { last: true, ..SnapshotChunk::default() };
        parts_sender.send(Ok(PeerMessage { kind: Some(Kind::SnapshotChunk(chunk)) })).await.unwrap();
        drop(parts_sender);
        a.send_snapshot(a.members.keys().next().copied().unwrap(), parts);
        loop {
            if let Inbound::SnapshotSent { arrived, .. } = next(&mut heard).await {
                assert!(!arrived);
                return;
            }
        }
    }

    #[test]
    fn pauses_after_lost_snapshots_grow_and_have_an_end() {
        for (lost, pause_s) in [(0, 1), (1, 2), (4, 16), (5, 30), (u32::MAX, 30)] {
            assert_eq!(snapshot_pause(lost), Duration::from_secs(pause_s), "{lost}");
        }
    }

    #[tokio::test]
    async fn who_is_of_another_cluster_is_not_heard() {
        let listeners = listeners();
        let (_foreign, mut unreachable) = member("a", "abc", &listeners).await;
        let (_b, mut heard) = member("b", "ab", &listeners).await;
        // It hears that its connection is closed, again and again.
        for _ in 0..3 {
            while !matches!(next(&mut unreachable).await, Inbound::Unreachable { .. }) {}
        }
        while let Ok(inbound) = heard.try_recv() {
            assert!(matches!(inbound, Inbound::Unreachable { .. }), "it is heard");
        }
    }
}
