//! What the agents of one program say of each other, as one stream of news and as the view that each has now.
//!
//! It does not know where news come from: watch streams of ringmesh, logs of serf and corosync.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Instant,
};

/// News that wait while nobody reads: more than every of 64 agents saying something of every other.
const BOUND: usize = 16_384;

/// What an agent said. Hosts are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Whoever listens to it begins anew: what it said before counts no more.
    Reset,
    /// A failure event: this host is no member any more.
    Failed(usize),
    /// In its view this host is well, or is not, the words being the reason.
    Sees(usize, bool),
    /// Uplink A of this host carries, or does not.
    UplinkA(usize, bool),
    /// It has no membership until one is formed.
    Forming,
    /// A membership was formed anew, whoever is in it.
    Formed,
}

/// What an agent said when, and in which words.
pub(crate) struct News {
    pub(crate) at: Instant,
    pub(crate) observer: usize,
    pub(crate) what: What,
    pub(crate) text: String,
}

/// Where news are put in.
#[derive(Clone)]
pub(crate) struct Teller {
    news: mpsc::SyncSender<News>,
    lost: Arc<AtomicU64>,
}

impl Teller {
    /// Never waits: beyond the bound news are lost, which [`Watch::next`] reports.
    pub(crate) fn tell(&self, observer: usize, what: What, text: &str) {
        let news = News { at: Instant::now(), observer, what, text: text.into() };
        if self.news.try_send(news).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// The news of all agents, and who sees whom.
pub(crate) struct Watch {
    news: mpsc::Receiver<News>,
    lost: Arc<AtomicU64>,
    /// By observer, then by host.
    sees: Vec<Vec<bool>>,
    /// Those that have no membership now.
    forming: BTreeSet<usize>,
}

impl Watch {
    /// Of so many hosts, none of which sees any.
    pub(crate) fn new(hosts: usize) -> (Teller, Self) {
        let (sender, news) = mpsc::sync_channel(BOUND);
        let lost = Arc::new(AtomicU64::new(0));
        let teller = Teller { news: sender, lost: Arc::clone(&lost) };
        (teller, Self { news, lost, sees: vec![vec![false; hosts]; hosts], forming: BTreeSet::new() })
    }

    /// The next news; `None` when there is none until the deadline.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Option<News>, String> {
        match self.lost.load(Relaxed) {
            0 => {}
            lost => return Err(format!("{lost} messages came faster than they were read")),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(news) = self.news.recv_timeout(left) else { return Ok(None) };
        let row = &mut self.sees[news.observer];
        match news.what {
            What::Reset => row.fill(false),
            What::Failed(host) => row[host] = false,
            What::Sees(host, well) => row[host] = well,
            What::Forming | What::Formed | What::UplinkA(..) => {}
        }
        match news.what {
            What::Forming => drop(self.forming.insert(news.observer)),
            What::Reset | What::Formed => drop(self.forming.remove(&news.observer)),
            What::Failed(_) | What::Sees(..) | What::UplinkA(..) => {}
        }
        Ok(Some(news))
    }

    /// Whether every agent sees all well.
    pub(crate) fn whole(&self) -> bool {
        self.forming.is_empty() && self.sees.iter().flatten().all(|sees| *sees)
    }

    /// How many of all pairs are missing for that, and one of them: for an error.
    pub(crate) fn lacking(&self) -> String {
        let pairs = self.sees.iter().enumerate().flat_map(|(observer, row)| {
            row.iter().enumerate().filter(|(_, sees)| !**sees).map(move |(host, _)| (observer + 1, host + 1))
        });
        let (mut count, mut first) = (0, (0, 0));
        for pair in pairs {
            first = if count == 0 { pair } else { first };
            count += 1;
        }
        match (count, self.forming.len()) {
            (0, forming) => format!("{forming} agents have no membership"),
            _ => format!("{count} views of a host are missing, such as that of h{} at h{}", first.1, first.0),
        }
    }
}
