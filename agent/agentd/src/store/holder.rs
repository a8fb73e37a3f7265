//! The replica that this host holds, from when it founds or is invited until it is told that another one has its place.
//!
//! It owns the directory and the streams that other hosts open, and decides by whose greeting what begins and ends. What
//! the members agree on it does not know.
//!
//! ```text
//!  init ─────── founds ──▶ ┌────────┐ ── Faces ──▶ Access
//!  greetings ── invites ─▶ │ Holder │ ── record ─▶ host loop: what this host says that it holds
//!  its replica ─ Gone ───▶ └────────┘
//! ```

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use ringmesh_node::{View, roles};
use ringmesh_proto::{ClusterId, HostId, peer::ReplicaRecord, store::Hello};
use ringmesh_store::consensus::Conf;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tonic::codegen::http::Extensions;

use super::{
    access::{Access, PassedOn},
    directory::Directory,
    error::StoreError,
    faces::{Faces, MAX_CALLS},
    member::{Ended, FOUNDER, Greeted, Known, Mesh, Others, give_up, lock},
    peer::{Verdict, greeting, say},
    request::{Failure, Handle, Sight},
    road::{Place, Road},
    settings::Settings,
    start::{BROKE, Begin, Log, Running, start_member},
};
use crate::{
    port::Port,
    quic::{Purpose, StoreStream, Transport},
};

/// Greetings that wait for a decision.
const GREETING_BOUND: usize = 64;

/// First and last pause before a replica is begun again that has ended by itself, as on a full disk.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// One that has run for so long has begun well.
const SETTLED: Duration = Duration::from_secs(60);

/// How long a replica has for its end: a checkpoint, and another one that leads.
const END: Duration = Duration::from_secs(10);

/// How long a host that leaves waits until another one has its vote. Less than a client waits for an answer.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Between two looks whether that is so: nobody says it.
const GIVE_UP_LOOK: Duration = Duration::from_millis(50);

/// A stream of a replica whose greeting was read.
type Line = BufReader<StoreStream>;

/// What a host's replica is to be.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Of the cluster.
    pub cluster: ClusterId,
    /// Of this host.
    pub host: HostId,
    /// Of this host.
    pub name: String,
    /// Where the host keeps its state; the replica's directory is in it.
    pub state_dir: PathBuf,
    /// Whether it comes when it is invited.
    pub eligible: bool,
    /// Who else is to be a member, if this one leads.
    pub roles: roles::Settings,
    /// Bytes of keys and values beyond which nothing more is written.
    pub quota_bytes: u64,
    /// How long old revisions are kept; None: until a client compacts them.
    pub retention: Option<Duration>,
}

/// Says that the cluster's first replica is to begin on this host. Waits for the disk.
pub fn found(state_dir: &Path) -> io::Result<()> {
    File::create(marker(state_dir))?.sync_all()?;
    super::directory::sync(state_dir)
}

/// There until the first replica has begun.
fn marker(state_dir: &Path) -> PathBuf {
    state_dir.join("store.founds")
}

/// See above.
pub struct Holder {
    holding: Holding,
    transport: Transport,
    view: watch::Receiver<Arc<View>>,
    streams: mpsc::Receiver<StoreStream>,
    local: watch::Sender<Option<Faces>>,
    told: watch::Sender<Option<ReplicaRecord>>,
    access: Access,
    port: Port<PassedOn>,
    /// That this host is about to leave, with where it is told that it may.
    leaves: mpsc::Receiver<oneshot::Sender<()>>,
    replica: Option<Replica>,
    /// When it is to begin again.
    again: Option<Instant>,
    /// Before the next time.
    pause: Duration,
}

/// The replica while it runs.
struct Replica {
    id: u64,
    running: Running,
    known: Arc<Mutex<Known>>,
    since: Instant,
}

impl Holder {
    /// Also returns the store as this host has it, and what the host is to say of itself.
    pub fn new(
        holding: Holding,
        transport: Transport,
        view: watch::Receiver<Arc<View>>,
        streams: mpsc::Receiver<StoreStream>,
    ) -> (Self, Access, watch::Receiver<Option<ReplicaRecord>>) {
        let (local, faces) = watch::channel(None);
        let (told, record) = watch::channel(None);
        let (leave, leaves) = mpsc::channel(1);
        let access = Access::new(faces, transport.clone(), view.clone(), leave);
        let port = Port::new(PassedOn(access.clone()), MAX_CALLS);
        let holder = Self {
            holding,
            transport,
            view,
            streams,
            local,
            told,
            access: access.clone(),
            port,
            leaves,
            replica: None,
            again: None,
            pause: PAUSES.0,
        };
        (holder, access, record)
    }

