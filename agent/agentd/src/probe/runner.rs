//! The process `ringmesh exec-runner`: starts an `exec-child` for each order, so that the threaded agent never forks.
//!
//! It has one thread, reads orders from the socket on its standard input, writes reports to it, and ends with it. It
//! passes orders on unread. A child whose standard input closes kills its program: nothing outlives the agent.

use std::{
    fs, io,
    os::fd::{AsFd, RawFd},
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedReadHalf},
    process::Command,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::order::{Frame, MAX_FRAME};

/// The most children at once, whatever the agent asks; it may ask for so many.
const MAX_CHILDREN: usize = 256;

/// Runs until standard input, a stream socket, is closed.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exec-runner: {error}; it is started by the agent, not by hand");
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<()> {
    close_inherited()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    // The address of anything but a socket is an error: said now rather than by a hanging read.
    socket.local_addr()?;
    runtime.block_on(async { serve(UnixStream::from_std(socket)?).await })
}

/// Closes what the agent's own parent left open in it: a program in a container must not find it.
fn close_inherited() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        inherited.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|fd| *fd > 2));
    }
    for fd in inherited {
        // This process has opened nothing yet but the directory above, which is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

async fn serve(socket: UnixStream) -> io::Result<()> {
    let (mut orders, mut socket) = socket.into_split();
    let (reports, mut outbox) = mpsc::channel::<Bytes>(MAX_CHILDREN);
    tokio::spawn(async move {
        while let Some(report) = outbox.recv().await {
            if socket.write_all(&report).await.is_err() {
                return;
            }
        }
    });
    let children = Arc::new(Semaphore::new(MAX_CHILDREN));
    let mut bytes = BytesMut::new();
    while let Some(order) = next(&mut orders, &mut bytes).await? {
        let permit = Arc::clone(&children).acquire_owned().await.expect("nobody closes the semaphore");
        let reports = reports.clone();
        tokio::spawn(async move {
            let payload = carry_out(&order).await.unwrap_or_default();
            if let Ok(report) = (Frame { number: order.number, limit_ms: 0, payload }).encode() {
                let _ = reports.send(report).await;
            }
            drop(permit);
        });
    }
    Ok(())
}

async fn next(orders: &mut OwnedReadHalf, bytes: &mut BytesMut) -> io::Result<Option<Frame>> {
    loop {
        if let Some(frame) = Frame::take(bytes).map_err(io::Error::other)? {
            return Ok(Some(frame));
        }
        if orders.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// The report of one child; empty if it had to be killed.
async fn carry_out(order: &Frame) -> io::Result<Bytes> {
    // The very binary that runs, even if an upgrade has replaced its file.
    let mut child =
        Command::new("/proc/self/exe").arg("exec-child").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lifeline = child.stdin.take().expect("it is piped");
    let report = child.stdout.take().expect("it is piped");
    let conversation = async {
        lifeline.write_u32(order.payload.len() as u32).await?;
        lifeline.write_all(&order.payload).await?;
        let mut bytes = Vec::new();
        report.take(MAX_FRAME as u64 / 2).read_to_end(&mut bytes).await?;
        Ok(Bytes::from(bytes))
    };
    let report = timeout(Duration::from_millis(order.limit_ms.into()), conversation).await;
    drop(lifeline);
    if report.is_err() {
        child.start_kill()?;
    }
    child.wait().await?;
    report?
}
