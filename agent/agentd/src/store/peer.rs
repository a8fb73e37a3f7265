//! The other members. It carries messages and says who cannot be reached; what they say it does not know.
//!
//! Each member makes a connection to each other one and only writes to it; so two connections join a pair. What cannot be
//! sent is lost: the consensus sends again, and requests have a deadline.
//!
//! ```text
//!  loop ── send (QUEUE; beyond it messages are lost) ──▶ writer ─road─▶ ear ── Inbound (waits) ──▶ their loop
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
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};

use super::{
    road::{Line, Place, Road},
    settings::Settings,
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
    Hello {
        /// Which.
        from: u64,
        /// Where it was seen.
        place: Option<Place>,
        /// Of its clients.
        client_urls: Vec<String>,
    },
    /// It says something.
    Message {
        /// Which.
        from: u64,
        /// What.
        message: PeerMessage,
    },
    /// What is sent to it is lost for now.
    Unreachable {
        /// Which.
        to: u64,
        /// What it said before it hung up.
        why: Option<Verdict>,
    },
    /// A whole snapshot came.
    Snapshot(Box<Received>),
    /// A snapshot has gone to it, or not.
    SnapshotSent {
        /// To which.
        to: u64,
        /// Whether it has it.
        arrived: bool,
    },
}

/// What the other end says in the end, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has all of a snapshot on its disk.
    Kept = 1,
    /// It is not the replica that is greeted, or not any more.
    Lost = 2,
    /// Who greets is a member no longer.
    Gone = 3,
    /// It is invited and does not come.
    Declined = 4,
}

impl Verdict {
    fn of(byte: u8) -> Option<Self> {
        [Self::Kept, Self::Lost, Self::Gone, Self::Declined].into_iter().find(|verdict| *verdict as u8 == byte)
    }
}

/// Sends to the other members.
pub(super) struct Peers {
    road: Road,
    links: BTreeMap<u64, Link>,
    hello: Hello,
    inbound: mpsc::Sender<Inbound>,
}

/// To one member; it ends when this is dropped.
struct Link {
    place: Place,
    invites: bool,
    queue: mpsc::Sender<Bytes>,
    /// How many snapshots in a row did not arrive.
    snapshots_lost: Arc<AtomicU32>,
}

/// The greeting of a member, to nobody as yet.
pub(super) fn hello(settings: &Settings) -> Hello {
    Hello {
        version: VERSION,
        cluster_id: settings.cluster_id,
        from: settings.id,
        to: 0,
        client_urls: settings.client_urls.clone(),
        invites: false,
    }
}

impl Peers {
    pub(super) fn new(road: Road, hello: Hello, inbound: mpsc::Sender<Inbound>) -> Self {
        Self { road, links: BTreeMap::new(), hello, inbound }
    }

    /// From now on these are the others, some of them `invited`. Connections to those that stay are kept.
    pub(super) fn set(&mut self, others: &BTreeMap<u64, Place>, invited: impl Fn(u64) -> bool) {
        let is_same = |id: &u64, link: &mut Link| {
            others.get(id).is_some_and(|place| *place == link.place && link.invites == invited(*id))
        };
        self.links.retain(is_same);
        for (id, place) in others {
            if *id == self.hello.from || self.links.contains_key(id) {
                continue;
            }
            let (queue, messages) = mpsc::channel(QUEUE);
            let invites = invited(*id);
            let hello = Hello { to: *id, invites, ..self.hello.clone() };
            tokio::spawn(write(self.road.clone(), place.clone(), hello, messages, self.inbound.clone()));
            let link = Link { place: place.clone(), invites, queue, snapshots_lost: Arc::default() };
            self.links.insert(*id, link);
        }
    }

    /// False if it is lost.
    pub(super) fn send(&self, to: u64, message: &PeerMessage) -> bool {
        self.links.get(&to).is_some_and(|link| link.queue.try_send(frame::encode(message)).is_ok())
    }

