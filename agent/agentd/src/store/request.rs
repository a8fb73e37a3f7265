//! What is asked of the store's loop, and how long an answer may take. How it finds the answer it alone knows.

use std::{collections::BTreeMap, time::Duration};

use ringmesh_proto::{
    etcd::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse},
    store::command::Change,
};
use ringmesh_store::{
    consensus::Consensus,
    kv::{HashWork, Kv, Outcome, Refusal, Snapshot, StreamId},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::member::Others;

/// Bound of the channel of requests; who asks waits.
pub(super) const REQUEST_BOUND: usize = 1024;

/// How long an answer may take: some elections.
const PATIENCE: Duration = Duration::from_secs(7);

/// Without a leader for so long, some elections have failed: this member may be cut off from the others.
const UNLED: Duration = Duration::from_secs(3);

/// Answers that a stream of watches takes before its reader has taken one.
const WATCH_ANSWERS: usize = 4;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The keys say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody knows what became of it.
    #[error("etcdserver: request timed out")]
    TimedOut,
    /// Nor that, and whom it was given to leads no more.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    LeaderLost,
    /// More waits than there is room for; it was not done.
    #[error("etcdserver: too many requests")]
    TooMany,
    /// Nobody leads.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// This member does not lead, and only the leader can.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// Whom it names cannot lead.
    #[error("etcdserver: bad leader transferee")]
    BadTransferee,
    /// This member ends.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// Whose answer it is: what the header of each one says beside the revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// Of the members together.
    pub(super) cluster_id: u64,
    /// Of this one.
    pub(super) member_id: u64,
    /// Of the leader.
    pub(super) term: u64,
}

impl Stamp {
    /// Completes a header that has its revision.
    pub(super) fn sign(self, header: &mut Option<ResponseHeader>) {
        let header = header.get_or_insert_default();
        header.cluster_id = self.cluster_id;
        header.member_id = self.member_id;
        header.raft_term = self.term;
    }

    /// A header for an answer that the keys do not give.
    pub(super) fn header(self, revision: i64) -> Option<ResponseHeader> {
        let mut header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        self.sign(&mut header);
        header
    }
}

/// What a change came to.
#[derive(Debug)]
pub(super) struct Changed {
    /// Of this moment.
    pub(super) stamp: Stamp,
    /// What it did.
    pub(super) outcome: Outcome,
}

/// The store as a question sees it.
pub(super) struct Sight<'a> {
    /// The keys.
    pub(super) kv: &'a Kv,
    /// Of this moment.
    pub(super) stamp: Stamp,
    /// Who leads, and how far the log is.
    pub(super) consensus: &'a Consensus,
    /// Of the members that have said where clients find them.
    pub(super) client_urls: &'a BTreeMap<u64, Vec<String>>,
    /// Who the members are, and why.
    pub(super) others: &'a Others,
}

