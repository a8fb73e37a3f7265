//! Asks the kernel of a host from which nothing comes whether it is there: it answers when the agent does not.
//!
//! Two questions at once, both to the agent's own port. A datagram to a closed port comes back as "port unreachable"
//! (RFC 1122 §3.2.2.1): the agent is gone. A TCP connection is reset (RFC 9293 §3.10.7.1), for the agent does not listen on TCP
//! there: the host is alive. It owns no judgement; a filter on the path makes both silent.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ringmesh_node::Reach;
use ringmesh_proto::{HostId, Uplink, member::Member};
use tokio::{
    net::{TcpSocket, UdpSocket},
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
    let (refused, answers) =
        tokio::join!(timeout(PATIENCE, is_refused(from, to)), timeout(PATIENCE, answers(from, to)));
    match (refused.is_ok_and(|refused| refused), answers.is_ok_and(|answers| answers)) {
        (true, _) => Reach::Refused,
        (false, true) => Reach::Answers,
        (false, false) => Reach::Silent,
    }
}

/// Whether a datagram comes back as undeliverable. One byte is no QUIC packet: an agent that is there drops it.
async fn is_refused(from: IpAddr, to: SocketAddr) -> bool {
    let attempt = async {
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect(to).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 1]).await
    };
    attempt.await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Whether a connection is refused, or even taken.
async fn answers(from: IpAddr, to: SocketAddr) -> bool {
    let attempt = async {
        let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((from, 0).into())?;
        socket.connect(to).await
    };
    match attempt.await {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_port_without_an_agent_refuses_and_one_with_a_mute_agent_answers() {
        let agent = UdpSocket::bind((HERE, 0)).await.expect("a port");
        let address = agent.local_addr().expect("bound");
        assert_eq!(ask(HERE, address).await, Reach::Answers, "the port is open, and nothing answers there");
        drop(agent);
        assert_eq!(ask(HERE, address).await, Reach::Refused);
    }

    #[tokio::test]
    async fn an_address_that_no_kernel_has_is_silent() {
        // Of TEST-NET-1 (RFC 5737): not reachable from the loopback address.
        assert_eq!(ask(HERE, ([192, 0, 2, 1], 7400).into()).await, Reach::Silent);
    }
}
