//! Awaiting the end of processes: one thread for all, and for each a descriptor and an entry in a table.

use std::{
    collections::BTreeMap,
    io::{self, PipeReader, PipeWriter},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use tokio::sync::mpsc;

use super::process::ProcessId;

/// Ends that wait for the supervisor; beyond that the thread waits, and the kernel remembers.
const ENDS: usize = 256;

/// The end of a process, with the number that its watcher gave it.
pub(super) type End = (usize, ProcessId);

/// Watches processes until it is dropped.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    next: u64,
    /// Its end closes with us, and ends the thread.
    _stop: PipeWriter,
}

struct Shared {
    epoll: Epoll,
    /// By token; a token is never used twice.
    watched: Mutex<BTreeMap<u64, (OwnedFd, End)>>,
}

/// The token of the pipe that ends the thread.
const STOP: u64 = 0;

impl Watcher {
    /// A watcher and where it tells ends.
    pub(super) fn new() -> io::Result<(Self, mpsc::Receiver<End>)> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (reader, writer) = io::pipe()?;
        epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let shared = Arc::new(Shared { epoll, watched: Mutex::default() });
        let (sender, receiver) = mpsc::channel(ENDS);
        let for_thread = shared.clone();
        std::thread::Builder::new()
            .name("container-ends".into())
            .spawn(move || for_thread.tell_ends(&sender, reader))?;
        Ok((Self { shared, next: STOP + 1, _stop: writer }, receiver))
    }

    /// Tells the end of `process` once, as number `at`; false if it has ended already.
    pub(super) fn watch(&mut self, at: usize, process: ProcessId) -> io::Result<bool> {
        let Some(fd) = process.pidfd()? else { return Ok(false) };
        let token = self.next;
        self.next += 1;
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        watched.insert(token, (fd, (at, process)));
        Ok(true)
    }
}

impl Shared {
    fn tell_ends(&self, sender: &mpsc::Sender<End>, _stop: PipeReader) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    // The supervisor looks at all containers from time to time if it misses this thread.
                    tracing::error!(%error, "cannot await the ends of containers");
                    return;
                }
            };
            for token in events[..ready].iter().map(EpollEvent::data) {
                if token == STOP {
                    return;
                }
                // Closing the descriptor takes it out of the set.
                let ended = self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
                if let Some((_, end)) = ended
                    && sender.blocking_send(end).is_err()
                {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_told_at_once_and_once() {
        let (mut watcher, mut ends) = Watcher::new().expect("epoll works");
        let mut children: Vec<_> = (0..3)
            .map(|_| std::process::Command::new("sleep").arg("60").spawn().expect("sleep is installed"))
            .collect();
        let processes: Vec<_> = children.iter().map(|c| ProcessId::of(c.id()).expect("it was just started")).collect();
        for (at, process) in processes.iter().enumerate() {
            assert!(watcher.watch(at, *process).expect("no error"));
        }
        assert_eq!(ends.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        for at in [1, 0, 2] {
            children[at].kill().expect("it is ours");
            let end = tokio::time::timeout(Duration::from_secs(10), ends.recv()).await.expect("its end is told");
            assert_eq!(end, Some((at, processes[at])));
            children[at].wait().expect("it is ours");
            assert!(!watcher.watch(at, processes[at]).expect("no error"));
        }
        drop(watcher);
        assert_eq!(ends.recv().await, None, "the thread ends with its watcher");
    }
}