/// A question about the keys, with where its answer goes.
pub(super) type Look = Box<dyn FnOnce(Result<&Sight<'_>, Failure>) + Send>;

/// What a lease has left.
#[derive(Debug)]
pub(super) struct Left {
    /// None of a lease that is not there.
    pub(super) left: Option<Duration>,
    /// Of this moment.
    pub(super) header: Option<ResponseHeader>,
}

/// One thing that is asked.
pub(super) enum Request {
    /// Change the keys.
    Change {
        /// How.
        change: Change,
        /// Gone if nobody waits any more.
        reply: oneshot::Sender<Result<Changed, Failure>>,
    },
    /// Look at them.
    Look {
        /// With all that any member had acknowledged before.
        consistent: bool,
        /// At what.
        look: Look,
    },
    /// How long a lease has.
    Lease {
        /// Which.
        lease: i64,
        /// Whether its time starts anew.
        renew: bool,
        /// What is left.
        reply: oneshot::Sender<Result<Left, Failure>>,
    },
    /// Opens a stream of watches.
    Open {
        /// Where its answers go.
        answers: mpsc::Sender<WatchResponse>,
        /// Its name.
        reply: oneshot::Sender<StreamId>,
    },
    /// What its client says.
    Watch {
        /// Which stream.
        stream: StreamId,
        /// What.
        request: WatchRequest,
    },
    /// Its reader has taken an answer.
    Taken(StreamId),
    /// Its client has gone.
    Close(StreamId),
    /// Sum up all keys and values.
    Hash {
        /// Up to which revision; 0 for the newest.
        revision: i64,
        /// The work, to be done elsewhere.
        reply: oneshot::Sender<Result<HashWork, Failure>>,
    },
    /// Give all keys, as they are now or later.
    Snapshot(oneshot::Sender<Result<Snapshot, Failure>>),
    /// Let another member lead.
    Transfer {
        /// Which.
        to: u64,
        /// When it leads.
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// End in order.
    End,
}

/// Asks the loop.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    requests: mpsc::Sender<Request>,
    led: watch::Receiver<bool>,
}

impl Handle {
    /// `led` says whether anyone leads.
    pub(super) fn new(requests: mpsc::Sender<Request>, led: watch::Receiver<bool>) -> Self {
        Self { requests, led }
    }

    /// Whether anyone leads, as far as this member knows.
    pub(super) fn is_led(&self) -> bool {
        *self.led.borrow()
    }

    /// Returns when nobody has led for longer than an election takes.
    pub(super) async fn unled(&self) {
        let mut led = self.led.clone();
        loop {
            if led.wait_for(|led| !led).await.is_err() {
                // The loop has ended, and says so itself.
                return std::future::pending().await;
            }
            if tokio::time::timeout(UNLED, led.wait_for(|led| *led)).await.is_err() {
                return;
            }
        }
    }

    /// Done, and on as many disks as it needs.
    pub(super) async fn change(&self, change: Change) -> Result<Changed, Failure> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Change { change, reply }, answer).await?
    }

    /// What `look` sees.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        consistent: bool,
        look: impl FnOnce(&Sight<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let look = Box::new(move |sight: Result<&Sight<'_>, Failure>| {
            // Who asked may have gone: then nothing is looked for.
            if !reply.is_closed() {
                let _ = reply.send(sight.map(look));
            }
        });
        self.ask(Request::Look { consistent, look }, answer).await?
    }

    /// What a lease has left.
    pub(super) async fn lease(&self, lease: i64, renew: bool) -> Result<Left, Failure> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Lease { lease, renew, reply }, answer).await?
    }

    /// The work of summing up all keys and values.
    pub(super) async fn hash(&self, revision: i64) -> Result<HashWork, Failure> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Hash { revision, reply }, answer).await?
    }

    /// All keys, with what was acknowledged before.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Failure> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Snapshot(reply), answer).await?
    }

    /// Returns when that member leads.
    pub(super) async fn transfer(&self, to: u64) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Transfer { to, reply }, answer).await?
    }

    /// A new stream of watches.
    pub(super) async fn watches(&self) -> Result<Watches, Failure> {
        let (sender, answers) = mpsc::channel(WATCH_ANSWERS);
        let (reply, id) = oneshot::channel();
        let id = self.ask(Request::Open { answers: sender, reply }, id).await?;
        Ok(Watches { id, answers, handle: self.clone() })
    }

    /// The loop ends, and what it has acknowledged is on the disk.
    pub(super) async fn end(&self) {
        let _ = self.requests.send(Request::End).await;
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, Failure> {
        let asked = async {
            self.requests.send(request).await.map_err(|_| Failure::Stopped)?;
            answer.await.map_err(|_| Failure::Stopped)
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(Failure::TimedOut))
    }
}

/// A stream of watches; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watches {
    id: StreamId,
    answers: mpsc::Receiver<WatchResponse>,
    handle: Handle,
}

impl Watches {
    /// Says what its client wants.
    pub(super) async fn say(&self, request: WatchRequest) -> Result<(), Failure> {
        let request = Request::Watch { stream: self.id, request };
        self.handle.requests.send(request).await.map_err(|_| Failure::Stopped)
    }

    /// The next answer. May be dropped while it waits: no answer is lost.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Failure> {
        // Only a member that ends closes a stream that somebody reads. Clients ask another one then, for which they are to
        // be told so: what they take for their own cancellation ends their watches for good.
        let answer = self.answers.recv().await.ok_or(Failure::Stopped)?;
        if self.handle.requests.try_send(Request::Taken(self.id)).is_err() {
            self.tell_later();
        }
        Ok(answer)
    }

    /// The loop's channel is full: it is told when there is room, and this need not wait for that.
    fn tell_later(&self) {
        let (requests, id) = (self.handle.requests.clone(), self.id);
        tokio::spawn(async move { requests.send(Request::Taken(id)).await });
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        // If there is no room, the loop finds it out by itself.
        let _ = self.handle.requests.try_send(Request::Close(self.id));
    }
}