    /// Runs until it is told to end; then nothing of it is left but what is on the disk.
    pub async fn run(mut self, mut end: oneshot::Receiver<()>) {
        self.begin_again();
        let (greeted_sender, mut greeted) = mpsc::channel(GREETING_BOUND);
        loop {
            let ended = async {
                match &mut self.replica {
                    Some(replica) => (&mut replica.running.ended).await.unwrap_or(Err(BROKE)),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = &mut end => break,
                ended = ended => self.note_end(ended),
                Some(stream) = self.streams.recv() => self.take(stream, &greeted_sender),
                Some((hello, line)) = greeted.recv() => self.greeted(hello, line).await,
                Some(reply) = self.leaves.recv() => self.leave(reply),
                () = until(self.again) => self.begin_again(),
            }
        }
        self.end().await;
    }

    /// What was here before, or what `init` wants.
    fn begin_again(&mut self) {
        self.again = None;
        let directory = self.directory();
        let found = Directory::replica(&directory, self.holding.cluster.raw());
        let marked = marker(&self.holding.state_dir);
        let begun = match found {
            Ok(Some(id)) => self.begin(id, Log::Kept),
            Ok(None) if marked.exists() => self.begin(FOUNDER, Log::Founds(Conf::of_voters([FOUNDER]))),
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        match begun {
            // From here on a log that is lost is lost.
            Ok(()) => drop(std::fs::remove_file(marked)),
            Err(error) => {
                let error = crate::disk::one_line_of(&error);
                tracing::error!(error, "this host's replica of the configuration does not run");
                self.try_again();
            }
        }
    }

    fn directory(&self) -> PathBuf {
        self.holding.state_dir.join("store")
    }

    fn begin(&mut self, id: u64, log: Log) -> Result<(), StoreError> {
        let settings = Settings::of_replica(&self.holding, id, self.directory());
        let directory = match log {
            Log::Kept => Directory::of_replica(&settings)?,
            Log::Founds(_) | Log::Joins => {
                self.set_aside()?;
                Directory::of_new_replica(&settings)?
            }
        };
        let known = Arc::new(Mutex::new(Known::default()));
        let mesh = Mesh::new(
            (self.holding.host, self.holding.name.clone()),
            self.holding.roles.clone(),
            self.view.clone(),
            Arc::clone(&known),
            self.told.clone(),
        );
        let others = Others::Mesh(Box::new(mesh));
        let running =
            start_member(Begin { settings, directory, log, road: Road::Mesh(self.transport.clone()), others })?;
        let faces = Faces::new(&running.handle, true);
        self.local.send_replace(Some(faces));
        self.replica = Some(Replica { id, running, known, since: Instant::now() });
        self.again = None;
        tracing::info!(replica = format!("{id:x}"), "this host holds a replica of the configuration");
        Ok(())
    }

    /// Reads the greeting elsewhere: a slow one holds up nobody.
    fn take(&self, stream: StoreStream, greeted: &mpsc::Sender<(Hello, Line)>) {
        match stream.purpose {
            Purpose::Calls => {
                // Otherwise there is nothing to say; the other end asks another host.
                if self.access.serves() {
                    tokio::spawn(take_calls(self.port.clone(), stream));
                }
            }
            Purpose::Replica => {
                let greeted = greeted.clone();
                tokio::spawn(async move {
                    let mut line = BufReader::with_capacity(64 << 10, stream);
                    match greeting(&mut line).await {
                        // The holder may have ended.
                        Ok(hello) => drop(greeted.send((hello, line)).await),
                        Err(error) => tracing::debug!(host = %line.get_ref().host, %error, "a greeting is none"),
                    }
                });
            }
            Purpose::Unspecified => {}
        }
    }

    async fn greeted(&mut self, hello: Hello, line: Line) {
        let host = line.get_ref().host;
        if hello.cluster_id != self.holding.cluster.raw() {
            return tracing::warn!(%host, "a host greets in the name of another cluster's store");
        }
        if hello.invites
            && self.held().is_none_or(|held| held < hello.to)
            && let Err(verdict) = self.accept_invitation(hello.to).await
        {
            return tell(line, verdict);
        }
        let Some(replica) = self.replica.as_ref().filter(|replica| replica.id == hello.to) else {
            return tell(line, Verdict::Lost);
        };
        match lock(&replica.known).judge(hello.from, host) {
            Greeted::Member => {}
            Greeted::Gone => return tell(line, Verdict::Gone),
            Greeted::Stolen => return tracing::warn!(%host, "a host greets in the name of another one's replica"),
        }
        let ear = replica.running.ear.clone();
        let name = self.view.borrow().peers.get(&host).map_or_else(|| host.to_string(), |peer| peer.name.clone());
        tokio::spawn(async move {
            if let Err(error) = ear.hear(hello, Some(Place::Host { name, host }), line).await {
                tracing::debug!(%host, %error, "a replica's stream broke");
            }
        });
    }

    /// The id of the replica that is here, whether it runs or not.
    fn held(&self) -> Option<u64> {
        let running = self.replica.as_ref().map(|replica| replica.id);
        running.or_else(|| Directory::replica(&self.directory(), self.holding.cluster.raw()).ok().flatten())
    }

    /// What was held before has lost its place.
    async fn accept_invitation(&mut self, id: u64) -> Result<(), Verdict> {
        if !self.holding.eligible {
            return Err(Verdict::Declined);
        }
        self.end().await;
        self.begin(id, Log::Joins).map_err(|error| {
            let error = crate::disk::one_line_of(&error);
            tracing::error!(error, "this host is invited to hold a replica of the configuration, and cannot");
            Verdict::Declined
        })
    }

    /// The directory as it is, if there is anything in it.
    fn set_aside(&self) -> Result<(), StoreError> {
        let directory = self.directory();
        if directory.join("member.json").exists() {
            let aside = Directory::set_aside(&directory)?;
            tracing::info!(directory = %aside.display(), "kept what the replica held that has lost its place");
        }
        Ok(())
    }

    /// The replica works on while another one takes its place, and is told in the end that it is gone.
    fn leave(&mut self, reply: oneshot::Sender<()>) {
        self.holding.eligible = false;
        let replica = self.replica.as_ref().map(|replica| (replica.running.handle.clone(), replica.id));
        tokio::spawn(async move {
            if let Some((handle, id)) = replica {
                match tokio::time::timeout(GIVE_UP, give_up_vote(&handle, id)).await {
                    Ok(()) => {}
                    Err(_) => tracing::warn!("leaves with its vote: no other host has taken it in time"),
                }
            }
            // Who asked may have gone.
            let _ = reply.send(());
        });
    }

    /// After a pause that grows.
    fn try_again(&mut self) {
        self.again = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    fn note_end(&mut self, ended: Result<Ended, StoreError>) {
        if self.replica.take().is_some_and(|replica| replica.since.elapsed() >= SETTLED) {
            self.pause = PAUSES.0;
        }
        self.local.send_replace(None);
        self.told.send_replace(None);
        match ended {
            Ok(Ended::Told) => {}
            Ok(Ended::Gone) => {
                if let Err(error) = self.set_aside() {
                    tracing::warn!(
                        error = crate::disk::one_line_of(&error),
                        "cannot move the replica's directory away"
                    );
                }
            }
            Err(error) => {
                let error = crate::disk::one_line_of(&error);
                tracing::error!(error, "this host's replica of the configuration has ended; it begins again by itself");
                self.try_again();
            }
        }
    }

    async fn end(&mut self) {
        let Some(mut replica) = self.replica.take() else { return };
        self.local.send_replace(None);
        replica.running.handle.end().await;
        let ended = tokio::time::timeout(END, &mut replica.running.ended).await;
        match ended {
            Ok(ended) => self.note_end(ended.unwrap_or(Err(BROKE))),
            Err(_) => tracing::error!("this host's replica of the configuration does not end"),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The other end hears first that its calls are taken.
async fn take_calls(port: Port<PassedOn>, mut stream: StoreStream) {
    if stream.write_u8(1).await.is_ok() {
        port.converse(stream, Extensions::new()).await;
    }
}

/// Returns when the replica has no vote, or has ended.
async fn give_up_vote(handle: &Handle, id: u64) {
    loop {
        let asked = handle.look(true, move |sight| give_up(sight.kv, &sight.consensus.status().conf, id)).await;
        let done = match asked {
            Ok(None) | Err(Failure::Stopped) => return,
            Ok(Some(change)) => handle.change(change).await.is_ok(),
            Err(_) => false,
        };
        if done {
            break;
        }
        // Nobody leads, or the seat was changed meanwhile.
        tokio::time::sleep(GIVE_UP_LOOK).await;
    }
    let votes = move |sight: &Sight<'_>| sight.consensus.status().conf.is_voter(id);
    while handle.look(false, votes).await.unwrap_or(false) {
        tokio::time::sleep(GIVE_UP_LOOK).await;
    }
}

fn tell(mut line: Line, verdict: Verdict) {
    tokio::spawn(async move {
        // Who asked may have gone.
        if say(&mut line, verdict).await.is_ok() {
            // A stream that is dropped at once may take its last byte with it.
            let _ = tokio::time::timeout(Duration::from_secs(5), line.get_mut().send.stopped()).await;
        }
    });
}
