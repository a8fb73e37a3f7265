//! Alarms: the timers of what wakes up often, all on one timer of the kernel that is set to the first of them.
//!
//! The runtime's own timers wake a thread two or three times for each that is awaited: once or more on the way, as its wheel
//! has coarse slots far ahead, and once more when a timer is set that is earlier than all others. At some twenty a second that
//! is most of what an idle agent does.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use crate::fd;

/// Makes alarms. They ring as long as one of its clones is there.
#[derive(Clone, Debug)]
pub struct AlarmClock {
    bell: Arc<Bell>,
}

/// Ends the task with the last clone.
#[derive(Debug)]
struct Bell {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Shared {
    fd: AsyncFd<OwnedFd>,
    queue: Mutex<Queue>,
    made: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Those that somebody waits for, by time and by number.
    waiting: BTreeMap<(Instant, u64), Waker>,
    /// What the kernel's timer is set to.
    set: Option<Instant>,
    /// Of the task that sets it.
    task: Option<Waker>,
}

impl Queue {
    fn first(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Has the kernel's timer set before the thread sleeps, once for all changes until then.
    fn changed(&mut self) {
        if self.first() != self.set
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
    }
}

impl AlarmClock {
    /// To be called within a runtime, which has to go on.
    pub fn start() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let fd = fd::watch(fd, Interest::READABLE)?;
        let shared = Arc::new(Shared { fd, queue: Mutex::default(), made: AtomicU64::new(0) });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            poll_fn(move |cx| shared.ring(cx))
        });
        Ok(Self { bell: Arc::new(Bell { shared, task }) })
    }

    /// An alarm for then.
    pub fn alarm(&self, at: Instant) -> Alarm {
        let shared = Arc::clone(&self.bell.shared);
        let number = shared.made.fetch_add(1, Relaxed);
        Alarm { shared, number, at, waits: false }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Wakes whose time has come, and sets the kernel's timer to the next.
    fn ring(&self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(Ok(mut ready)) = self.fd.poll_read_ready(cx) {
            // How often it rang does not matter.
            let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
            ready.clear_ready();
            self.queue().set = None;
        }
        let mut queue = self.queue();
        let now = Instant::now();
        let mut woken = false;
        while let Some(entry) = queue.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            entry.remove().wake();
            woken = true;
        }
        let first = queue.first();
        if woken {
            // They will set alarms themselves: after them is time enough.
            cx.waker().wake_by_ref();
        } else if first != queue.set {
            queue.set = first;
            set(&self.fd, first.map(|at| at.saturating_duration_since(now)));
        }
        queue.task = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Sets the kernel's timer, or stops it.
fn set(fd: &AsyncFd<OwnedFd>, after: Option<Duration>) {
    // Zero would stop it.
    let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
    let it_value = Timespec {
        tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(after.subsec_nanos()),
    };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
    timerfd_settime(fd, TimerfdTimerFlags::empty(), &once).expect("it is a timer, and the time is one");
}

/// Rings once at its time, and again when it was set anew.
#[derive(Debug)]
pub struct Alarm {
    shared: Arc<Shared>,
    number: u64,
    at: Instant,
    waits: bool,
}

impl Alarm {
    /// From now on it rings then. Whoever waits for it need not ask again.
    pub fn set(&mut self, at: Instant) {
        if at == self.at {
            return;
        }
        let before = std::mem::replace(&mut self.at, at);
        if self.waits {
            let mut queue = self.shared.queue();
            match queue.waiting.remove(&(before, self.number)) {
                Some(waker) => {
                    queue.waiting.insert((at, self.number), waker);
                    queue.changed();
                }
                None => self.waits = false,
            }
        }
    }

    /// Ready when its time has come; else the task is woken then.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.at <= Instant::now() {
            self.stop();
            return Poll::Ready(());
        }
        self.waits = true;
        let mut queue = self.shared.queue();
        queue
            .waiting
            .entry((self.at, self.number))
            .and_modify(|waker| waker.clone_from(cx.waker()))
            .or_insert_with(|| cx.waker().clone());
        queue.changed();
        Poll::Pending
    }

    /// Waits until it rings.
    pub async fn rings(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.waits) {
            let mut queue = self.shared.queue();
            queue.waiting.remove(&(self.at, self.number));
            queue.changed();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn alarms_ring_in_their_order_and_never_early() {
        let clock = AlarmClock::start().expect("the kernel has timers");
        let start = Instant::now();
        let ring = |after: u32| {
            let mut alarm = clock.alarm(start + MS * after);
            async move {
                alarm.rings().await;
                assert!(start.elapsed() >= MS * after);
                after
            }
        };
        let mut rang = Vec::new();
        let mut all: futures_util::stream::FuturesUnordered<_> = [30, 10, 0, 20, 10].map(ring).into_iter().collect();
        while let Some(after) = futures_util::StreamExt::next(&mut all).await {
            rang.push(after);
        }
        assert_eq!(rang, [0, 10, 10, 20, 30]);
        assert!(clock.bell.shared.queue().waiting.is_empty());
    }

    #[tokio::test]
    async fn an_alarm_that_is_set_anew_rings_then_and_one_that_is_dropped_never() {
        let clock = AlarmClock::start().expect("the kernel has timers");
        let start = Instant::now();
        let mut alarm = clock.alarm(start + MS * 3_600_000);
        let waiting = tokio::spawn({
            let mut other = clock.alarm(start + MS * 5);
            async move { other.rings().await }
        });
        poll_fn(|cx| {
            assert!(alarm.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // The task that waits is woken, although the alarm was set after it asked.
        alarm.set(start + MS * 10);
        alarm.rings().await;
        assert!(start.elapsed() >= MS * 10 && start.elapsed() < MS * 3_600_000);
        waiting.await.expect("it rings");
        alarm.set(start + MS * 3_600_000);
        poll_fn(|cx| Poll::Ready(alarm.poll(cx).is_pending())).await;
        drop(alarm);
        assert!(clock.bell.shared.queue().waiting.is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_when_an_alarm_is_set_to_an_earlier_time() {
        let clock = AlarmClock::start().expect("the kernel has timers");
        let alarm = Arc::new(Mutex::new(clock.alarm(Instant::now() + MS * 3_600_000)));
        let waiting = tokio::spawn({
            let alarm = Arc::clone(&alarm);
            poll_fn(move |cx| alarm.lock().expect("nobody panics").poll(cx))
        });
        tokio::task::yield_now().await;
        alarm.lock().expect("nobody panics").set(Instant::now() + MS);
        waiting.await.expect("it rings");
    }
}
