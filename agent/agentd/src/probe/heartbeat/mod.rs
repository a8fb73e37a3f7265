//! Where services speak up by themselves: a unix datagram socket for each container that has such a service.
//!
//! ```text
//!  STATE_DIR/heartbeat/NAME/heartbeat   the socket, served by the agent
//!  /run/ringmesh/heartbeat              the same, in containers that the agent starts: the directory is mounted
//! ```
//!
//! The directory is mounted and not the socket, since the next agent makes another socket. NAME is that in the configuration:
//! a container's clones find what it found. Who sends to it is in the container, or is root on the host: the state directory
//! is closed to all others.

pub mod datagram;

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixDatagram as StdDatagram},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use datagram::{MAX_DATAGRAM, Malformed};
use ringmesh_node::{
    health::spec::{Check, ContainerSpec, Heartbeat},
    remedy::base,
};
use tokio::{net::UnixDatagram, sync::mpsc};

use super::answer;

/// The directory of the socket in a container.
pub const INSIDE: &str = "/run/ringmesh";

/// The name of the socket in its directory.
pub const SOCKET: &str = "heartbeat";

/// Bound of the channel to the host loop.
pub const HEARTBEAT_BOUND: usize = 256;

/// So many datagrams of a container are read at once.
const BURST: usize = 16;

/// The pause after what was read at once: a container that floods its socket waits for it, and so disturbs nobody.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the sockets of all containers are.
fn root(state_dir: &Path) -> PathBuf {
    state_dir.join("heartbeat")
}

/// The directory with the socket of a container, if one of its services speaks up.
pub fn directory(state_dir: &Path, container: &str) -> PathBuf {
    root(state_dir).join(base(container))
}

/// Makes the sockets of the containers that need one, removes those of others, and passes on what is said, in a thread of its
/// own. Without such a container there is no thread.
pub fn listen(state_dir: &Path, containers: &[ContainerSpec], heartbeats: mpsc::Sender<Heartbeat>) -> io::Result<()> {
    let root = root(state_dir);
    let names =
        containers.iter().filter(|container| speaks_up(container)).map(|container| base(&container.name).into());
    let names: Vec<String> = names.collect();
    forget_others(&root, &names.iter().map(String::as_str).collect())?;
    if names.is_empty() {
        return Ok(());
    }
    let sockets: io::Result<Vec<(String, StdDatagram)>> =
        names.into_iter().map(|name| Ok((name.clone(), bind(&root.join(name))?))).collect();
    let sockets = sockets?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
        runtime.block_on(async move {
            for (container, socket) in sockets {
                tokio::spawn(serve(container, socket, heartbeats.clone()));
            }
            // Until nobody listens any more.
            heartbeats.closed().await;
        });
    })?;
    Ok(())
}

fn speaks_up(container: &ContainerSpec) -> bool {
    container.services.iter().any(|service| matches!(*service.check, Check::Heartbeat { .. }))
}

/// Removes the directories of all containers but these.
pub(super) fn forget_others(root: &Path, names: &BTreeSet<&str>) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn bind(directory: &Path) -> io::Result<StdDatagram> {
    fs::create_dir_all(directory)?;
    let path = directory.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // By way of the open directory: the path itself may be longer than the 107 bytes of a socket's address.
    let open = File::open(directory)?;
    let socket = StdDatagram::bind(format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd()))?;
    socket.set_nonblocking(true)?;
    // The service may be anybody in its container.
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(socket)
}

async fn serve(container: String, socket: StdDatagram, heartbeats: mpsc::Sender<Heartbeat>) -> io::Result<()> {
    let socket = UnixDatagram::from_std(socket)?;
    loop {
        socket.readable().await?;
        for heartbeat in read(&container, &socket) {
            if heartbeats.send(heartbeat).await.is_err() {
                return Ok(());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What waits in the socket, not more than [`BURST`].
fn read(container: &str, socket: &UnixDatagram) -> Vec<Heartbeat> {
    // One byte more, to tell what is too long. Not kept while waiting: there may be thousands of sockets.
    let mut bytes = [0; MAX_DATAGRAM + 1];
    let mut read = Vec::new();
    for _ in 0..BURST {
        let Ok(len) = socket.try_recv(&mut bytes) else { break };
        match datagram::parse(&bytes[..len]) {
            Ok((service, beat, text)) => read.push(Heartbeat {
                container: container.to_owned(),
                service: service.to_owned(),
                beat,
                text: answer::clean(text),
            }),
            Err(error @ Malformed) => tracing::debug!(container, %error, "not a heartbeat"),
        }
    }
    read
}
