//! Members inside containers: started, heard, asked, and started again.
//!
//! ```text
//!  STATE_DIR/member/program               a copy of the program: one file for all containers
//!  STATE_DIR/member/sockets/NAME/socket   the agent's socket, of sequenced packets
//!  /run/ringmesh-member/{program,socket}  the same in the container: the directory is mounted, and the program onto a file in it
//! ```
//!
//! A task for each container starts the program by way of the exec runner, takes its connection, and passes on what it says:
//! letters of SWIM to the host loop, answers to who asked. It judges answers as other probes do theirs, and nothing else. That
//! a member ends is known by its connection, which it is in turn ended by: none outlives its agent. One that says nothing for
//! [`HANG`] is killed and started again.

mod connection;
mod question;
mod tend;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ringmesh_node::{
    health::spec::{Inside, InsideOrder, ProbeReply},
    remedy::base,
};
use tokio::sync::{Semaphore, mpsc, watch};

use super::{Outcome, answer, exec, heartbeat::forget_others, matching::Patterns};
use tend::Tend;

/// The directory of the socket in a container.
pub const INSIDE: &str = "/run/ringmesh-member";

/// Questions that wait for the thread: as many as exec probes.
pub(super) const MAX_WAITING: usize = 1024;

/// Orders that wait for the thread: two for each container of a host. What is only to be said has half of it.
const MAX_ORDERS: usize = 2 * crate::config::MAX_CONTAINERS;

/// What waits for one member: the news of a whole cell.
const MAX_INBOX: usize = 128;

/// Bound of the channel to the host loop.
pub const INSIDE_BOUND: usize = 1024;

/// A member that says nothing for so long hangs: it speaks every few seconds.
pub const HANG: Duration = Duration::from_secs(30);

/// The first and the longest pause before a member is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The pause after what was read at once, and after a call of somebody else: a container that floods its agent waits for it, and
/// so disturbs nobody.
const PAUSE: Duration = Duration::from_millis(50);

/// Members that are started at once: half of what the exec runner does at once, unless told otherwise.
const STARTS: usize = 4;

/// One that lived so long is started again without the longer pause.
const STABLE: Duration = Duration::from_secs(60);

/// Where the copy of the program is.
pub fn program(state_dir: &Path) -> PathBuf {
    state_dir.join("member/program")
}

/// Where the socket of a container is, and the file onto which the program is mounted: of a clone where those of what it
/// replaces were.
pub fn directory(state_dir: &Path, container: &str) -> PathBuf {
    sockets(state_dir).join(base(container))
}

fn sockets(state_dir: &Path) -> PathBuf {
    state_dir.join("member/sockets")
}

/// Makes that directory, for a container that is about to be started.
pub fn prepare(state_dir: &Path, container: &str) -> io::Result<()> {
    let directory = directory(state_dir, container);
    fs::create_dir_all(&directory)?;
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    fs::OpenOptions::new().create(true).append(true).open(directory.join("program")).map(drop)
}

/// Copies the program if it is another one, and forgets all containers but these. Running ones keep the program that they have.
pub(super) fn install(state_dir: &Path, source: &Path, containers: &BTreeSet<&str>) -> io::Result<()> {
    let sockets = sockets(state_dir);
    forget_others(&sockets, containers)?;
    if containers.is_empty() {
        return Ok(());
    }
    let copy = program(state_dir);
    let bytes = fs::read(source)?;
    if fs::read(&copy).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let draft = copy.with_extension("new");
    fs::create_dir_all(&sockets)?;
    fs::write(&draft, bytes)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o755))?;
    fs::rename(draft, copy)
}

/// Orders to the thread, which ends with it; the members end with the thread.
#[derive(Clone, Debug)]
pub struct Members {
    orders: Option<mpsc::Sender<(Arc<str>, InsideOrder)>>,
}

/// What the thread works with.
pub(super) struct Hands {
    pub(super) state_dir: PathBuf,
    pub(super) execs: mpsc::Sender<exec::Order>,
    starts: Semaphore,
    pub(super) replies: mpsc::Sender<ProbeReply>,
    pub(super) news: mpsc::Sender<Inside>,
}

impl Hands {
    pub(super) fn new(
        state_dir: PathBuf,
        execs: mpsc::Sender<exec::Order>,
        replies: mpsc::Sender<ProbeReply>,
        news: mpsc::Sender<Inside>,
    ) -> Self {
        Self { state_dir, execs, starts: Semaphore::new(STARTS), replies, news }
    }
}

impl Members {
    /// Of a host that has no such container.
    pub fn none() -> Self {
        Self { orders: None }
    }

    pub(super) fn spawn(hands: Hands, asks: mpsc::Receiver<exec::Order>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, order_queue) = mpsc::channel(MAX_ORDERS);
        std::thread::Builder::new().name("member".into()).spawn(move || {
            runtime.block_on(
                Keeper { hands: Arc::new(hands), seats: BTreeMap::new(), names: BTreeMap::new() }
                    .run(order_queue, asks),
            );
        })?;
        Ok(Self { orders: Some(orders) })
    }

    /// Passes an order on; false if it was dropped, which only happens to what is to be said.
    pub fn order(&self, container: Arc<str>, order: InsideOrder) -> bool {
        let Some(orders) = &self.orders else { return true };
        if matches!(order, InsideOrder::Say(_)) && orders.capacity() < MAX_ORDERS / 2 {
            return false;
        }
        orders.try_send((container, order)).is_ok()
    }
}

