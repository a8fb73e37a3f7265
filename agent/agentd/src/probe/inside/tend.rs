//! The member of one container, from one start to the next, as long as the container has this first process.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringmesh_member::{
    PROGRAM,
    message::{Malformed, VERSION, Word},
};
use ringmesh_node::health::spec::{Inside, InsideNews};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, sleep_until, timeout},
};

use super::{
    BACK_OFF, HANG, Hands, Mail, PAUSE, STABLE, answer_to,
    connection::{Connection, Listener},
    question,
};
use crate::probe::{Check, CheckId, Outcome, ProbeRequest, answer, exec, matching::Patterns};

/// A start that takes longer, and a connection that does not come within it, have failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many packets are read at once.
const BURST: usize = 32;

/// Questions of a container that are under way, or wait for its member. Beyond them they fail.
const MAX_ASKED: usize = 64;

/// One container.
pub(super) struct Tend {
    container: Arc<str>,
    pid: u32,
    netns: Option<PathBuf>,
    hands: Arc<Hands>,
    patterns: Arc<Patterns>,
    asked: BTreeMap<u32, Asked>,
    next: u32,
    /// Why there is no member now.
    why: String,
}

struct Asked {
    order: exec::Order,
    started: Instant,
    /// It was told to a member.
    told: bool,
}

impl Asked {
    fn deadline(&self) -> Instant {
        self.started + self.order.request.timeout
    }
}

/// The container has ended, or the agent does.
struct Over;

impl Tend {
    pub(super) fn new(
        container: Arc<str>,
        pid: u32,
        netns: Option<PathBuf>,
        hands: Arc<Hands>,
        patterns: Arc<Patterns>,
    ) -> Self {
        let why = "it is being started".into();
        Self { container, pid, netns, hands, patterns, asked: BTreeMap::new(), next: 0, why }
    }

    /// Keeps a member there until its inbox is closed.
    pub(super) async fn run(mut self, mut mail: mpsc::Receiver<Mail>, mut hold: watch::Receiver<bool>) {
        // Who is still waited for when it ends has the answer that the container does not run.
        let _ = self.keep(&mut mail, &mut hold).await;
        for (_, asked) in std::mem::take(&mut self.asked) {
            answer_to(&self.hands, asked.order, asked.started, Outcome::fail(answer::NOT_RUNNING)).await;
        }
    }

    async fn keep(&mut self, mail: &mut mpsc::Receiver<Mail>, hold: &mut watch::Receiver<bool>) -> Result<(), Over> {
        let mut pause = BACK_OFF.0;
        loop {
            let since = Instant::now();
            self.why = match self.start(mail).await? {
                Ok(connection) => {
                    tracing::debug!(container = &*self.container, "the member inside runs");
                    self.tell(InsideNews::Came).await?;
                    let why = self.converse(connection, mail, hold).await?;
                    self.asked.values_mut().for_each(|asked| asked.told = false);
                    why
                }
                Err(why) => why,
            };
            tracing::warn!(container = &*self.container, why = self.why, "no member inside");
            if since.elapsed() > STABLE {
                pause = BACK_OFF.0;
            }
            self.tell(InsideNews::Lost(self.why.clone())).await?;
            self.why = format!("{}; it is started again in {pause:?}", self.why);
            self.meanwhile(mail, sleep(pause)).await?;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    async fn tell(&self, news: InsideNews) -> Result<(), Over> {
        self.hands.news.send(Inside { container: Arc::clone(&self.container), news }).await.map_err(|_| Over)
    }

    /// A member that is connected, or why there is none.
    async fn start(&mut self, mail: &mut mpsc::Receiver<Mail>) -> Result<Result<Connection, String>, Over> {
        // Without a fork, and with words that help: it was started before it was to have a member.
        let program = format!("/proc/{}/root{PROGRAM}", self.pid);
        if fs::symlink_metadata(program).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(Err("the container has no program for it; restart the container".into()));
        }
        let listener = match Listener::bind(&self.hands.state_dir, &self.container) {
            Ok(listener) => listener,
            Err(error) => return Ok(Err(format!("no socket for it: {}", answer::io_error(&error)))),
        };
        let (sender, started) = oneshot::channel();
        let request = ProbeRequest {
            id: CheckId(0),
            check: Arc::new(Check::Exec { argv: vec![PROGRAM.into()] }),
            pid: Some(self.pid),
            netns: self.netns.clone(),
            timeout: PATIENCE,
            max_latency: None,
        };
        let order = exec::Order { request, answer: Some(sender), detached: true };
        let (hands, container) = (Arc::clone(&self.hands), self.pid);
        let begin = async move {
            let ends = || "this agent ends".to_owned();
            // Probes are not to wait for all members of a host.
            let turn = hands.starts.acquire().await.map_err(|_| ends())?;
            hands.execs.send(order).await.map_err(|_| ends())?;
            let outcome = started.await.map_err(|_| ends())?;
            drop(turn);
            if !outcome.sign.is_right() {
                return Err(outcome.answer);
            }
            match timeout(PATIENCE, listener.accept(container)).await {
                Ok(connected) => connected.map_err(|error| answer::io_error(&error)),
                Err(_) => Err(format!("it did not connect within {PATIENCE:?}")),
            }
        };
        self.meanwhile(mail, begin).await
    }

    /// Waits for something while there is no member: questions wait, too, each for its time.
    async fn meanwhile<T>(
        &mut self,
        mail: &mut mpsc::Receiver<Mail>,
        work: impl Future<Output = T>,
    ) -> Result<T, Over> {
        let mut work = pin!(work);
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                mail = mail.recv() => match mail {
                    Some(Mail::Ask(order)) => drop(self.take(*order).await),
                    // It begins a life when it comes.
                    Some(Mail::Say(_)) => {}
                    None => return Err(Over),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.give_up().await,
            }
        }
    }

