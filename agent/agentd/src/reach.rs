//! Asks the kernel of a host from which nothing comes whether it is there: it answers when the agent does not.
//!
//! Each agent listens on TCP at the address and port of its uplinks, and says nothing there. A connection is made by the
//! kernel, also for an agent that is stopped or starved; it is reset (RFC 9293 §3.10.7.1) where no agent runs; and nothing comes
//! back from a dead host. A datagram to a closed port says the second, too (RFC 1122 §3.2.2.1), but kernels limit how often. It
//! owns no judgement; a filter on the path makes all silent.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ringmesh_node::Reach;
use ringmesh_proto::{HostId, Uplink, member::Member};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// How long a kernel on the same network may take to answer.
const PATIENCE: Duration = Duration::from_millis(150);

/// Questions under way. One that finds no place is dropped: it is repeated as long as the host is silent.
const MAX_ASKED: usize = 64;

/// Bound of the channel of answers.
pub const REACHED_BOUND: usize = 256;

/// An answer, or that there was none.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// Of this host.
    pub host: HostId,
    /// Over this uplink.
    pub uplink: Uplink,
    /// What it says.
    pub reach: Reach,
}

/// Asks from this host's own addresses.
#[derive(Clone, Debug)]
pub struct Reacher {
    addresses: [Option<SocketAddr>; 2],
    answers: mpsc::Sender<Reached>,
    places: Arc<Semaphore>,
}

impl Reacher {
    /// Asks from `addresses`, one an uplink.
    pub fn new(addresses: [Option<SocketAddr>; 2], answers: mpsc::Sender<Reached>) -> Self {
        Self { addresses, answers, places: Arc::new(Semaphore::new(MAX_ASKED)) }
    }

    /// Asks a host over one uplink. The answer comes by the channel within [`PATIENCE`].
    pub fn ask(&self, to: Member, uplink: Uplink) {
        let (Some(from), Some(address)) = (self.addresses[uplink.index()], to.address(uplink)) else { return };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let reach = ask(from.ip(), address).await;
            drop(place);
            let _ = answers.send(Reached { host: to.id, uplink, reach }).await;
        });
    }
}

async fn ask(from: IpAddr, to: SocketAddr) -> Reach {
    let attempt = async {
        let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((from, 0).into())?;
        let stream = socket.connect(to).await?;
        // Ends with a reset: neither end is left in TIME_WAIT.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    };
    match timeout(PATIENCE, attempt).await {
        Ok(Ok(())) => Reach::Answers,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Reach::Refused,
        // It stood, and was turned away faster than we looked.
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => Reach::Answers,
        // No answer, or no way there.
        Ok(Err(_)) | Err(_) => Reach::Silent,
    }
}

/// Listens where others ask, as long as this process lives; nothing is said there. An address that cannot be had costs the
/// others time when this host dies, no more: it is warned of.
pub async fn listen(addresses: [Option<SocketAddr>; 2]) {
    for address in addresses.into_iter().flatten() {
        match TcpListener::bind(address).await {
            Ok(listener) => drop(tokio::spawn(turn_away(listener))),
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen on TCP: this host's end will be noticed late")
            }
        }
    }
}

async fn turn_away(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
            // Of the caller, or of too many open files: the kernel goes on answering.
            Err(_) => tokio::time::sleep(PATIENCE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_port_without_an_agent_refuses_and_one_with_a_mute_agent_answers() {
        // Never accepts, as an agent that is stopped.
        let agent = TcpListener::bind((HERE, 0)).await.expect("a port");
        let address = agent.local_addr().expect("bound");
        for _ in 0..100 {
            assert_eq!(ask(HERE, address).await, Reach::Answers, "the kernel takes the connection");
        }
        drop(agent);
        assert_eq!(ask(HERE, address).await, Reach::Refused);
        let agent = TcpListener::bind((HERE, 0)).await.expect("a port");
        let address = agent.local_addr().expect("bound");
        tokio::spawn(turn_away(agent));
        for _ in 0..100 {
            assert_eq!(ask(HERE, address).await, Reach::Answers);
        }
    }

    #[tokio::test]
    async fn an_address_that_no_kernel_has_is_silent() {
        // Of TEST-NET-1 (RFC 5737): not reachable from the loopback address.
        assert_eq!(ask(HERE, ([192, 0, 2, 1], 7400).into()).await, Reach::Silent);
    }
}