/// What is for the task of one container.
enum Mail {
    Say(Bytes),
    Ask(Box<exec::Order>),
}

struct Seat {
    pid: u32,
    inbox: mpsc::Sender<Mail>,
    held: watch::Sender<bool>,
}

/// The tasks of all containers.
struct Keeper {
    hands: Arc<Hands>,
    seats: BTreeMap<Arc<str>, Seat>,
    /// Whose first process it is.
    names: BTreeMap<u32, Arc<str>>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<(Arc<str>, InsideOrder)>, mut asks: mpsc::Receiver<exec::Order>) {
        let patterns = Arc::new(Patterns::default());
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some((container, order)) => self.obey(container, order, &patterns),
                    None => return,
                },
                Some(ask) = asks.recv() => self.ask(ask).await,
            }
        }
    }

    fn obey(&mut self, container: Arc<str>, order: InsideOrder, patterns: &Arc<Patterns>) {
        match order {
            InsideOrder::Keep { pid, netns } => {
                if let Some(seat) = self.seats.get(&container).filter(|seat| seat.pid == pid) {
                    seat.held.send_replace(false);
                    return;
                }
                let (inbox, mail) = mpsc::channel(MAX_INBOX);
                let (held, hold) = watch::channel(false);
                // The one before ends with its inbox.
                self.end(&container);
                self.names.insert(pid, Arc::clone(&container));
                self.seats.insert(Arc::clone(&container), Seat { pid, inbox, held });
                let (hands, patterns) = (Arc::clone(&self.hands), Arc::clone(patterns));
                tokio::spawn(Tend::new(container, pid, netns, hands, patterns).run(mail, hold));
            }
            InsideOrder::Hold => {
                if let Some(seat) = self.seats.get(&container) {
                    seat.held.send_replace(true);
                }
            }
            InsideOrder::End => self.end(&container),
            InsideOrder::Say(packet) => {
                if let Some(seat) = self.seats.get(&container) {
                    // As SWIM allows.
                    let _ = seat.inbox.try_send(Mail::Say(packet));
                }
            }
        }
    }

    fn end(&mut self, container: &str) {
        if let Some(seat) = self.seats.remove(container)
            && self.names.get(&seat.pid).is_some_and(|name| **name == *container)
        {
            self.names.remove(&seat.pid);
        }
    }

    async fn ask(&self, ask: exec::Order) {
        let name = ask.request.pid.and_then(|pid| self.names.get(&pid));
        let Some(seat) = name.and_then(|name| self.seats.get(name)) else {
            return reply(&self.hands, ask, Outcome::fail(answer::NOT_RUNNING)).await;
        };
        if let Err(
            mpsc::error::TrySendError::Full(Mail::Ask(ask)) | mpsc::error::TrySendError::Closed(Mail::Ask(ask)),
        ) = seat.inbox.try_send(Mail::Ask(Box::new(ask)))
        {
            reply(&self.hands, *ask, Outcome::fail("too much waits for the member inside")).await;
        }
    }
}

/// What came of a question that was never asked.
async fn reply(hands: &Hands, ask: exec::Order, outcome: Outcome) {
    let now = std::time::Instant::now();
    answer_to(hands, ask, now, outcome).await;
}

async fn answer_to(hands: &Hands, ask: exec::Order, started: std::time::Instant, outcome: Outcome) {
    // Both fail only when nobody listens any more.
    match ask.answer {
        Some(step) => drop(step.send(outcome)),
        None => drop(hands.replies.send(outcome.reply(&ask.request, started)).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_copied_when_it_is_another_one_and_who_has_gone_is_forgotten() {
        use std::os::unix::fs::MetadataExt;
        let state = tempfile::tempdir().expect("a temporary directory");
        let source = state.path().join("source");
        let inode = || fs::metadata(program(state.path())).map(|metadata| metadata.ino()).ok();
        install(state.path(), &source, &[].into()).expect("there is nothing to do");
        assert!(install(state.path(), &source, &["a"].into()).is_err(), "there is none");
        fs::write(&source, "one").expect("it is ours");
        install(state.path(), &source, &["a", "b"].into()).expect("it is there");
        let first = inode().expect("it was copied");
        assert_eq!(fs::metadata(program(state.path())).expect("it is there").permissions().mode() & 0o777, 0o755);
        ["a", "b"].into_iter().for_each(|name| prepare(state.path(), name).expect("it is ours"));
        prepare(state.path(), "a").expect("twice is no error");
        install(state.path(), &source, &["a"].into()).expect("it is there");
        assert_eq!(inode(), Some(first), "running containers have the very file");
        assert!(directory(state.path(), "a").join("program").exists() && !directory(state.path(), "b").exists());
        fs::write(&source, "two").expect("it is ours");
        install(state.path(), &source, &["a"].into()).expect("it is there");
        assert_eq!(fs::read(program(state.path())).expect("it is there"), b"two");
    }
}
