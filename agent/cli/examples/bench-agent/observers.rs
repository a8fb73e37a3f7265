//! Watch streams that are open on many hosts at once, each message with the time at which it came.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ringmesh_agentd::lab::{self, HostStatus, wait::Watched};
use ringmesh_proto::v1::change::Kind;

/// Messages that wait while nobody asks: some 40 s of all that five hosts tell of twenty services.
const BOUND: usize = 8192;

const OPEN_WITHIN: Duration = Duration::from_secs(10);

enum News<T> {
    Synced,
    Object(T),
    Broken(String),
}

/// One open stream at each of some hosts, until it is dropped.
pub(crate) struct Observers<T> {
    hosts: usize,
    news: mpsc::Receiver<(Instant, usize, News<T>)>,
    _close: tokio::sync::oneshot::Sender<()>,
}

impl<T: Watched> Observers<T> {
    /// Opens the streams and waits until each host has told all that it knows.
    pub(crate) fn open(hosts: &[HostStatus]) -> Result<Self, String> {
        let (send, news) = mpsc::sync_channel(BOUND);
        let (close, closed) = tokio::sync::oneshot::channel();
        let apis: Vec<_> = hosts.iter().map(|host| (host.name.clone(), host.api.clone())).collect();
        thread::spawn(move || {
            lab::block_on(async move {
                let mut streams = tokio::task::JoinSet::new();
                for (host, (name, api)) in apis.into_iter().enumerate() {
                    let send = send.clone();
                    streams.spawn(async move {
                        let problem = watch(&api, host, &send).await;
                        // Whoever listens reads until it finds the end.
                        let _ = send.try_send((Instant::now(), host, News::Broken(format!("{name}: {problem}"))));
                    });
                }
                drop(send);
                // An error says that the observers were dropped, which is what is awaited.
                let _ = closed.await;
            });
        });
        let observers = Self { hosts: hosts.len(), news, _close: close };
        observers.first("the first answers", Instant::now(), OPEN_WITHIN, |news| matches!(news, News::Synced))?;
        Ok(observers)
    }

    /// When each host first told of an object for which `wanted` holds, at `since` or later.
    pub(crate) fn until(
        &self,
        what: &str,
        since: Instant,
        within: Duration,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<Instant>, String> {
        self.first(what, since, within, |news| matches!(news, News::Object(object) if wanted(object)))
    }

    fn first(
        &self,
        what: &str,
        since: Instant,
        within: Duration,
        wanted: impl Fn(&News<T>) -> bool,
    ) -> Result<Vec<Instant>, String> {
        let deadline = Instant::now() + within;
        let mut first = BTreeMap::new();
        while first.len() < self.hosts {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok((_, _, News::Broken(problem))) => return Err(format!("waiting for {what}: {problem}")),
                Ok((at, host, news)) if at >= since && wanted(&news) => {
                    first.entry(host).or_insert(at);
                }
                Ok(_) => {}
                Err(_) => {
                    let mut problem = format!("{what}: after {} s only", within.as_secs());
                    // A String takes whatever is written.
                    let _ = write!(problem, " {} of {} hosts say so", first.len(), self.hosts);
                    return Err(problem);
                }
            }
        }
        Ok(first.into_values().collect())
    }
}

/// Passes on what a host tells; returns why it ended.
async fn watch<T: Watched>(api: &str, host: usize, send: &mpsc::SyncSender<(Instant, usize, News<T>)>) -> String {
    let mut stream = match T::open(lab::channel(api)).await {
        Ok(stream) => stream,
        Err(status) => return status.to_string(),
    };
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return "the stream ended".into(),
            Err(status) => return status.to_string(),
        };
        let at = Instant::now();
        let news = match T::split(message) {
            (Kind::Synced, _) => News::Synced,
            (Kind::Present | Kind::Updated, Some(object)) => News::Object(object),
            (Kind::Present | Kind::Updated | Kind::Removed | Kind::Bookmark, _) => continue,
        };
        if send.try_send((at, host, news)).is_err() {
            return "more messages came than were read".into();
        }
    }
}