    /// Talks with a member until its connection ends: why it did.
    async fn converse(
        &mut self,
        connection: Connection,
        mail: &mut mpsc::Receiver<Mail>,
        hold: &mut watch::Receiver<bool>,
    ) -> Result<String, Over> {
        let (mut heard, mut burst) = (Instant::now(), 0);
        for number in self.asked.keys().copied().collect::<Vec<_>>() {
            self.ask(&connection, number);
        }
        loop {
            let held = *hold.borrow_and_update();
            let due = self.due();
            tokio::select! {
                // What the agent wants is not kept waiting by a container that floods it. And after a pause of this process what
                // was said meanwhile is read before anybody is given up.
                biased;
                mail = mail.recv() => match mail {
                    Some(Mail::Say(packet)) => {
                        if let Err(error) = connection.say(&packet) {
                            return Ok(answer::io_error(&error));
                        }
                    }
                    Some(Mail::Ask(order)) => {
                        if let Some(number) = self.take(*order).await {
                            self.ask(&connection, number);
                        }
                    }
                    None => return Err(Over),
                },
                read = connection.read() => {
                    let packet = match read {
                        Ok(packet) if packet.is_empty() => return Ok("it ended".into()),
                        Ok(packet) => packet,
                        Err(error) => return Ok(answer::io_error(&error)),
                    };
                    heard = Instant::now();
                    if let Some(why) = self.hear(&packet).await? {
                        connection.kill();
                        return Ok(why);
                    }
                    burst += 1;
                    if burst == BURST {
                        burst = 0;
                        sleep(PAUSE).await;
                    }
                }
                // Of a paused container nothing is expected, and after it everything anew.
                changed = hold.changed() => {
                    changed.map_err(|_| Over)?;
                    heard = Instant::now();
                }
                () = sleep_until((heard + HANG).into()), if !held => {
                    connection.kill();
                    return Ok(format!("it said nothing for {HANG:?} and was killed"));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.give_up().await,
            }
        }
    }

    /// Takes what a member says; why not to listen to it any more.
    async fn hear(&mut self, packet: &[u8]) -> Result<Option<String>, Over> {
        match Word::decode(packet) {
            Ok(Word::Letter { to, bytes }) => {
                self.tell(InsideNews::Letter { to, bytes: Bytes::copy_from_slice(bytes) }).await?;
            }
            Ok(Word::Answer { number, answer }) => {
                // One that is not there was given up before.
                let Some(asked) = self.asked.get(&number).filter(|asked| asked.told) else { return Ok(None) };
                let Check::Inside(check) = &*asked.order.request.check else { return Ok(None) };
                if let Some(outcome) = question::judge(&self.patterns, check, answer)
                    && let Some(asked) = self.asked.remove(&number)
                {
                    answer_to(&self.hands, asked.order, asked.started, outcome).await;
                }
            }
            Err(Malformed::Version(version)) => {
                self.tell(InsideNews::Malformed).await?;
                let why = format!("it speaks version {version}, this agent {VERSION}; restart the container");
                return Ok(Some(why));
            }
            Err(Malformed::Bytes) => self.tell(InsideNews::Malformed).await?,
        }
        Ok(None)
    }

    /// A question, under its number.
    async fn take(&mut self, order: exec::Order) -> Option<u32> {
        let started = Instant::now();
        if self.asked.len() == MAX_ASKED {
            answer_to(&self.hands, order, started, Outcome::fail("too many questions wait for the member inside"))
                .await;
            return None;
        }
        self.next = self.next.wrapping_add(1);
        self.asked.insert(self.next, Asked { order, started, told: false });
        Some(self.next)
    }

    fn ask(&mut self, connection: &Connection, number: u32) {
        let Some(asked) = self.asked.get_mut(&number) else { return };
        let Check::Inside(check) = &*asked.order.request.check else { return };
        let left = asked.deadline().saturating_duration_since(Instant::now());
        // If it cannot be said, it is not answered, and the connection tells why. To a member that does not read it is said in
        // vain: that, too, is no answer of its.
        if let Some(packet) = question::packet(number, left, check) {
            asked.told = connection.say(&packet).is_ok();
        }
    }

    fn due(&self) -> Option<Instant> {
        self.asked.values().map(Asked::deadline).min()
    }

    /// Says what came of questions whose time is over.
    async fn give_up(&mut self) {
        let now = Instant::now();
        let late = self.asked.iter().filter(|(_, asked)| asked.deadline() <= now).map(|(number, _)| *number);
        for number in late.collect::<Vec<_>>() {
            let Some(asked) = self.asked.remove(&number) else { continue };
            let timeout = asked.order.request.timeout;
            let outcome = if asked.told {
                let words = format!("the member inside gave {}", answer::no_answer(timeout));
                Outcome::silence(words)
            } else {
                Outcome::fail(format!("no member inside: {}", self.why))
            };
            answer_to(&self.hands, asked.order, asked.started, outcome).await;
        }
    }
}
