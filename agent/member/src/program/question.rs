//! Questions that the agent asks of the container: connections, each until its deadline, and files, at once.

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use ringmesh_member::{
    inside::Ask,
    message::{Address, Answer, MAX_HEARD, Question, Word},
};
use rustix::{
    event::{PollFd, PollFlags},
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
        sockopt,
    },
    time::{ClockId, clock_gettime},
};

use super::Gone;

/// Connections under way at once. The agent asks each service once at a time, and a container has some.
const MAX_UNDER_WAY: usize = 32;

/// How a word reaches the agent.
type Say<'a> = dyn FnMut(&[u8]) -> Result<(), Gone> + 'a;

/// All under way.
#[derive(Default)]
pub(crate) struct Questions {
    under_way: Vec<Connection>,
}

struct Connection {
    number: u32,
    deadline: Duration,
    socket: OwnedFd,
    connected: bool,
    listen: bool,
    unsent: Vec<u8>,
    heard: Vec<u8>,
}

impl Questions {
    /// Asks, and says the answer if it is known at once.
    pub(crate) fn begin(&mut self, ask: Ask<'_>, say: &mut Say<'_>) -> Result<(), Gone> {
        match ask.question {
            Question::File(path) => answer(say, ask.number, file(path)),
            Question::Connect { .. } if self.under_way.len() == MAX_UNDER_WAY => answer(say, ask.number, Answer::Busy),
            Question::Connect { to, send, listen } => match dial(to) {
                Ok(socket) => {
                    let connection = Connection {
                        number: ask.number,
                        deadline: ask.deadline,
                        socket,
                        connected: false,
                        listen,
                        unsent: send.into(),
                        heard: Vec::new(),
                    };
                    self.under_way.push(connection);
                    Ok(())
                }
                Err(errno) => answer(say, ask.number, failed(errno)),
            },
        }
    }

    /// The first deadline.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.iter().map(|connection| connection.deadline).min()
    }

    /// Adds what is waited for, in the order in which [`Self::go_on`] wants to hear of it.
    pub(crate) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.under_way.iter().map(|connection| {
            let writes = !connection.connected || !connection.unsent.is_empty();
            PollFd::new(&connection.socket, if writes { PollFlags::OUT } else { PollFlags::IN })
        }));
    }

    /// Goes on with those that are ready, and gives up those whose time is over. One that has begun since is not in `ready`.
    pub(crate) fn go_on(&mut self, now: Duration, ready: &[bool], say: &mut Say<'_>) -> Result<(), Gone> {
        for at in (0..self.under_way.len()).rev() {
            let connection = &mut self.under_way[at];
            let ready = ready.get(at).copied().unwrap_or(false);
            let ended = ready && connection.go_on(say)?;
            if ended || connection.deadline <= now {
                self.under_way.swap_remove(at);
            }
        }
        Ok(())
    }
}

impl Connection {
    /// True when there is nothing more to hear.
    fn go_on(&mut self, say: &mut Say<'_>) -> Result<bool, Gone> {
        match self.step() {
            Ok(false) => Ok(false),
            Ok(true) => {
                let ended = !self.listen || self.heard.len() == MAX_HEARD;
                self.report(ended, say)?;
                Ok(ended)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            // It said something, and then the connection broke: that is its end.
            Err(Errno::SHUTDOWN) => self.report(true, say).map(|()| true),
            Err(errno) if self.heard.is_empty() => answer(say, self.number, failed(errno)).map(|()| true),
            Err(_) => self.report(true, say).map(|()| true),
        }
    }

    /// One step; true when there is something to report.
    fn step(&mut self) -> Result<bool, Errno> {
        if !self.connected {
            sockopt::socket_error(&self.socket)??;
            self.connected = true;
        }
        if !self.unsent.is_empty() {
            let sent = send(&self.socket, &self.unsent, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
            self.unsent.drain(..sent);
        }
        if !self.unsent.is_empty() {
            return Ok(false);
        }
        if !self.listen {
            return Ok(true);
        }
        let mut bytes = [0_u8; MAX_HEARD];
        match recv(&self.socket, &mut bytes[self.heard.len()..], RecvFlags::DONTWAIT)? {
            (_, 0) => Err(Errno::SHUTDOWN),
            (len, _) => {
                let start = self.heard.len();
                self.heard.extend_from_slice(&bytes[start..start + len]);
                Ok(true)
            }
        }
    }

    fn report(&self, ended: bool, say: &mut Say<'_>) -> Result<(), Gone> {
        answer(say, self.number, Answer::Heard { bytes: &self.heard, ended })
    }
}

fn answer(say: &mut Say<'_>, number: u32, answer: Answer<'_>) -> Result<(), Gone> {
    Word::Answer { number, answer }.encode().map_or(Ok(()), |packet| say(&packet))
}

fn failed(errno: Errno) -> Answer<'static> {
    Answer::Failed(errno.raw_os_error().unsigned_abs() as u16)
}

fn dial(to: Address<'_>) -> Result<OwnedFd, Errno> {
    let open = |family| socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
    let connected = |result: Result<(), Errno>, socket| match result {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    };
    match to {
        Address::Tcp(address) => {
            let socket = open(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
            // As the agent's own: the connection ends with a reset, and leaves nothing waiting.
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
            let result = match address {
                SocketAddr::V4(address) => connect(&socket, &address),
                SocketAddr::V6(address) => connect(&socket, &address),
            };
            connected(result, socket)
        }
        Address::Unix(path) => {
            let socket = open(AddressFamily::UNIX)?;
            connected(connect(&socket, &SocketAddrUnix::new(path)?), socket)
        }
        Address::Abstract(name) => {
            let socket = open(AddressFamily::UNIX)?;
            connected(connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?), socket)
        }
    }
}

fn file(path: &str) -> Answer<'static> {
    match rustix::fs::stat(path) {
        Ok(stat) => {
            let now = clock_gettime(ClockId::Realtime);
            let age = (now.tv_sec - stat.st_mtime) * 1000 + (now.tv_nsec - stat.st_mtime_nsec as i64) / 1_000_000;
            Answer::File { age_ms: age.max(0) as u64, size: stat.st_size as u64 }
        }
        Err(errno) => failed(errno),
    }
}
