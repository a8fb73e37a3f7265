//! The socket in a container, and the connection of its member.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{UnixDatagram as StdDatagram, UnixListener as StdListener},
        },
    },
    path::Path,
};

use ringmesh_member::{PROGRAM, message::MAX_PACKET};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    net::{UnixDatagram, UnixListener, UnixStream},
    time::sleep,
};

use super::{PAUSE, directory, prepare};

/// Connections that wait to be taken: one, and what others in the container try.
const BACKLOG: i32 = 4;

/// The socket in a container's directory.
pub(super) struct Listener(UnixListener);

/// A member's connection, and the process at its other end. Of sequenced packets: connected as a stream is, with an end that is
/// seen, and read as datagrams are, one packet at a time.
pub(super) struct Connection {
    socket: UnixDatagram,
    process: OwnedFd,
}

impl Listener {
    /// Takes the place of the one before it, if there was one.
    pub(super) fn bind(state_dir: &Path, container: &str) -> io::Result<Self> {
        prepare(state_dir, container)?;
        let directory = directory(state_dir, container);
        let path = directory.join("socket");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // By way of the open directory: the path itself may be longer than the 107 bytes of a socket's address.
        let open = File::open(&directory)?;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(format!("/proc/self/fd/{}/socket", open.as_raw_fd()))?)?;
        socket.listen(BACKLOG)?;
        // The container may have another root.
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        UnixListener::from_std(StdListener::from(OwnedFd::from(socket))).map(Self)
    }

    /// The next connection of a process that runs the program of the container with this first process. Others are closed.
    pub(super) async fn accept(&self, container: u32) -> io::Result<Connection> {
        loop {
            let (socket, _) = self.0.accept().await?;
            match Connection::of(socket, container) {
                Ok(connection) => return Ok(connection),
                Err(error) => tracing::debug!(%error, "a connection that is no member's"),
            }
            // Whoever else is in the container may call as often as it likes.
            sleep(PAUSE).await;
        }
    }
}

impl Connection {
    fn of(socket: UnixStream, container: u32) -> io::Result<Self> {
        let pid = socket.peer_cred()?.pid().ok_or(ErrorKind::NotFound)?;
        let process = Pid::from_raw(pid).ok_or(ErrorKind::NotFound)?;
        // From here on it is the same process, or has ended.
        let process = pidfd_open(process, PidfdFlags::empty())?;
        let is = |path: String| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
        if is(format!("/proc/{pid}/exe"))? != is(format!("/proc/{container}/root{PROGRAM}"))? {
            return Err(io::Error::other("it runs another program"));
        }
        let socket = StdDatagram::from(OwnedFd::from(socket.into_std()?));
        Ok(Self { socket: UnixDatagram::from_std(socket)?, process })
    }

    /// The next packet; empty at the end of the connection.
    pub(super) async fn read(&self) -> io::Result<Vec<u8>> {
        loop {
            self.socket.readable().await?;
            // Not kept while waiting: there may be thousands of members.
            let mut packet = [0; MAX_PACKET + 1];
            match self.socket.try_recv(&mut packet) {
                Ok(len) => return Ok(packet[..len].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Says something. What there is no room for is lost: a member that does not read is waited for by nobody.
    pub(super) fn say(&self, packet: &[u8]) -> io::Result<()> {
        match self.socket.try_send(packet) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// Ends the process, whatever it does.
    pub(super) fn kill(&self) {
        // Fails only if it has ended.
        let _ = pidfd_send_signal(self.process.as_fd(), Signal::KILL);
    }
}
