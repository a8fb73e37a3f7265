//! `ringmesh-member`: the process in a container that answers for it. Its agent starts it, and it ends with its agent.
//!
//! It owns one socket to the agent and those of the questions under way, waits for all of them in one place, and judges
//! nothing. It has no arguments and no configuration, says nothing but to the agent, and needs no file of the container: no
//! C library, no /proc, no /dev.

#![no_std]
#![no_main]

extern crate alloc;

#[cfg(not(panic = "abort"))]
compile_error!("build it with `--profile member`, see docs/decisions/0017");

mod question;
mod start;

use alloc::{vec, vec::Vec};
use core::time::Duration;

use ringmesh_member::{
    SOCKET,
    inside::Inside,
    message::{MAX_PACKET, Order},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
    },
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs},
    time::{ClockId, clock_gettime},
};

use question::Questions;

/// The agent takes connections one by one, and may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Packets of the agent that are taken before anything else has its turn.
const BURST: usize = 32;

#[global_allocator]
static MEMORY: rustix_dlmalloc::GlobalDlmalloc = rustix_dlmalloc::GlobalDlmalloc;

/// Where nobody reads what a panic says.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Returns what the process ends with: 0 if its agent went away, 1 if it was never there.
extern "C" fn main() -> i32 {
    shed();
    let Some(agent) = call() else { return 1 };
    let mut member = Member { agent, inside: Inside::default(), questions: Questions::default() };
    while member.turn().is_ok() {}
    0
}

/// Gives up what it came with and does not need: all powers of the container's first process but those to reach any file
/// and socket of the container, and to be looked into by others. One that was refused is one that it never had.
fn shed() {
    let _ = set_no_new_privs(true);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Ok(mut sets) = capabilities(None) {
        sets.permitted &= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        sets.effective &= sets.permitted;
        sets.inheritable = CapabilitySet::empty();
        let _ = set_capabilities(None, sets);
    }
}

fn call() -> Option<OwnedFd> {
    let address = SocketAddrUnix::new(SOCKET).ok()?;
    let until = now() + PATIENCE;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).ok()?;
        if connect(&socket, &address).is_ok() {
            return Some(socket);
        }
        if now() >= until {
            return None;
        }
        let _ = poll(&mut [], Some(&timespec(PAUSE)));
    }
}

struct Member {
    agent: OwnedFd,
    inside: Inside,
    questions: Questions,
}

/// The agent has gone.
struct Gone;

impl Member {
    /// Waits until there is something to do, and does it.
    fn turn(&mut self) -> Result<(), Gone> {
        let due = self.inside.poll_timeout().into_iter().chain(self.questions.poll_timeout()).min();
        let span = due.map(|due| timespec(due.saturating_sub(now())));
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&self.agent, PollFlags::IN)];
        self.questions.watch(&mut fds);
        match poll(&mut fds, span.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Gone),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            // What waits is read before timers run: after a pause of this process the answers are there.
            self.read()?;
        }
        self.inside.handle_timeout(now());
        let agent = &self.agent;
        let mut answer = |packet: &[u8]| say(agent, packet);
        self.questions.go_on(now(), &ready[1..], &mut answer)?;
        while let Some(packet) = self.inside.poll_transmit() {
            say(&self.agent, &packet)?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Gone> {
        let mut packet = [0_u8; MAX_PACKET + 1];
        for _ in 0..BURST {
            let len = match recv(&self.agent, &mut packet[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(Gone),
                Ok((len, _)) => len,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(_) => return Err(Gone),
            };
            // Another version, or nothing that we know: the agent waits in vain, and says so.
            let Ok(order) = Order::decode(&packet[..len]) else { continue };
            if let Some(ask) = self.inside.handle(now(), order) {
                let agent = &self.agent;
                self.questions.begin(ask, &mut |packet| say(agent, packet))?;
            }
        }
        Ok(())
    }
}

/// Waits if the agent does not read: there is nobody else to be there for.
fn say(agent: &OwnedFd, packet: &[u8]) -> Result<(), Gone> {
    match send(agent, packet, SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(_) => Err(Gone),
    }
}

/// Since the start of the machine.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn timespec(span: Duration) -> Timespec {
    Timespec { tv_sec: span.as_secs() as i64, tv_nsec: span.subsec_nanos().into() }
}
