//! Whether the interfaces of the uplinks have a carrier and their addresses, as the kernel says it: at once.
//!
//! A thread of its own listens to route netlink's groups for links and addresses (rtnetlink(7)); questions go by other
//! sockets. What was missed, because the socket overran or otherwise, is found by asking for all and comparing: after an
//! overrun, and every 30 s. It owns no judgement: what a lost carrier means is the node's to say.
//!
//! An uplink whose address no interface has had yet is not watched: it may be one of those that the kernel takes for its own
//! without showing them, such as 127.0.0.2.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringmesh_proto::Uplink;
use rtnetlink::{
    MulticastGroup,
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkFlags, LinkMessage},
    },
    sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE},
};
use tokio::sync::mpsc;

use crate::counters::{Counters, count};

/// Bound of the channel of changes: both uplinks, some times over. The thread waits, the kernel keeps what comes meanwhile.
pub const CARRIER_BOUND: usize = 16;

/// Between two looks at everything when nothing is heard.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Bytes that the kernel keeps for us; it gives what it may.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// An uplink's interface changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Whose.
    pub uplink: Uplink,
    /// It has a carrier and its address.
    pub up: bool,
}

/// Tells of every change from now on, beginning with the uplinks that are not well now.
pub fn watch(
    addresses: [Option<SocketAddr>; 2],
    changes: mpsc::Sender<Carrier>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let mut monitor = Monitor { socket: subscribe()?, interfaces: Interfaces::new(addresses), told: [true; 2] };
    std::thread::Builder::new().name("carrier".into()).spawn(move || {
        // Subscribed first: what changes during the first look is heard after it.
        monitor.look();
        while monitor.tell(&changes) {
            monitor.listen(&counters);
        }
    })?;
    Ok(())
}

struct Monitor {
    socket: Socket,
    interfaces: Interfaces,
    told: [bool; 2],
}

impl Monitor {
    /// Waits for news and takes it.
    fn listen(&mut self, counters: &Counters) {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(0) => return self.look(),
            Ok(_) => {}
            // Interrupted.
            Err(_) => return,
        }
        match self.socket.recv_from_full() {
            Ok((bytes, _)) => {
                let mut unknown = None;
                for message in messages(&bytes) {
                    unknown = self.interfaces.apply(&message).or(unknown);
                }
                if let Some(index) = unknown {
                    self.ask_for(index);
                }
            }
            // ENOBUFS: the kernel had more to say than the socket holds.
            Err(error) => {
                count(&counters.carrier_overruns);
                tracing::debug!(%error, "netlink overrun; all is looked at");
                self.look();
            }
        }
    }

    /// Asks for everything, in place of what is known.
    fn look(&mut self) {
        let answers = match ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP) {
            Ok(answers) => answers,
            // What is known stays; the next look is soon.
            Err(error) => return tracing::warn!(%error, "cannot list this host's addresses"),
        };
        self.interfaces.forget();
        self.interfaces.apply_all(&answers);
        for index in self.interfaces.holders.into_iter().flatten() {
            self.ask_for(index);
        }
    }

    fn ask_for(&mut self, index: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        match ask(RouteNetlinkMessage::GetLink(link), 0) {
            Ok(answers) => self.interfaces.apply_all(&answers),
            // It is gone already; that is heard next.
            Err(error) => tracing::debug!(index, %error, "no such interface"),
        }
    }

    /// False when nobody listens any more.
    fn tell(&mut self, changes: &mpsc::Sender<Carrier>) -> bool {
        for uplink in Uplink::BOTH {
            let told = &mut self.told[uplink.index()];
            let Some(up) = self.interfaces.is_up(uplink).filter(|up| up != told) else { continue };
            *told = up;
            tracing::info!(%uplink, up, "the interface's carrier or address changed");
            if changes.blocking_send(Carrier { uplink, up }).is_err() {
                return false;
            }
        }
        !changes.is_closed()
    }
}

/// Which interfaces have the uplinks' addresses, and whether those have a carrier.
#[derive(Debug)]
struct Interfaces {
    wanted: [Option<IpAddr>; 2],
    holders: [Option<u32>; 2],
    carriers: [bool; 2],
    /// Its address was seen once.
    seen: [bool; 2],
}

impl Interfaces {
    fn new(addresses: [Option<SocketAddr>; 2]) -> Self {
        let wanted = addresses.map(|address| address.map(|address| address.ip()));
        Self { wanted, holders: [None; 2], carriers: [false; 2], seen: [false; 2] }
    }

    fn forget(&mut self) {
        self.holders = [None; 2];
        self.carriers = [false; 2];
    }

    /// Unknown as long as the uplink's address was never seen.
    fn is_up(&self, uplink: Uplink) -> Option<bool> {
        let place = uplink.index();
        self.seen[place].then_some(self.holders[place].is_some() && self.carriers[place])
    }