    /// Sends `parts` over a connection of their own; what became of it comes as [`Inbound::SnapshotSent`].
    pub(super) fn send_snapshot(&self, to: u64, parts: mpsc::Receiver<io::Result<PeerMessage>>) {
        let inbound = self.inbound.clone();
        let link = self.links.get(&to).map(|link| (link.place.clone(), Arc::clone(&link.snapshots_lost)));
        let (road, hello) = (self.road.clone(), Hello { to, ..self.hello.clone() });
        tokio::spawn(async move {
            let Some((place, lost)) = link else {
                // It has just become a member no longer. The loop may have ended.
                let _ = inbound.send(Inbound::SnapshotSent { to, arrived: false }).await;
                return;
            };
            let sent = send_parts(&road, &place, &hello, parts).await;
            match &sent {
                Ok(()) => lost.store(0, Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(member = %place, %error, "a snapshot did not arrive");
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
    road: &Road,
    place: &Place,
    hello: &Hello,
    mut parts: mpsc::Receiver<io::Result<PeerMessage>>,
) -> io::Result<()> {
    let mut stream = connect(road, place, hello).await?;
    while let Some(part) = parts.recv().await {
        let frame = frame::encode(&part?);
        in_time(PART_SENT, stream.write_all(&frame)).await?;
    }
    stream.shutdown().await?;
    // The other end says so when it has all of it on its disk; if it does not want it, it only closes.
    match in_time(SNAPSHOT_KEPT, stream.read_u8()).await.map(Verdict::of)? {
        Some(Verdict::Kept) => Ok(()),
        other => Err(io::Error::other(format!("it is not wanted ({other:?})"))),
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn write(
    road: Road,
    place: Place,
    hello: Hello,
    mut queue: mpsc::Receiver<Bytes>,
    inbound: mpsc::Sender<Inbound>,
) {
    let mut pause = PAUSES.0;
    while !queue.is_closed() {
        let (why, error) = match connect(&road, &place, &hello).await {
            Ok(stream) => {
                let written = write_to(stream, &mut queue);
                tokio::pin!(written);
                let end = tokio::select! {
                    end = &mut written => end,
                    // Who refuses this member closes at once: that is no connection.
                    () = tokio::time::sleep(SETTLED) => {
                        tracing::info!(member = %place, "connected to a member");
                        pause = PAUSES.0;
                        written.await
                    }
                };
                match end {
                    Ok(()) => return,
                    Err(End { why, error }) => (why, error),
                }
            }
            Err(error) => (None, error),
        };
        tracing::debug!(member = %place, %error, ?why, "cannot reach a member");
        // Who comes back needs what is new.
        while queue.try_recv().is_ok() {}
        if inbound.send(Inbound::Unreachable { to: hello.to, why }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Why nothing more can be written.
struct End {
    /// What the other end said.
    why: Option<Verdict>,
    error: io::Error,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self { why: None, error }
    }
}

/// Writes until the queue is closed. What waits together goes in one write.
async fn write_to(stream: Box<dyn Line>, queue: &mut mpsc::Receiver<Bytes>) -> Result<(), End> {
    let (mut gone, stream) = tokio::io::split(stream);
    let mut stream = BufWriter::with_capacity(64 << 10, stream);
    let mut said = [0; 1];
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            // The other end says why, and nothing else.
            read = gone.read(&mut said) => {
                let why = read.ok().filter(|read| *read > 0).and_then(|_| Verdict::of(said[0]));
                return Err(End { why, error: io::ErrorKind::ConnectionReset.into() });
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        stream.write_all(&frame).await?;
        while let Ok(frame) = queue.try_recv() {
            stream.write_all(&frame).await?;
        }
        stream.flush().await?;
    }
}

async fn connect(road: &Road, place: &Place, hello: &Hello) -> io::Result<Box<dyn Line>> {
    let attempt = async {
        let mut stream = road.connect(place).await?;
        stream.write_all(&frame::encode(hello)).await?;
        stream.flush().await?;
        Ok(stream)
    };
    in_time(HANDSHAKE, attempt).await
}

pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED).with_interval(UNACKNOWLEDGED))
}

/// Hears the other members.
#[derive(Clone)]
pub(super) struct Ear {
    inbound: mpsc::Sender<Inbound>,
    receiver: Arc<Receiver>,
}

impl Ear {
    pub(super) fn new(inbound: mpsc::Sender<Inbound>, receiver: Receiver) -> Self {
        Self { inbound, receiver: Arc::new(receiver) }
    }

    /// Hears one whose greeting was read and is good, until it has nothing more to say.
    pub(super) async fn hear<S>(&self, hello: Hello, place: Option<Place>, mut stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let from = hello.from;
        let mut next = Inbound::Hello { from, place, client_urls: hello.client_urls };
        // A loop that has ended hears nothing.
        while self.inbound.send(next).await.is_ok() {
            let message: PeerMessage = frame::read(&mut stream).await?;
            if let Some(Kind::SnapshotChunk(first)) = message.kind {
                return self.take_snapshot(from, first, stream).await;
            }
            next = Inbound::Message { from, message };
        }
        Ok(())
    }

    /// Says so when all of it is on the disk.
    async fn take_snapshot<S>(&self, from: u64, first: SnapshotChunk, mut stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some((parts, taken)) = self.receiver.start(from) else { return Err(io::ErrorKind::ResourceBusy.into()) };
        let mut part = first;
        loop {
            let last = part.last;
            // Whoever writes them says why it does not.
            parts.send(part).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            if last {
                taken.await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                return say(&mut stream, Verdict::Kept).await;
            }
            let message: PeerMessage = frame::read(&mut stream).await?;
            let Some(Kind::SnapshotChunk(next)) = message.kind else { return Err(io::ErrorKind::InvalidData.into()) };
            part = next;
        }
    }
}

/// The last word.
pub(super) async fn say(stream: &mut (impl AsyncWrite + Unpin), verdict: Verdict) -> io::Result<()> {
    stream.write_u8(verdict as u8).await?;
    stream.flush().await?;
    stream.shutdown().await
}

/// The greeting with which a stream begins.
pub(super) async fn greeting(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let hello: Hello = in_time(HANDSHAKE, frame::read(stream)).await?;
    if hello.version != VERSION {
        return Err(refused(format!("it speaks version {}, and this member {VERSION}", hello.version)));
    }
    Ok(hello)
}

/// Hears members over TCP, whom the command line has named.
#[derive(Clone)]
pub(super) struct Listener {
    ear: Ear,
    hello: Arc<Hello>,
    members: Arc<[u64]>,
    /// Whom it has refused and why.
    refusals: Arc<Mutex<BTreeSet<(IpAddr, String)>>>,
}

impl Listener {
    pub(super) fn new(ear: Ear, hello: Hello, members: impl IntoIterator<Item = u64>) -> Self {
        Self { ear, hello: Arc::new(hello), members: members.into_iter().collect(), refusals: Arc::default() }
    }

    /// Listens for ever.
    pub(super) async fn listen(self, listener: TcpListener) {
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
            let listener = self.clone();
            tokio::spawn(async move {
                if let Err(error) = listener.hear(stream).await {
                    if error.kind() == io::ErrorKind::InvalidData && listener.is_new(from.ip(), &error) {
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
        let hello = greeting(&mut stream).await?;
        check(&hello, &self.hello, &self.members)?;
        self.ear.hear(hello, None, stream).await
    }
}

fn check(hello: &Hello, us: &Hello, members: &[u64]) -> io::Result<()> {
    if hello.cluster_id != us.cluster_id {
        return Err(refused(format!(
            "it is of cluster {:x}, and this is {:x}: compare --initial-cluster of both, and the snapshots that they \
             were restored from",
            hello.cluster_id, us.cluster_id
        )));
    }
    if hello.to != us.from || !members.contains(&hello.from) {
        return Err(refused(format!("{:x} wants {:x}: compare --initial-cluster of both", hello.from, hello.to)));
    }
    Ok(())
}

fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdListener;

    use super::{
        super::settings::{Member, Options},
        *,
    };

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
        let ids = settings.members.iter().map(|member| member.id);
        let listener = Listener::new(Ear::new(sender.clone(), receiver), hello(&settings), ids);
        tokio::spawn(listener.listen(TcpListener::from_std(own).unwrap()));
        let mut peers = Peers::new(Road::Tcp, hello(&settings), sender);
        let place = |member: &Member| Place::Address { name: member.name.clone(), address: member.address.clone() };
        peers.set(&settings.members.iter().map(|member| (member.id, place(member))).collect(), |_| false);
        (peers, inbound)
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
        let (to, from) = (a.links.keys().next().copied().unwrap(), b.links.keys().next().copied().unwrap());
        let Inbound::Hello { from: greeted, client_urls, .. } = next(&mut heard).await else { panic!("no greeting") };
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
        a.send_snapshot(a.links.keys().next().copied().unwrap(), parts);
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