    /// Returns an interface that is to be asked for: it just got an uplink's address.
    fn apply(&mut self, message: &RouteNetlinkMessage) -> Option<u32> {
        if let RouteNetlinkMessage::NewAddress(address) = message {
            let (place, index) = (self.place_of(address)?, address.header.index);
            self.seen[place] = true;
            let news = self.holders[place].replace(index) != Some(index);
            // What is known is of the interface that had it before.
            self.carriers[place] &= !news;
            return news.then_some(index);
        }
        if let RouteNetlinkMessage::DelAddress(address) = message {
            let place = self.place_of(address)?;
            self.holders[place] = self.holders[place].filter(|holder| *holder != address.header.index);
        }
        if let RouteNetlinkMessage::NewLink(link) = message {
            let up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
            self.held_by(link.header.index).for_each(|(carrier, _)| *carrier = up);
        }
        if let RouteNetlinkMessage::DelLink(link) = message {
            self.held_by(link.header.index).for_each(|(carrier, holder)| (*carrier, *holder) = (false, None));
        }
        None
    }

    /// The answer to a question: who asked knows which interfaces to ask for.
    fn apply_all(&mut self, answers: &[RouteNetlinkMessage]) {
        for answer in answers {
            let _ = self.apply(answer);
        }
    }

    fn place_of(&self, message: &AddressMessage) -> Option<usize> {
        let is_own = |ip: &IpAddr| {
            let own = AddressAttribute::Local(*ip);
            // Of a point-to-point interface of IPv4 this one is the other end's.
            let own_v6 = AddressAttribute::Address(*ip);
            message.attributes.contains(&own) || ip.is_ipv6() && message.attributes.contains(&own_v6)
        };
        self.wanted.iter().position(|wanted| wanted.as_ref().is_some_and(is_own))
    }

    fn held_by(&mut self, index: u32) -> impl Iterator<Item = (&mut bool, &mut Option<u32>)> {
        self.carriers.iter_mut().zip(&mut self.holders).filter(move |(_, holder)| **holder == Some(index))
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // It works with a smaller one, too.
    let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER as u32);
    for group in [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr] {
        socket.add_membership(group as u32)?;
    }
    Ok(socket)
}

/// One question and all of its answer.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(question);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for payload in payloads(&bytes) {
            match payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(answers),
                NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => {}
                // The library may learn of others.
                #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
                _ => {}
            }
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(answers);
        }
    }
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = RouteNetlinkMessage> {
    payloads(bytes).filter_map(|payload| {
        let NetlinkPayload::InnerMessage(message) = payload else { return None };
        Some(message)
    })
}

/// What one read brought. A message that this library does not understand is skipped.
fn payloads(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkPayload<RouteNetlinkMessage>> {
    std::iter::from_fn(move || {
        while bytes.len() >= 4 {
            let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            if !(16..=bytes.len()).contains(&len) {
                return None;
            }
            let (message, rest) = bytes.split_at(len);
            bytes = &rest[(len.next_multiple_of(4) - len).min(rest.len())..];
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message.payload);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 4] = [10, 77, 0, 1];

    fn address(add: bool, ip: [u8; 4], index: u32) -> RouteNetlinkMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(IpAddr::from(ip)), AddressAttribute::Address(ip.into())];
        if add { RouteNetlinkMessage::NewAddress(message) } else { RouteNetlinkMessage::DelAddress(message) }
    }

    fn link(index: u32, flags: LinkFlags) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        RouteNetlinkMessage::NewLink(message)
    }

    #[test]
    fn an_uplink_is_up_while_its_address_is_on_an_interface_with_a_carrier() {
        let mut gone = LinkMessage::default();
        gone.header.index = 7;
        let (up, plugged) = (LinkFlags::Up, LinkFlags::Up | LinkFlags::LowerUp);
        let steps = [
            (link(3, plugged), None, "an interface of others"),
            (address(true, [10, 77, 0, 9], 3), None, "an address of others"),
            (address(true, A, 3), Some(false), "the interface was not asked for yet"),
            (link(3, plugged), Some(true), ""),
            (link(3, up), Some(false), "unplugged"),
            (link(4, plugged), Some(false), "another interface"),
            (link(3, plugged), Some(true), ""),
            (address(false, A, 4), Some(true), "from an interface that does not hold it"),
            (address(false, A, 3), Some(false), "the address was taken away"),
            (address(true, A, 7), Some(false), "on another interface"),
            (link(7, plugged), Some(true), ""),
            (RouteNetlinkMessage::DelLink(gone), Some(false), "the interface is gone"),
        ];
        let mut interfaces = Interfaces::new([Some((A, 7400).into()), None]);
        for (message, expected, why) in steps {
            let asked = interfaces.apply(&message);
            let gains = matches!(&message, RouteNetlinkMessage::NewAddress(new) if new.attributes.contains(&AddressAttribute::Local(A.into())));
            assert_eq!(asked.is_some(), gains, "{why}");
            assert_eq!(interfaces.is_up(Uplink::A), expected, "{why}");
            assert_eq!(interfaces.is_up(Uplink::B), None);
        }
    }

    #[test]
    fn this_machine_can_be_asked_and_cut_messages_are_no_harm() {
        let answers = ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP);
        assert!(answers.is_ok(), "{answers:?}");
        assert!(ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), 0).is_err(), "interface 0 is none");
        for len in 0..20 {
            assert_eq!(messages(&vec![20; len]).count(), 0);
        }
    }
}
